"""The figures of README.md: the few that a reader looks for first, from the results, between two marks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.sets import OURS
from benchmarks.table import faster, grid, head, spread
from bertnli.errors import InputError

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

Json = Mapping[str, Any]


def figures(folder: Path) -> str:
    """Training, scoring and accuracy, each where its results are in `folder`, with what they were measured on."""
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    training = [results[name] for name in ("training-32", "training-256") if name in results]
    parts = [_training(training)] if training else []
    parts += [_scoring(results[name]) for name in ("scoring", "gpu-scoring") if name in results]
    parts += [_accuracy(results["accuracy"])] if "accuracy" in results else []
    return "\n\n".join(parts)


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


def _training(results: Sequence[Json]) -> str:
    """A row for each way, the slowest first; two columns for each batch. Ours at other stages of ZeRO are left out."""
    sizes = [result["work"]["batch_size"] for result in results]
    batches = [_peers(result) for result in results]
    columns = [f"{what}, batch {size}" for size in sizes for what in ("pairs/s", f"{OURS} is faster by")]
    lines = grid(("training", *columns, f"peak memory, batch {sizes[-1]}"))
    for name, last in sorted(batches[-1].items(), key=lambda item: item[1]["per_second"]["median"]):
        if name.startswith(f"{OURS}-zero"):
            continue
        cells = [last["about"]]
        for peer in (batch.get(name) for batch in batches):
            cells += ["", ""] if peer is None else [spread(peer["per_second"]), faster(peer, OURS)]
        lines.append(f"| {' | '.join([*cells, _memory(last)])} |")
    return "\n".join([*lines, "", "\n\n".join(map(head, results))])


def _scoring(result: Json) -> str:
    """A row for each way, the slowest first, with what its precision costs beside its rate."""
    ours = [name for name in _peers(result) if name.startswith(OURS)]
    columns = [f"{name.replace('-', ' ')} is faster by" for name in ours]
    lines = grid(("scoring", "pairs/s", *columns, "labels changed", "depends on company by", "peak memory"))
    for peer in sorted(_peers(result).values(), key=lambda peer: peer["per_second"]["median"]):
        cells = [peer["about"], spread(peer["per_second"]), *(faster(peer, name) for name in ours)]
        cells += [f"{peer['labels_changed']:.2%}", f"{peer['depends_on_company']:.1g}", _memory(peer)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", head(result)])


def _accuracy(result: Json) -> str:
    lines = grid(("accuracy on " + result["work"]["test"], f"mean of {len(result['work']['seeds'])} seeds"))
    about = {OURS: OURS, "trainer-best": "transformers Trainer, its best settings"}
    lines += [f"| {about[how]} | {mean:.4f} |" for how, mean in result["mean"].items()]
    return "\n".join([*lines, "", head(result)])


def _peers(result: Json) -> dict[str, Json]:
    """What scored or trained pairs, by name: no matrix peaks, nothing that was skipped."""
    return {peer["name"]: peer for peer in result["peers"] if peer["unit"] == "pairs" and "skipped" not in peer}


def _memory(peer: Json) -> str:
    return f"{peer['peak_rss_mib']:,.0f} MiB"
