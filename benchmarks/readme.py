"""The figures in benchmarks/README.md and README.md: made from the records, and written between two marks.

benchmarks/README.md has the table of every record; README.md has the few rows that a reader looks for first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.sets import OURS
from benchmarks.table import faster, grid, hardware, spread, tables
from bertnli.common.errors import InputError

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
MOST_HEADLINES = 6

Json = Mapping[str, Any]


def write(root: Path, results: Path) -> None:
    """Make the figures of each page again; its other lines stay. Raises InputError if a page lacks the marks."""
    for name, figures in PAGES.items():
        page = root / name
        before, _, after = _split(page.read_text(encoding="utf-8"), name)
        page.write_text(f"{before}{BEGIN}\n{figures(results)}\n{END}{after}", encoding="utf-8")


def between(page: str) -> str:
    """The text between the marks."""
    return _split(page, "page")[1].strip("\n")


def headlines(results: Path) -> str:
    """A table of at most six rows: bertnli's figure, and that of the peer it is compared with.

    Where the same was measured in two ways, the one in which bertnli does less well.
    """
    rows, machines = [], []
    for names, rows_of in _HEADLINES.items():
        paths = [path for name in names if (path := results / f"{name}.json").exists()]
        if paths:
            record = min((json.loads(path.read_text(encoding="utf-8")) for path in paths), key=_over_trainer)
            if found := list(rows_of(record))[: MOST_HEADLINES - len(rows)]:
                rows += found
                machines.append(hardware(record))
    lines = [*grid(("", OURS, "compared with", "", f"speed-up by {OURS}")), *rows]
    different = list(dict.fromkeys(machines))
    apart = " Each row is from one of these machines: do not compare rows." if len(different) > 1 else ""
    return "\n".join([*lines, "", f"Measured on {'; '.join(different)}.{apart}"])


def _split(page: str, name: str) -> tuple[str, str, str]:
    before, begin, rest = page.partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise InputError(f"{name}: the marks of its table", expected=f"{BEGIN} and then {END}, once each")
    return before, inside, after


# --- rows of README.md -----------------------------------------------------------------------------------------------


def _training(result: Json) -> Iterator[str]:
    what = f"training, batch {result['work']['batch_size']}, pairs/s"
    yield _rates(what, result, OURS, "trainer-best")


def _scoring(result: Json) -> Iterator[str]:
    """fp32 against the usual way to score, int8 against the fastest other int8 way."""
    yield _rates("scoring a file, fp32, pairs/s", result, OURS, "cross-encoder")
    others = [
        peer
        for peer in result["peers"]
        if "skipped" not in peer and not peer["name"].startswith(OURS) and peer["options"]["precision"] == "int8"
    ]
    best = max(others, key=lambda peer: peer["per_second"]["median"])
    yield _rates("scoring a file, int8, pairs/s", result, f"{OURS}-int8", best["name"])
    changed = _peers(result)[f"{OURS}-int8"]["labels_changed"]
    yield _row("labels that int8 changes", f"{changed:.2%}", best["about"], f"{best['labels_changed']:.2%}")


def _gpu_scoring(result: Json) -> Iterator[str]:
    """Against the fastest other way."""
    others = [peer for peer in _peers(result).values() if f"{OURS}_over_it" in peer]
    best = max(others, key=lambda peer: peer["per_second"]["median"])
    yield _rates("scoring a file, fp16, pairs/s", result, OURS, best["name"])


def _accuracy(result: Json) -> Iterator[str]:
    given, mean = result["work"], result["mean"]
    what = f"accuracy on {given['test']} after {given['rows']:,} pairs, mean of {len(given['seeds'])} seeds"
    yield _row(what, f"{mean[OURS]:.4f}", _TRAINER, f"{mean['trainer-best']:.4f}")


_TRAINER = "transformers Trainer, its best settings"


def _over_trainer(result: Json) -> float:
    """Infinite where it was not compared."""
    over = _peers(result).get("trainer-best", {}).get(f"{OURS}_over_it", {}) if "peers" in result else {}
    return float(over.get("median", math.inf))


def _rates(what: str, result: Json, name: str, other: str) -> str:
    """Nothing in place of a peer that was skipped."""
    ours, theirs = (_peers(result).get(one) for one in (name, other))
    return _row(
        what,
        spread(ours["per_second"]) if ours else "",
        "" if theirs is None else theirs["about"],
        spread(theirs["per_second"]) if theirs else "",
        faster(theirs, name) if theirs else "",
    )


def _row(*cells: str) -> str:
    return f"| {' | '.join([*cells, ''][:5])} |"


def _peers(result: Json) -> dict[str, Json]:
    """Those that trained or scored pairs, by name."""
    return {peer["name"]: peer for peer in result["peers"] if "skipped" not in peer and peer["unit"] == "pairs"}


_HEADLINES: dict[tuple[str, ...], Callable[[Json], Iterator[str]]] = {
    ("gpu-training-256",): _training,
    ("gpu-scoring",): _gpu_scoring,
    ("training-32", "reported-32"): _training,
    ("training-256",): _training,
    ("scoring",): _scoring,
    ("accuracy",): _accuracy,
}

PAGES: dict[str, Callable[[Path], str]] = {
    "benchmarks/README.md": lambda results: tables(results, with_targets=False),
    "README.md": headlines,
}
