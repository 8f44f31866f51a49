"""`python -m benchmarks`: the short set, within 15 minutes on two cores. With a name, one set; `table` shows results.

python -m benchmarks                          # training at batches of 32 and 256, scoring
python -m benchmarks training --batch 256     # one set
python -m benchmarks --full                   # more pairs and rounds
python -m benchmarks table                    # Markdown of what benchmarks/results holds
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import sets
from benchmarks.table import table, tables
from bertnli.errors import BertnliError

RESULTS = Path(__file__).parent / "results"
SETS = ("training", "scoring", "peak", "micro-batches", "profile")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", nargs="*", choices=[*SETS, "table", []], help="left out: training and scoring")
    parser.add_argument("--batch", type=int, action="append", help="of training: 32 and 256 where left out")
    parser.add_argument("--full", action="store_true", help="more pairs and rounds: an hour on two cores")
    parser.add_argument("--model", default=sets.MODEL, help="for scoring: a model folder, or a fetched name")
    parser.add_argument("--patience", type=float, help="seconds a set may wait for a quiet machine")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    options = parser.parse_args(arguments)
    effort = sets.FULL if options.full else sets.SHORT
    if options.patience is not None:
        effort = replace(effort, patience=options.patience)
    if "table" in options.set:
        print(tables(options.results))
        return 0
    batches = options.batch or [32, 256]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that peers are ended
    try:
        with tempfile.TemporaryDirectory(prefix="bertnli-benchmarks-") as scratch:
            for name in options.set or ("training", "scoring"):
                sizes = batches if name in ("training", "micro-batches", "profile") else [0]
                for size in sizes:
                    folder = Path(scratch) / f"{name}-{size}"
                    folder.mkdir()
                    result = _measure(name, folder, size, options.model, effort)
                    print(f"\n{table(result)}\n\n{sets.save(result, options.results)}\n", flush=True)
    except BertnliError as error:
        _say(f"benchmarks: {error}")
        return error.exit_code
    return 0


def _measure(name: str, folder: Path, batch_size: int, model: str, effort: sets.Effort) -> dict:
    if name == "training":
        return sets.training(folder, batch_size, effort, _say)
    if name == "micro-batches":
        return sets.micro_batches(folder, batch_size, effort, _say)
    if name == "scoring":
        return sets.scoring(folder, model, effort, _say)
    if name == "peak":
        return sets.peak(folder, effort, _say)
    from benchmarks.profile import profile

    return profile(folder, batch_size)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
