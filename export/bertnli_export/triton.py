"""A bundle as a model of Triton Inference Server: its files where Triton expects them, and config.pbtxt.

    config.pbtxt   inputs, outputs, batching, where it runs
    labels.txt     label names, for Triton's classification extension (whose scores are logits here); not for a model
                   that gives a score
    1/model.onnx   the graph; 1 is Triton's version of the model

The bundle's other files stay beside them: Triton ignores what it does not know, and a client tokenises with
tokenizer.json and config.json. config.pbtxt does not name the model, so Triton takes the folder's name, also after it
is renamed. Triton's ONNX Runtime has to support the graph's opset, which manifest.json names: it has to be at least as
new as the version in pyproject.toml.

What a client does (examples/serve_with_triton.py is one): Triton joins requests into one batch only if their pairs are
padded to the same length. A client that sends pairs one by one therefore pads them to one of a few lengths, with 0 in
attention_mask. A client that sends many pairs in a request pads them to the longest. Neither changes a score.

Sources: Triton's user guide, "Model Repository", "Model Configuration", "Batchers" and "Ragged Batching".
"""

from __future__ import annotations

from pathlib import Path

from bertnli.data.outputs import Outputs
from bertnli_export.interface import INPUTS, OUTPUT
from bertnli_export.manifest import LABELS, MODEL

NAME = "nli"  # of the model's folder in the model repository

# Where each precision runs. KIND_AUTO: on the GPUs, if there are any.
_KIND = {"fp32": "KIND_AUTO", "fp16": "KIND_GPU", "int8": "KIND_CPU"}
# Starting values, to be tuned for the machine and its load (Triton's Model Analyzer does that).
_MAX_BATCH = {"fp32": 64, "fp16": 256, "int8": 32}  # pairs
_MAX_DELAY = 2000  # microseconds that a request waits for others to join its batch


def arrange_files(folder: Path, outputs: Outputs, precision: str) -> None:
    """Make a Triton model of the files of a bundle that is being written."""
    (folder / "1").mkdir()
    (folder / MODEL).rename(folder / "1" / MODEL)
    if outputs.problem_type != "regression":
        (folder / LABELS).write_text("".join(f"{label}\n" for label in outputs.names), encoding="utf-8")
    (folder / "config.pbtxt").write_text(config(outputs, precision), encoding="utf-8")


def config(outputs: Outputs, precision: str) -> str:
    """config.pbtxt (Triton's `ModelConfig` in protobuf's text format) of a bundle whose graph has these outputs.

    It gives no preferred batch sizes: Triton then makes batches as large as it can. Its guide advises this if no size
    is faster than the sizes around it.
    """
    inputs = ",\n".join(f'  {{ name: "{name}" data_type: TYPE_INT64 dims: [ -1 ] }}' for name in INPUTS)
    note = "# On an x86 CPU without VNNI int8 gives NaN: serve fp32 there.\n" if precision == "int8" else ""
    names = "" if outputs.problem_type == "regression" else f' label_filename: "{LABELS}"'
    return f"""\
{note}backend: "onnxruntime"
max_batch_size: {_MAX_BATCH[precision]}
input [
{inputs}
]
output [
  {{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ {len(outputs.names)} ]{names} }}
]
dynamic_batching {{ max_queue_delay_microseconds: {_MAX_DELAY} }}
instance_group [ {{ count: 1 kind: {_KIND[precision]} }} ]
"""
