"""`python -m benchmarks`: training and scoring beside the peers of each target, 15 minutes on two cores.

python -m benchmarks                          # training at batches of 32 and 256, scoring
python -m benchmarks training --batch 256     # one set
python -m benchmarks --full                   # every set of a CPU, with more pairs and rounds: hours
python -m benchmarks gpu                      # everything about a GPU, in 8 minutes (see gpu.py)
python -m benchmarks table                    # print the tables of benchmarks/results, with targets
python -m benchmarks table --readme           # make the tables in benchmarks/README.md and README.md again
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import gpu, readme, sets
from benchmarks.accuracy import accuracy
from benchmarks.busy import busy
from benchmarks.distill import distill
from benchmarks.evidence import evidence
from benchmarks.long_row import long_row
from benchmarks.memory import memory
from benchmarks.ranks import ranks
from benchmarks.reported import PAIRS, reported
from benchmarks.score_memory import score_memory
from benchmarks.score_processes import ROWS, score_processes
from benchmarks.shapes import SHAPES
from benchmarks.start_up import start_up
from benchmarks.table import table, tables
from bertnli.common.errors import BertnliError

RESULTS = Path(__file__).parent / "results"
DEFAULT = ("training", "scoring")
SCORING = ("scoring-base", "long-row", "start-up", "score-memory", "score-processes")
FULL = (*DEFAULT, "reported", *SCORING, "busy", "tokenise", "ranks", "memory", "accuracy", "evidence", "distill")
SETS = (*FULL, "shapes", "shapes-training", "gpu")

_BEGAN = time.monotonic()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", nargs="*", choices=[*SETS, "table", []], help="default: training and scoring")
    parser.add_argument("--batch", type=int, action="append", help="for training (default: 32 and 256)")
    parser.add_argument("--full", action="store_true", help="more pairs and rounds: hours on two cores for all sets")
    parser.add_argument("--model", help="for scoring: a folder or a name (default: MiniLM trained on 8,000 pairs)")
    parser.add_argument("--shape", action="append", choices=list(SHAPES), help="for shapes (default: all)")
    parser.add_argument(
        "--tokens",
        type=int,
        action="append",
        choices=sets.SHAPE_TOKENS,
        help="of a pair, about; for shapes (default: all)",
    )
    parser.add_argument("--patience", type=float, help="seconds that a set may wait for a quiet machine")
    parser.add_argument("--seeds", type=int, help="for accuracy and distill: how many trainings of each kind")
    parser.add_argument("--results", type=Path, help="folder of the records (default: benchmarks/results)")
    parser.add_argument(
        "--readme",
        action="store_true",
        help="for table: write README.md and benchmarks/README.md",
    )
    parser.add_argument("--carry", type=Path, metavar="DIR", help="for gpu: write what a machine without network needs")
    parser.add_argument("--from", dest="carried", type=Path, metavar="DIR", help="for gpu: what --carry wrote")
    parser.add_argument("--rehearse", action="store_true", help="for gpu: tiny sizes, no GPU needed, no records kept")
    options = parser.parse_args(arguments)
    results = options.results or RESULTS
    try:
        if "table" in options.set:
            if options.readme:
                readme.write(readme.ROOT, results)
            else:
                print(tables(results))
            return 0
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that peers are ended
        if options.carry is not None:
            gpu.carry(gpu.fetched(), options.carry)
            return 0
        with tempfile.TemporaryDirectory(prefix="bertnli-benchmarks-") as scratch:
            if options.rehearse and options.results is None:
                results = Path(scratch) / "results"
            for name in options.set or (FULL if options.full else DEFAULT):
                for size in (options.batch or [32, 256]) if name == "training" else [0]:
                    folder = Path(scratch) / f"{name}-{size}"
                    folder.mkdir()
                    for result in _measure(name, folder, size, options):
                        print(f"\n{table(result)}\n\n{sets.save(result, results)}\n", flush=True)
    except BertnliError as error:
        _say(f"benchmarks: {error}")
        return error.exit_code
    return 0


def _measure(name: str, folder: Path, batch_size: int, options: Any) -> Iterator[dict[str, Any]]:
    effort = sets.FULL if options.full else sets.SHORT
    if options.patience is not None:
        effort = replace(effort, patience=options.patience)
    if options.seeds is not None:
        effort = replace(effort, seeds=options.seeds)
    if name == "training":
        yield sets.training(folder, batch_size, effort, _say)
    elif name == "reported":
        yield reported(folder, sets.MODEL, sets.TRAIN_DATA, PAIRS, effort.processes, _say)
    elif name == "scoring":
        yield sets.scoring(folder, options.model, effort, _say)
    elif name == "scoring-base":
        yield sets.scoring_base(folder, effort, _say)
    elif name == "shapes":
        for shape, tokens in itertools.product(options.shape or SHAPES, options.tokens or sets.SHAPE_TOKENS):
            yield sets.shape_scoring(_inside(folder, f"{shape}-{tokens}"), shape, tokens, effort, _say)
    elif name == "shapes-training":
        for shape in options.shape or sets.TRAINED_SHAPES:
            yield sets.shape_training(_inside(folder, f"{shape}-training"), shape, effort, _say)
    elif name == "long-row":
        yield long_row(folder, sets.MODEL, sets.TEST_DATA, effort.long_row_rows, effort.rounds, effort.patience, _say)
    elif name == "start-up":
        yield start_up(folder, sets.MODEL, sets.TEST_DATA, sets.TRAIN_DATA, effort.starts, _say)
    elif name == "score-memory":
        yield score_memory(folder, sets.MODEL, sets.TEST_DATA, effort.score_rows, _say)
    elif name == "score-processes":
        yield score_processes(folder, sets.MODEL, sets.TEST_DATA, ROWS, _say)
    elif name == "busy":
        names = sets.MODEL, sets.TRAIN_DATA, sets.TEST_DATA
        yield busy(folder, *names, effort.busy_pairs, effort.loops, min(3, effort.rounds), _say)
    elif name == "tokenise":
        yield sets.tokenise(folder, effort, _say)
    elif name == "ranks":
        yield ranks(folder, sets.MODEL, sets.TRAIN_DATA, _say)
    elif name == "memory":
        yield memory(folder, sets.MODEL, sets.TRAIN_DATA, effort.memory_rows, _say)
    elif name == "accuracy":
        counts = effort.accuracy_pairs, range(effort.seeds)
        yield accuracy(folder, sets.MODEL, sets.TRAIN_DATA, sets.TEST_DATA, *counts, _say)
    elif name == "evidence":
        yield evidence(folder, sets.MODEL, sets.TRAIN_DATA, sets.TEST_DATA, effort.evidence_pairs, _say)
    elif name == "distill":
        numbers = effort.evidence_pairs, range(effort.seeds), effort.rounds
        yield distill(folder, sets.MODEL, sets.TRAIN_DATA, sets.TEST_DATA, *numbers, _say)
    elif name == "gpu":
        inputs = gpu.carried(options.carried) if options.carried else gpu.fetched()
        plan = gpu.REHEARSAL if options.rehearse else gpu.PLAN
        yield from gpu.gpu(folder, inputs, plan, _say, rehearsal=options.rehearse)


def _inside(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _say(line: str) -> None:
    minutes, seconds = divmod(int(time.monotonic() - _BEGAN), 60)
    print(f"{minutes:3}:{seconds:02} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
