"""Everything about a GPU in under 8 minutes: first whether it computes correctly, then how fast it is.

On a machine with a network: `python -m benchmarks gpu`. For a machine without one, run here `python -m benchmarks gpu
--carry DIR`, which writes the model (weights in fp16, 45 MB) and the rows (5 MB), and there `python -m benchmarks gpu
--from DIR --results OUT`. Put wheels of the packages that it lacks into DIR/wheels (deepspeed, which builds to a pure
wheel; hjson, pydantic, pydantic_core, annotated_types, typing_inspection, platformdirs) and install them there:

    python3 -m pip install --no-index --no-deps --target /tmp/site DIR/wheels/*.whl && export PYTHONPATH=/tmp/site

`--rehearse` runs all of it with tiny sizes, on the CPU if there is no GPU. Its figures have no meaning and are not
kept.

The parts are gpu-checks, gpu-training-256, gpu-scoring, gpu-minilm and gpu-training-1024. Each is written as a record
of its own when it is done, and each stands alone. If a check of training or of scoring fails, that half is not timed,
and the command fails at its end. A part that fails, or for which no time is left, is skipped with a message.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import machine, sets, work
from benchmarks.accuracy import evaluate
from benchmarks.gpu_checks import Check, attention, fp16, fp16_bundle, losses, reduced_precision, waits
from benchmarks.harness import Say
from benchmarks.peer import Peer
from benchmarks.peers.bertnli_score import BertnliScore
from benchmarks.peers.bertnli_train import BertnliTrain, train
from benchmarks.peers.compiled import TorchCompiled
from benchmarks.peers.cross_encoder import CrossEncoderPredict
from benchmarks.peers.onnx_graph import TransformersExporter
from benchmarks.peers.peak import MatrixPeak
from benchmarks.peers.plain_loop import PlainLoop
from benchmarks.peers.scoring import GPU_BATCH_SIZES, Scoring
from benchmarks.peers.transformers_trainer import TransformersTrainer
from bertnli.common.errors import InputError, RunError, first_line

Part = tuple[str, Callable[[], dict[str, Any]]]
"""What is measured, and the function that measures it."""


@dataclass(frozen=True)
class Inputs:
    """model: an HF folder; train, test: labelled files; source: their names, for the record, and where from."""

    model: Path
    train: Path
    test: Path
    source: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is done. shape: of the large, random model. batch_sizes: of training, each with the pairs of a run.
    scored_pairs: of a run of scoring. scoring_batch_sizes: each scoring peer uses the fastest of them.
    minutes: a part that would end after them is skipped."""

    shape: Mapping[str, Any]
    batch_sizes: Mapping[int, int]
    scored_pairs: int
    scoring_batch_sizes: Sequence[int]
    check_pairs: int
    check_steps: int
    rounds: int
    fine_tuning: Mapping[str, Any]
    workers: int
    minutes: float


PLAN = Plan(
    shape=work.BERT_BASE,
    batch_sizes={256: 25_600, 1024: 65_536},
    scored_pairs=65_536,
    scoring_batch_sizes=GPU_BATCH_SIZES,
    check_pairs=256,
    check_steps=20,
    rounds=3,
    fine_tuning={"epochs": 3, "global_batch_size": 256, "learning_rate": 2e-4},
    workers=4,
    minutes=8.0,
)
REHEARSAL = Plan(
    shape={"hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 128},
    batch_sizes={16: 64},
    scored_pairs=64,
    scoring_batch_sizes=(32,),
    check_pairs=32,
    check_steps=3,
    rounds=1,
    fine_tuning={"max_steps": 3, "global_batch_size": 32, "learning_rate": 2e-4},
    workers=0,
    minutes=float("inf"),  # it shows that every part runs, however slow or busy the machine is
)


def gpu(folder: Path, inputs: Inputs, plan: Plan, say: Say, rehearsal: bool = False) -> Iterator[dict[str, Any]]:
    """Yields a record for each part that ran.

    Raises InputError if there is no GPU; RunError, at the end, if a check or a part failed.
    """
    import torch

    there = torch.cuda.is_available()
    if not there and not rehearsal:
        raise InputError("benchmarks gpu", found="no GPU that torch can use", do="--rehearse runs without one")
    os.environ["BERTNLI_CACHE"] = str(folder / "cache")
    # cuDNN's attention plans anew for every shape. bertnli does not use it, so the peers do not either.
    os.environ.setdefault("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")
    began = time.monotonic()
    head = machine.describe() | ({"rehearsal": True} if rehearsal else {})
    if head["commit"] is None:
        head |= {key: inputs.source.get(key) for key in ("commit", "dirty")}

    def in_time(part: str, minutes: float) -> bool:
        spent = (time.monotonic() - began) / 60
        if spent + minutes > plan.minutes:
            say(f"{part}: skipped: {spent:.1f} of {plan.minutes:.0f} minutes are spent, it takes {minutes:.1f}")
            return False
        say(f"{part}: starts after {spent:.1f} minutes")
        return True

    checks = _checks(folder, inputs, plan, there, say)
    given = {"rows_from": inputs.source["train"], "rows": plan.check_pairs, "batch_size": 0}
    yield {"name": "gpu-checks", "kind": "gpu-checks", **head, "work": given, "checks": [vars(one) for one in checks]}
    wrong = {one.of: one.what for one in checks if not one.skipped and not one.right}
    failed = [f"{half} computes wrong results: {what}" for half, what in wrong.items()]

    model = work.random_model(folder, str(inputs.model), plan.shape)

    def training(batch_size: int) -> Part:
        pairs = plan.batch_sizes[batch_size]
        return f"training at batch {batch_size}", lambda: _training(folder, inputs, plan, model, batch_size, pairs, say)

    first, *others = plan.batch_sizes
    parts: list[Part] = [
        training(first),
        ("scoring", lambda: _scoring(folder, inputs, plan, model, there, say)),
        ("fine-tuning", lambda: _fine_tuning(folder, inputs, plan)),
        *map(training, others),
    ]
    for part, measure in parts:
        half = "scoring" if part == "scoring" else "training"
        if half in wrong:
            say(f"{part}: skipped: {half} computes wrong results")
        elif in_time(part, 2):
            try:
                yield measure() | head
            except Exception as error:  # the other parts are still worth their time on a machine that is lent
                failed.append(f"{part}: {first_line(error)}")
                say(f"{part}: failed: {error}")
    if failed:
        raise RunError("benchmarks gpu", found="; ".join(failed), do="fix these; the other records are written")


def _checks(folder: Path, inputs: Inputs, plan: Plan, there: bool, say: Say) -> list[Check]:
    given = work.sample(folder, str(inputs.model), str(inputs.train), plan.check_pairs, 32, seed=0)
    place = folder / "scoring-check"
    place.mkdir()
    # The classifier's logits are spread, so that no label depends on a digit that fp16 does not have.
    scored = work.scoring(place, str(inputs.model), str(inputs.test), plan.check_pairs)
    wanted: list[Callable[[], list[Check]]] = [
        lambda: attention(given),
        lambda: reduced_precision(given),
        lambda: waits(given),
        lambda: losses(given, plan.check_steps),
        lambda: fp16(given, plan.check_steps, there),
        lambda: fp16_bundle(scored, there),
    ]
    found = []
    for check in wanted:
        for one in check():
            say(f"check: {one.what}: {one.skipped or f'{one.found:.2g}, at most {one.limit:.2g}'}")
            found.append(one)
    return found


def _training(
    folder: Path, inputs: Inputs, plan: Plan, model: Path, batch_size: int, pairs: int, say: Say
) -> dict[str, Any]:
    """The Trainer with its best settings, a plain loop and bertnli; the Trainer takes each batch in one piece."""
    place = folder / f"training-{batch_size}"
    place.mkdir()
    given = work.training(place, str(model), str(inputs.train), pairs, batch_size, micro_batch=batch_size)
    peers: list[Peer] = [
        TransformersTrainer(given, best=True, workers=plan.workers, untimed_steps=2),
        PlainLoop(given),
        BertnliTrain(given, precision="bf16"),
        MatrixPeak(given, "bf16"),
    ]
    effort = replace(sets.SHORT, rounds=plan.rounds, patience=0.0)
    name = f"gpu-training-{batch_size}"
    return sets.run(name, "gpu-training", given, inputs.source["train"], peers, pairs, effort, say)


def _scoring(folder: Path, inputs: Inputs, plan: Plan, model: Path, there: bool, say: Say) -> dict[str, Any]:
    """File to file in fp16: CrossEncoder with each attention, transformers.exporters, torch.compile and bertnli.

    The rows come from the training file, because the test file takes a quarter of a second only. The first peer, in
    fp32, gives the reference scores. The model's weights are random, so its labels are close calls, and fp16 may change
    some. Without a GPU every peer runs in fp32.
    """
    place = folder / "scoring"
    place.mkdir()
    given = work.scoring(place, str(model), str(inputs.train), plan.scored_pairs)
    precision, provider = ("fp16", "cuda") if there else ("fp32", "cpu")
    peers: list[Scoring] = [
        CrossEncoderPredict(given),
        CrossEncoderPredict(given, precision, attention="sdpa"),
        CrossEncoderPredict(given, precision, attention="flash_attention_2"),
        TransformersExporter(given, precision, provider=provider),
        TorchCompiled(given, precision),
        BertnliScore(given, precision),
    ]
    *others, ours = peers
    for peer in others:
        peer.batch_sizes = plan.scoring_batch_sizes
    ours.name = sets.OURS  # the only one of ours here
    effort = replace(sets.SHORT, rounds=plan.rounds, patience=0.0)
    every: list[Peer] = [*peers, MatrixPeak(given, "bf16")]
    return sets.run("gpu-scoring", "gpu-scoring", given, inputs.source["train"], every, plan.scored_pairs, effort, say)


def _fine_tuning(folder: Path, inputs: Inputs, plan: Plan) -> dict[str, Any]:
    """The model trained on all rows, from an empty cache: seconds until its folder exists, and its accuracy."""
    output = folder / "minilm"
    run_file = {"model": str(inputs.model), "data": {"train": str(inputs.train)}, "output": str(output)}
    began = time.perf_counter()
    summary = train({**run_file, **plan.fine_tuning}, {"BERTNLI_CACHE": str(folder / "empty-cache")})
    seconds = time.perf_counter() - began
    found = evaluate(output / "model", str(inputs.test))
    given = {"rows_from": inputs.source["train"], "rows": summary["steps"] * plan.fine_tuning["global_batch_size"]}
    return {
        "name": "gpu-minilm",
        "kind": "gpu-run",
        "work": given | {"batch_size": plan.fine_tuning["global_batch_size"], "test": inputs.source["test"]},
        "options": dict(plan.fine_tuning) | {"weights": inputs.source.get("weights", "fp32")},
        "wall_seconds": seconds,
        **{key: summary[key] for key in ("steps", "pairs_per_second", "precision")},
        **{key: found[key] for key in ("accuracy", "rows")},
    }


# --- a machine without network ---------------------------------------------------------------------------------------


def fetched() -> Inputs:
    """The paths of the fetched names."""
    from bertnli.fetch.resolve import resolve, resolve_data

    names = {"model": sets.MODEL, "train": sets.TRAIN_DATA, "test": sets.TEST_DATA}
    return Inputs(
        resolve(sets.MODEL, "model"), Path(resolve_data(sets.TRAIN_DATA)), Path(resolve_data(sets.TEST_DATA)), names
    )


def carry(inputs: Inputs, to: Path) -> None:
    """Write what `carried` reads; small enough to be sent with a checkout."""
    import torch
    from safetensors.torch import load_file, save_file

    from bertnli.data.pairs import PairFile

    shutil.copytree(inputs.model, to / "model")
    weights = to / "model" / "model.safetensors"
    tensors = {
        name: tensor.to(torch.float16) for name, tensor in load_file(weights).items() if tensor.is_floating_point()
    }
    save_file(tensors, weights, metadata={"format": "pt"})
    for name in ("train", "test"):
        with gzip.open(to / f"{name}.jsonl.gz", "wt", encoding="utf-8") as out:
            for row in PairFile(getattr(inputs, name)).rows():
                cells = {"sentence1": row.premise, "sentence2": row.hypothesis, "gold_label": row.label}
                out.write(json.dumps(cells) + "\n")
    source = {**inputs.source, **machine.commit(), "weights": "carried in fp16"}
    (to / "source.json").write_text(json.dumps(source), encoding="utf-8")


def carried(folder: Path) -> Inputs:
    """What `carry` wrote. Raises InputError if a part is missing."""
    paths = [folder / name for name in ("model", "train.jsonl.gz", "test.jsonl.gz", "source.json")]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise InputError(f"--from {folder}", found=f"no {', '.join(missing)}", do="write it with --carry")
    model, train_file, test_file, source = paths
    return Inputs(model, train_file, test_file, json.loads(source.read_text(encoding="utf-8")))
