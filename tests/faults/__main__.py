"""Kill, fault and damage trials, an hour by default: `python -m tests.faults [--minutes N] [--kind KIND] [--seed S]`.

Each trial starts a command, kills it at random moments, damages its files in between, and gives the command once more.
Then the result must be right, or there must be one message and exit code 1 or 2, no traceback, and nothing published
that is wrong. Each trial has a seed, which decides everything but how far a command gets in a given time. A trial that
fails keeps its folder, and prints the command that repeats it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.faults.command import Command, Kind
from tests.faults.exporting import Exporting
from tests.faults.fetching import Fetching
from tests.faults.scoring import Scoring
from tests.faults.training import Training
from tests.support import tiny

KINDS: dict[str, type[Kind]] = {"train": Training, "score": Scoring, "fetch": Fetching, "export": Exporting}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Kill, fault and damage trials.")
    parser.add_argument("--minutes", type=float, default=60.0, help="start no trial after so many (default: 60)")
    parser.add_argument("--trials", type=int, help="so many trials instead")
    parser.add_argument("--kind", choices=KINDS, help="of one kind only")
    parser.add_argument("--seed", type=int, help="of the first trial; each further one has the next (default: random)")
    options = parser.parse_args()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    began, failed = time.monotonic(), 0
    folder = Path(tempfile.mkdtemp(prefix="bertnli-faults-"))
    print(f"in {folder}, first seed {seed}", flush=True)
    end_run = tiny.begin_run()
    Command(folder, "--help").end()  # the server of the forked processes loads the libraries
    made: dict[str, Kind] = {}
    names = [options.kind] if options.kind else list(KINDS)
    for number in itertools.count():
        if number >= options.trials if options.trials else time.monotonic() - began > 60 * options.minutes:
            break
        name = names[number % len(names)]
        if name not in made:
            made[name] = KINDS[name](folder / f"{name}-undisturbed")
        notes: list[str] = []
        place = folder / f"{name}-{seed + number}"
        place.mkdir()
        try:
            made[name].trial(place, random.Random(seed + number), notes.append)
        except Exception:
            failed += 1
            print(f"FAILED {name} {seed + number}: {'; '.join(notes)}; its folder: {place}", flush=True)
            traceback.print_exc(limit=-3)
            print(f"again: python -m tests.faults --kind {name} --seed {seed + number} --trials 1", flush=True)
            continue
        print(f"{name} {seed + number}: {'; '.join(notes)}", flush=True)
        shutil.rmtree(place)
    print(f"{number} trials, {failed} failed", flush=True)
    end_run()
    if not failed:
        shutil.rmtree(folder)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
