"""The precisions that a bundle can have, and who makes the graph of each."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from bertnli.model import PairClassifier
from export.fp16 import fp16_graph
from export.graph import export_graph
from export.int8 import export_int8

GRAPHS: dict[str, Callable[[PairClassifier], onnx.ModelProto]] = {
    "fp32": export_graph,
    "fp16": fp16_graph,
    "int8": export_int8,
}
