"""Our model as an ONNX graph whose attention is ONNX's own `Attention` operator, one for each layer.

One call of torch's dynamo exporter. `flat.py` has the model in a form whose attention is that operator, which ONNX
Runtime runs as one kernel; nothing here looks for a pattern to fuse. What came out is counted and checked all the same.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from bertnli.common.errors import InputError, RunError
from bertnli.model.attention import Padded
from bertnli.model.classifier import PairClassifier
from bertnli_export.graphs.exported_model import FlatClassifier, rebuild
from bertnli_export.interface import INPUTS, OUTPUT

OPSET = 23  # the first with Attention

# Operators that are a whole attention: (domain, name).
FUSED_ATTENTION = {("", "Attention"), ("com.microsoft", "PackedMultiHeadAttention")}

_MEND = "install the versions in constraints.txt"
_LARGEST = 2**31 - 2**20  # bytes of one protobuf file, and a little room for the graph itself


def export_graph(model: PairClassifier, form: FlatClassifier | None = None) -> onnx.ModelProto:
    """The graph of `model`, batch and length dynamic, passed by onnx's checker; see `fused_attention`.

    form: it as it shall be exported; left out, in fp32.

    Raises InputError if the weights do not fit one file, RunError if torch cannot export it or if what comes out has
    other inputs, outputs or axes than a bundle's graph.
    """
    check_size(model, bytes_per_weight=4)
    # Sizes of 0 and 1 would be taken for constants; equal ones for one and the same axis.
    batch, length = 2, min(7, model.config.max_positions)
    axes = {
        0: torch.export.Dim("batch", min=1),
        1: torch.export.Dim("length", min=2, max=model.config.max_positions),
    }
    example = {name: torch.full((batch, length), int(name == "attention_mask")) for name in INPUTS}
    with _quiet():
        try:
            program = torch.onnx.export(
                form or rebuild(model),
                kwargs=example,
                dynamo=True,
                opset_version=OPSET,
                input_names=INPUTS,
                output_names=[OUTPUT],
                dynamic_shapes=dict.fromkeys(INPUTS, axes),
                verbose=False,
            )
        except Exception as error:  # the exporter has many errors and no common class for them
            reason = " ".join(str(error).split())[:300]
            raise RunError(f"torch {torch.__version__} cannot export this model: {reason}", do=_MEND) from error
    assert program is not None
    graph = program.model_proto
    _strip(graph)
    check(graph, len(model.config.labels))
    return graph


def check_size(model: PairClassifier, bytes_per_weight: int) -> None:
    """Raise InputError if the weights do not fit one ONNX file."""
    size = sum(parameter.numel() * bytes_per_weight for parameter in model.parameters())
    if size > _LARGEST:
        raise InputError("the model is too large for one ONNX file", found=f"{size:,} bytes", expected=f"{_LARGEST:,}")


def torch_logits(model: PairClassifier, *batch: NDArray[np.int64]) -> NDArray[np.float32]:
    """What `Session.logits` gives, from the checkpoint itself: the reference."""
    with torch.inference_mode():
        ids, mask, segments = (torch.from_numpy(part) for part in batch)
        result = model.cpu().eval()(ids, segments, Padded(mask))
    return result.float().numpy()


def fused_attention(graph: onnx.ModelProto) -> dict[str, int]:
    """How many nodes compute a whole attention, by operator."""
    found = Counter((node.domain, node.op_type) for node in graph.graph.node)
    return {"::".join(filter(None, key)): found[key] for key in sorted(FUSED_ATTENTION) if found[key]}


def opset_of(graph: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return next(entry.version for entry in graph.opset_import if not entry.domain)


def add_metadata(graph: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Put `bertnli.KEY` entries into the graph's own metadata, for those who find the file without its bundle."""
    for key, value in entries.items():
        graph.metadata_props.add(key=f"bertnli.{key}", value=value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not installed and on its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(graph: onnx.ModelProto) -> None:
    """Remove the exporter's notes: they hold paths of this machine, so the same model would not give the same file.

    The value_info of initializers goes too: it says nothing new, and is wrong as soon as a weight is quantised.
    """
    weights = {tensor.name for tensor in graph.graph.initializer}
    kept = [value for value in graph.graph.value_info if value.name not in weights]
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(kept)
    noted = (graph.graph.node, graph.graph.value_info, graph.graph.input, graph.graph.output, graph.graph.initializer)
    for part in (graph, graph.graph, *(entry for entries in noted for entry in entries)):
        del part.metadata_props[:]
        part.doc_string = ""


def check(graph: onnx.ModelProto, labels: int) -> None:
    """Raise RunError unless onnx's checker passes it and its inputs, outputs and axes are those of a bundle's graph."""
    try:
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"onnx's checker refuses the exported graph: {reason}", do=_MEND) from error
    inputs = {value.name: _type_and_axes(value) for value in graph.graph.input}
    outputs = {value.name: _type_and_axes(value) for value in graph.graph.output}
    expected_inputs = {name: ("INT64", ["batch", "length"]) for name in INPUTS}
    for what, found, expected in (
        ("input", inputs, expected_inputs),
        ("output", outputs, {OUTPUT: ("FLOAT", ["batch", labels])}),
    ):
        if list(found) != list(expected):
            raise RunError(f"the exported graph's {what}s", found=", ".join(found), expected=", ".join(expected))
        for name, (kind, axes) in found.items():
            if kind != expected[name][0]:
                raise RunError(f"the exported graph's {what} {name}: type", found=kind, expected=expected[name][0])
            if axes != expected[name][1]:
                raise RunError(
                    f"the exported graph's {what} {name}: axes", found=str(axes), expected=str(expected[name][1])
                )


def _type_and_axes(value: onnx.ValueInfoProto) -> tuple[str, list[str | int]]:
    tensor = value.type.tensor_type
    return onnx.TensorProto.DataType.Name(tensor.elem_type), [
        axis.dim_param or axis.dim_value for axis in tensor.shape.dim
    ]
