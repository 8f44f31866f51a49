"""What a training step asks of a GPU's host: time, kernel launches, waits for the device, attention kernels by name.

python -m benchmarks.gpu_host [--only TEXT] [--out FILE]

Exits with 1 if a case misses its target. It runs bertnli's own step over stub CUDA libraries that count what torch's
CUDA build asks for; their Python module, `hollow`, must be importable. Kernels do nothing there, so it says nothing
about a GPU's time or about results. Each case has a process, or one for each rank. Host time is the processor time of
all threads of the process (backward has a thread, making the next batch another) in the step that took least. A driver
adds some 2 us a launch.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MODELS = {
    "BERT-base": {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "intermediate_size": 3072},
    "MiniLM": {"hidden_size": 384, "num_layers": 6, "num_heads": 12, "intermediate_size": 1536},
}
WORK = [("BERT-base", 256), ("BERT-base", 1024), ("MiniLM", 256)]
PRECISIONS = ("bf16", "fp16", "fp32")
WARM_UP, STEPS = 3, 8
MICRO_TOKENS = 65_536
TIME_LIMIT = 60
"""Seconds for a case. On two ranks fp16 may need more: whether gradients overflow is read from memory that no kernel
has written, and ranks that disagree wait for each other."""
ATTENTION = {
    "flash_fwd": "flash, forward",
    "flash_bwd_dq": "flash, backward",
    "fmha_cutlassF": "memory-efficient, forward",
}
ATTENTION |= {"fmha_cutlassB": "memory-efficient, backward", "cudnn": "cuDNN"}
# For a case: the most host ms, waits and launches in clipping and AdamW.
TARGETS = {"BERT-base, 256 pairs, bf16, ZeRO-0, 1 rank": (15.0, 1, 45)}


@dataclasses.dataclass(frozen=True)
class Case:
    model: str
    pairs: int
    precision: str
    zero: int
    ranks: int

    def __str__(self) -> str:
        ranks = f"{self.ranks} rank{'s' * (self.ranks > 1)}"
        return f"{self.model}, {self.pairs} pairs, {self.precision}, ZeRO-{self.zero}, {ranks}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases with this text in their names")
    parser.add_argument("--out", type=Path, help="write the record here")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(Case(**json.loads(options.case)))), flush=True)
        os._exit(0)  # NCCL's threads would end with the stubs
    every = itertools.product(WORK, PRECISIONS, range(4), (1, 2))
    cases = [Case(*work, precision, zero, ranks) for work, precision, zero, ranks in every]
    rows: dict[str, dict[str, Any]] = {}
    missed = 0
    for case in cases:
        if options.only in str(case):
            try:
                rows[str(case)] = row = run(case)
            except subprocess.TimeoutExpired:
                print(f"{case}: did not end in {TIME_LIMIT} s", flush=True)
                continue
            over = [f"MISSED: {key} is over {most}" for key, most in limits(case).items() if row[key] > most]
            missed += len(over)
            kernels = ", ".join(f"{count} {name}" for name, count in row["attention"].items())
            print(
                f"{case}: {row['host_ms']:.1f} ms, {row['waits']} waits, {row['launches']} launches, "
                f"{row['step_launches']} of them in clipping and AdamW; attention: {kernels}",
                *over,
                flush=True,
            )
            if options.out:  # after each case: all of them take a quarter of an hour
                save(options.out, rows)
    return 1 if missed else 0


def save(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    from benchmarks.machine import describe

    record = {"what": "over stub CUDA libraries: no GPU", **describe(), "command": "python -m benchmarks.gpu_host"}
    path.write_text(json.dumps({**record, "cases": rows}, indent=1) + "\n")


def limits(case: Case) -> dict[str, float]:
    return dict(zip(("host_ms", "waits", "step_launches"), TARGETS.get(str(case), ()), strict=False))


def run(case: Case) -> dict[str, Any]:
    """The case in processes of its own; what its first rank measured."""
    from bertnli.common.network import free_port

    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(case.ranks)}
    command = [sys.executable, "-m", "benchmarks.gpu_host", "--case", json.dumps(dataclasses.asdict(case))]
    processes = []
    for rank in range(case.ranks):
        env = {**os.environ, **together, "RANK": str(rank), "LOCAL_RANK": str(rank), "HOLLOW_DEVICES": str(case.ranks)}
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        results = [process.communicate(timeout=TIME_LIMIT) for process in processes]
    finally:  # also of a case that does not end
        for process in processes:
            process.kill()
    for process, (_, stderr) in zip(processes, results, strict=True):
        if process.returncode:
            raise SystemExit(f"{case}: {stderr[-3000:]}")
    return json.loads(results[0][0].splitlines()[-1])


def measure(case: Case) -> dict[str, Any]:
    """On one rank: the loop's own step, over and over."""
    import hollow
    import numpy as np
    import torch

    from bertnli.families.config import ModelConfig
    from bertnli.model.classifier import PairClassifier
    from bertnli.run.config import RunConfig
    from bertnli.run.deepspeed_config import deepspeed_config
    from bertnli.train.engine import Engine, ProcessGroup, parse_settings
    from bertnli.train.loop import accumulate
    from bertnli.train.steps import Step, Steps

    torch.set_num_threads(1)
    group = ProcessGroup()
    keys = {"model": "-", "data": {"train": "-"}, "output": "-", "epochs": 1, "precision": case.precision}
    config = RunConfig.model_validate({**keys, "global_batch_size": case.pairs, "zero_stage": case.zero})
    model = PairClassifier(ModelConfig(labels=("a", "b", "c"), vocab_size=30_522, **MODELS[case.model]))
    settings = deepspeed_config(config, case.precision, group.world, parse_settings)
    engine = Engine(model, settings, config, group)
    corpus = some_pairs()
    chosen = np.random.default_rng(1).integers(0, len(corpus.lengths), (WARM_UP + STEPS + 2, case.pairs))

    def make(number: int) -> Step:
        return Step.of(corpus, chosen[number], group.rank, group.world, MICRO_TOKENS, group.device)

    best: dict[str, Any] = {}
    pending, fastest = None, float("inf")
    with Steps(make, group.device, ahead=True) as steps:
        for number in range(WARM_UP + STEPS):
            hollow.reset()
            began, wall = time.process_time(), time.perf_counter()
            step = steps[number]
            engine.train()
            loss_and_correct = accumulate(engine, step)
            before = hollow.counts().get("launch", 0)
            engine.step(1e-4)
            of_step = hollow.counts().get("launch", 0) - before
            sums = group.start_sum(loss_and_correct, [0, 0])
            if pending is not None:
                pending.read()
            pending = sums
            took = (time.process_time() - began) * 1e3
            fastest = min(fastest, (time.perf_counter() - wall) * 1e3)
            if number >= WARM_UP and took < best.get("host_ms", float("inf")):
                counts, kernels = hollow.counts(), hollow.kernels()
                best = {
                    "host_ms": round(took, 2),
                    "waits": sum(counts.get(kind, 0) for kind in hollow.WAITS),
                    "launches": counts.get("launch", 0),
                    "step_launches": of_step,
                    "gemm_tflop": round(counts.get("gemm_flop", 0) / 1e12, 3),
                    "micro_batches": len(step.micro_batches),
                    "attention": attention(kernels),
                }
    return {**best, "wall_ms": round(fastest, 2)}


def attention(kernels: dict[str, int]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for kernel, launches in kernels.items():
        for part, name in ATTENTION.items():
            if part in kernel:
                found[name] += launches
    return dict(found)


def some_pairs() -> SimpleNamespace:
    """A corpus as long as SNLI's pairs are, of random tokens."""
    import numpy as np

    draw = np.random.default_rng(0)
    lengths = np.clip(draw.normal(26, 7, 4096), 8, 80).astype(np.uint16)
    return SimpleNamespace(
        lengths=lengths,
        offsets=np.concatenate([[0], np.cumsum(lengths.astype(np.int64))])[:-1],
        ids=draw.integers(1, 900, int(lengths.sum())).astype(np.uint16),
        first_segment=(lengths // 2).astype(np.uint16),
        labels=draw.integers(0, 3, len(lengths)).astype(np.int8),
    )


if __name__ == "__main__":
    sys.exit(main())
