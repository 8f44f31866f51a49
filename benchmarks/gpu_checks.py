"""What a GPU must compute correctly before anything is timed on it. Without a GPU the same code runs on the CPU."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.peers import hf
from benchmarks.peers.bertnli_train import steps_of, train
from benchmarks.work import MAX_LENGTH, Work


@dataclass
class Check:
    """One figure and its limit; skipped: why it was not checked; of: what is not timed if it is wrong."""

    what: str
    found: float = 0.0
    limit: float = 0.0
    right: bool = False
    skipped: str = ""
    of: str = "training"


def _at_most(what: str, found: float, limit: float) -> Check:
    return Check(what, found, limit, right=found <= limit)  # a NaN is wrong


def attention(given: Work) -> list[Check]:
    """Packed against padded attention in fp32: logits within 1e-5, gradients of the mean loss within 1e-4."""
    packed, padded = _pass(given, padded=False), _pass(given, padded=True)
    return [
        _at_most("packed against padded, fp32: logits", _largest(packed[:1], padded[:1]), 1e-5),
        _at_most("packed against padded, fp32: gradients", _largest(packed[1:], padded[1:]), 1e-4),
    ]


def reduced_precision(given: Work) -> list[Check]:
    """Packed attention in bf16 against padded in fp32, loosely: bf16 has three digits, and errors of layers add up."""
    import torch

    (logits, *gradients), (right, *expected) = _pass(given, padded=False, bf16=True), _pass(given, padded=True)
    found, wanted = (torch.cat([part.flatten() for part in parts]) for parts in (gradients, expected))
    return [
        _at_most(
            "bf16 against fp32: logits, of the largest", _largest([logits], [right]) / float(right.abs().max()), 0.1
        ),
        _at_most("bf16 against fp32: gradients, of their norm", float((found - wanted).norm() / wanted.norm()), 0.1),
    ]


def waits(given: Work) -> list[Check]:
    """A micro-batch's forward and backward pass make the host wait for the GPU nowhere: torch raises where they do."""
    import torch

    what = "waits in a micro-batch"
    if not torch.cuda.is_available():
        return [Check(what, skipped="a CPU is not waited for")]
    _pass(given, padded=False, bf16=True)  # first calls wait while libraries are loaded
    try:
        _pass(given, padded=False, bf16=True, sync="error")
    except RuntimeError as error:
        return [Check(f"{what}: {error}", 1.0, 0.0)]
    return [_at_most(what, 0.0, 0.0)]


def losses(given: Work, steps: int) -> list[Check]:
    """Losses of the trainer's first steps on this device and on the CPU, in fp32 without dropout."""
    here = _losses(given, "here", steps, {})
    cpu = _losses(given, "cpu", steps, {"CUDA_VISIBLE_DEVICES": ""})
    # Adam divides a gradient by its own size, so rounding errors of small gradients grow from step to step.
    off = max(abs(a - b) / abs(b) for a, b in zip(here, cpu, strict=True))
    return [_at_most(f"{steps} steps in fp32, this device against the CPU: losses, relative", off, 1e-3)]


def fp16(given: Work, steps: int, there: bool) -> list[Check]:
    """Dynamic loss scaling that starts far too high: steps are skipped and counted, then the loss falls."""
    what = "fp16 with dynamic loss scaling"
    if not there:
        return [Check(what, skipped="a CPU does not train in fp16")]
    scaler = {"fp16": {"initial_scale_power": 24, "hysteresis": 1}}
    rows = _train(given, "fp16", 3 * steps, precision="fp16", deepspeed=scaler, learning_rate=1e-4)
    skipped = max(row.get("skipped_steps", 0) for row in rows)
    half = len(rows) // 2
    return [
        _at_most(f"{what}: skipped steps are not counted", float(skipped == 0), 0.0),
        _at_most(f"{what}: share of skipped steps", skipped / len(rows), 0.5),
        _at_most(f"{what}: loss of the second half over the first", _mean(rows[half:]) / _mean(rows[:half]), 1.0),
    ]


def fp16_bundle(given: Work, there: bool) -> list[Check]:
    """The fp16 bundle's logits against the checkpoint's, by the parity gate; whether all its nodes run on the GPU."""
    from bertnli_export.build import export_bundle
    from bertnli_export.parity import LIMITS

    from bertnli.common.errors import RunError
    from bertnli.evaluation.data_sets import open_set
    from bertnli.model import pretrained

    what, limits = "fp16 bundle against fp32", LIMITS["fp16"]
    if not there:
        return [Check(what, skipped="its graph is for CUDA", of="scoring")]
    source, out = pretrained.load(given.model, max_length=MAX_LENGTH), given.folder / "bundle-fp16"
    try:
        found = export_bundle(source, out, precision="fp16", verify_data=open_set(str(given.rows)))
    except RunError as error:
        return [Check(f"{what}: {error}", float("inf"), limits.logit_difference, of="scoring")]
    if found.get("reason"):  # a GPU that torch can use, but not ONNX Runtime
        return [Check(what, skipped=found["reason"], of="scoring")]
    checks = [
        _at_most(f"{what}: logits", found["max_logit_difference"], limits.logit_difference),
        # The gate has checked real rows separately; most of these pairs are its own, and close calls.
        _at_most(f"{what}: share of changed labels", found["label_flips"] / found["pairs"], limits.own_label_flips),
        _at_most("fp16 bundle: nodes that run on the CPU", len(left_to_the_cpu(out / "model.onnx", "CUDA")), 0),
    ]
    return [replace(check, of="scoring") for check in checks]


def left_to_the_cpu(graph: Path, provider: str) -> list[str]:
    """Operators that ONNX Runtime runs on the CPU although `provider` (CUDA) was requested, by its own profile.

    Operators on shapes belong on the CPU and are not counted.
    """
    import numpy as np
    import onnxruntime as ort
    from bertnli_export.interface import INPUTS

    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(graph.with_name("profile"))
    session = ort.InferenceSession(str(graph), options, providers=[f"{provider}ExecutionProvider"])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    session.run(None, dict(zip(INPUTS, (mask, mask, np.zeros_like(mask)), strict=True)))
    with Path(session.end_profiling()).open(encoding="utf-8") as file:
        events = [event["args"] for event in json.load(file) if event.get("cat") == "Node"]
    on_the_cpu = {event["op_name"] for event in events if event.get("provider") == "CPUExecutionProvider"}
    return sorted(on_the_cpu - {"Shape", "Squeeze", "Range", "Equal"})


# ---------------------------------------------------------------------------------------------------------------------


def _pass(given: Work, *, padded: bool, bf16: bool = False, sync: str = "default") -> list[Any]:
    """Forward and backward over all rows without dropout: the logits, and the gradient of every parameter.

    sync: torch's mode for calls that wait for the GPU, in the two passes alone.
    """
    import torch
    import torch.nn.functional as F

    from bertnli.data.batches import pack
    from bertnli.data.corpus import prepare
    from bertnli.data.pairs import PairFile
    from bertnli.model import pretrained
    from bertnli.model.attention import Padded, to_device

    device = hf.device()
    source = pretrained.load(given.model, max_length=MAX_LENGTH)
    corpus = prepare(PairFile(given.rows), source.tokenizer, source.config.labels)
    model = source.build(source.config.without_dropout()).to(device).train()
    order = corpus.lengths.argsort(kind="stable")
    batch = pack(corpus, order)
    inputs: Sequence[Any] = to_device(batch, device)
    if padded:
        mask = torch.arange(int(batch.lengths.max())) < torch.from_numpy(batch.lengths)[:, None]
        rectangle = torch.zeros(mask.shape, dtype=torch.long)
        ids, segments = (
            rectangle.masked_scatter(mask, torch.from_numpy(part)).to(device)
            for part in (batch.input_ids, batch.token_type_ids)
        )
        inputs = (ids, segments, Padded(mask.to(device)))
    labels = torch.from_numpy(corpus.labels[order].astype("int64")).to(device)
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode(sync)
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(*inputs).float()
        F.cross_entropy(logits, labels).backward()
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return [logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def _largest(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest absolute difference."""
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


def _losses(given: Work, name: str, steps: int, environment: dict[str, str]) -> list[float]:
    rows = _train(given, name, steps, environment, precision="fp32", dropout=0.0, learning_rate=1e-4)
    return [row["loss"] for row in rows]


def _train(
    given: Work, name: str, steps: int, environment: dict[str, str] | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """The log entries of each step of a short run."""
    output = given.folder / f"check-{name}"
    run_file = {
        "model": str(given.model),
        "data": {"train": str(given.rows)},
        "output": str(output),
        "max_steps": steps,
        "global_batch_size": given.batch_size,
        "report_to": "none",
        **settings,
    }
    train(run_file, {**os.environ, **(environment or {})})
    return steps_of(output)


def _mean(rows: Sequence[dict[str, Any]]) -> float:
    return sum(row["loss"] for row in rows) / len(rows)
