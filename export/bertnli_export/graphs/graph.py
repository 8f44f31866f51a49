"""The model as an ONNX graph whose attention is ONNX's own `Attention` operator, one for each layer.

It is one call of torch's dynamo exporter. exported_model.py gives the model a form whose attention is that operator,
which ONNX Runtime runs as one kernel, so nothing has to be fused afterwards. The result is still counted and checked.
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
from torch import nn

from bertnli.common.errors import InputError, RunError, first_line
from bertnli.model.attention import Padded
from bertnli.model.classifier import PairClassifier
from bertnli_export.graphs.exported_model import for_export
from bertnli_export.interface import INPUTS, OUTPUT

OPSET = 23  # the first that has Attention

# Operators that compute a complete attention: (domain, name).
FUSED_ATTENTION = {
    ("", "Attention"),
    ("com.microsoft", "MultiHeadAttention"),
    ("com.microsoft", "PackedMultiHeadAttention"),
}

_FIX = "install the versions in constraints.txt"
_LARGEST = 2**31 - 2**20  # bytes of weights: protobuf's limit of a file, less some room for the graph


def export_graph(model: PairClassifier, form: nn.Module | None = None) -> onnx.ModelProto:
    """The graph of `model`, with dynamic batch and length, checked by onnx's checker.

    form: the module that is exported, with the three inputs; default: what `for_export` makes for fp32.

    Raises InputError if the weights do not fit one file, RunError if torch cannot export the model or if the graph has
    other inputs, outputs or axes than a bundle's.
    """
    check_size(model, bytes_per_weight=4)
    # The exporter takes sizes of 0 and 1 for constants, and equal sizes for the same axis.
    batch, length = 2, min(7, model.config.max_positions)
    axes = {
        0: torch.export.Dim("batch", min=1),
        1: torch.export.Dim("length", min=2, max=model.config.max_positions),
    }
    example = {name: torch.full((batch, length), int(name == "attention_mask")) for name in INPUTS}
    with _quiet():
        try:
            program = torch.onnx.export(
                form or for_export(model),
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
            raise RunError(f"torch {torch.__version__} cannot export this model: {reason}", do=_FIX) from error
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
    """The logits of the checkpoint itself, in the form of `Session.logits`: the reference."""
    with torch.inference_mode():
        ids, mask, segments = (torch.from_numpy(part) for part in batch)
        result = model.cpu().eval()(ids, segments, Padded(mask))
    return result.float().numpy()


def fused_attention(graph: onnx.ModelProto) -> dict[str, int]:
    """The number of nodes that compute a complete attention, by operator."""
    found = Counter((node.domain, node.op_type) for node in graph.graph.node)
    return {"::".join(filter(None, key)): found[key] for key in sorted(FUSED_ATTENTION) if found[key]}


def opset_of(graph: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return next(entry.version for entry in graph.opset_import if not entry.domain)


def add_metadata(graph: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Put `bertnli.KEY` entries into the graph's own metadata, in case the file is separated from its bundle."""
    for key, value in entries.items():
        graph.metadata_props.add(key=f"bertnli.{key}", value=value)


def without_token_types(graph: onnx.ModelProto) -> None:
    """Take `token_type_ids` away from the graph's inputs: every token has type 0."""
    ids, types = INPUTS[0], INPUTS[2]
    inputs = graph.graph.input
    inputs.remove(next(value for value in inputs if value.name == types))
    if any(types in node.input for node in graph.graph.node):
        graph.graph.node.insert(0, onnx.helper.make_node("Sub", [ids, ids], [types], "node_no_types"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the exporter's warnings about packages that are not installed and about its own deprecations."""
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

    The value_info of initializers goes as well: it is redundant, and wrong once a weight is quantised.
    """
    weights = {tensor.name for tensor in graph.graph.initializer}
    kept = [value for value in graph.graph.value_info if value.name not in weights]
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(kept)
    with_notes = (
        graph.graph.node,
        graph.graph.value_info,
        graph.graph.input,
        graph.graph.output,
        graph.graph.initializer,
    )
    for part in (graph, graph.graph, *(entry for entries in with_notes for entry in entries)):
        del part.metadata_props[:]
        part.doc_string = ""


def check(graph: onnx.ModelProto, labels: int) -> None:
    """Raise RunError unless onnx's checker accepts it and it has the inputs, outputs and axes of a bundle's graph."""
    try:
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:
        raise RunError(f"onnx's checker refuses the exported graph: {first_line(error)}", do=_FIX) from error
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
