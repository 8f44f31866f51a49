"""The precisions that a bundle can have, and the function that makes the graph of each."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from bertnli.data.encoded import Encoded
from bertnli.model.classifier import PairClassifier
from bertnli_export.graphs.fp16 import fp16_graph
from bertnli_export.graphs.graph import export_graph
from bertnli_export.graphs.int8 import export_int8

EXPORTERS: dict[str, Callable[[PairClassifier, Encoded], onnx.ModelProto]] = {
    "fp32": lambda model, typical: export_graph(model),
    "fp16": lambda model, typical: fp16_graph(model),
    "int8": export_int8,
}
"""Each takes the model and some typical pairs."""
