"""The figures of README.md: the few that a reader looks for first, from the results, between two marks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.sets import OURS
from benchmarks.table import body, faster, grid, head, spread
from bertnli.common.errors import InputError

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

Json = Mapping[str, Any]


def figures(folder: Path) -> str:
    """A table for each result that `folder` has of those in `_TABLES`, with what it was measured on."""
    there = [(folder / f"{name}.json", table) for name, table in _TABLES.items()]
    return "\n\n".join(table(json.loads(path.read_text(encoding="utf-8"))) for path, table in there if path.exists())


def between(page: str) -> str:
    """What stands between the marks. Raises InputError if they are not there, once each and in order."""
    return _split(page)[1].strip("\n")


def write(readme: Path, folder: Path) -> None:
    """Put `figures` between the marks of the page, whose other lines stay. Raises as `between` does."""
    before, _, after = _split(readme.read_text(encoding="utf-8"))
    readme.write_text(f"{before}{BEGIN}\n{figures(folder)}\n{END}{after}", encoding="utf-8")


def _split(page: str) -> tuple[str, str, str]:
    before, begin, rest = page.partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise InputError("README.md: the marks of its table", expected=f"{BEGIN} and then {END}, once each")
    return before, inside, after


def _training(result: Json) -> str:
    """A row for each way, the slowest first. Ours at other stages of ZeRO are left out."""
    what = f"training, batch {result['work']['batch_size']}"
    lines = grid((what, "pairs/s", f"{OURS} is faster by", "peak memory"))
    for peer in _peers(result):
        if not peer["name"].startswith(f"{OURS}-zero"):
            cells = (peer["about"], spread(peer["per_second"]), faster(peer, OURS), _memory(peer))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", head(result)])


def _scoring(result: Json) -> str:
    """A row for each way, the slowest first, with what its precision costs beside its rate."""
    ours = sorted(peer["name"] for peer in _peers(result) if peer["name"].startswith(OURS))
    columns = [f"{name.replace('-', ' ')} is faster by" for name in ours]
    lines = grid(("scoring", "pairs/s", *columns, "labels changed", "depends on company by", "peak memory"))
    for peer in _peers(result):
        cells = [peer["about"], spread(peer["per_second"]), *(faster(peer, name) for name in ours)]
        cells += [f"{peer['labels_changed']:.2%}", f"{peer['depends_on_company']:.1g}", _memory(peer)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", head(result)])


def _accuracy(result: Json) -> str:
    lines = grid(("accuracy on " + result["work"]["test"], f"mean of {len(result['work']['seeds'])} seeds"))
    about = {OURS: OURS, "trainer-best": "transformers Trainer, its best settings"}
    lines += [f"| {about[how]} | {mean:.4f} |" for how, mean in result["mean"].items()]
    return "\n".join([*lines, "", head(result)])


def _evidence(result: Json) -> str:
    return "\n".join([*body(result), "", head(result)])


def _peers(result: Json) -> list[Json]:
    """What scored or trained pairs, the slowest first: no matrix peaks, nothing that was skipped."""
    pairs = [peer for peer in result["peers"] if "skipped" not in peer and peer["unit"] == "pairs"]
    return sorted(pairs, key=lambda peer: peer["per_second"]["median"])


def _memory(peer: Json) -> str:
    return f"{peer['peak_rss_mib']:,.0f} MiB"


_TABLES: dict[str, Callable[[Json], str]] = {
    "training-32": _training,
    "training-256": _training,
    "gpu-training-32": _training,
    "gpu-training-256": _training,
    "scoring": _scoring,
    "gpu-scoring": _scoring,
    "accuracy": _accuracy,
    "evidence": _evidence,
}
