"""Plots of what benchmarks/results holds, as SVG files beside it; drawn by matplotlib, the same bytes each time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]
_STYLES = {1: "o-", 2: "s--"}  # by processes


def plots(results: Path) -> list[Path]:
    """Draw every result there that has a plot; returns the files. Each names the record it was drawn from."""
    drawn = []
    for path in sorted(results.glob("*.json")):
        record = path.read_bytes()
        draw = _DRAWN.get((result := json.loads(record))["kind"])
        if draw is not None:
            drawn.append(path.with_suffix(".svg"))
            _save(draw(result), drawn[-1], drawn_from(path.name, record))
    return drawn


def drawn_from(name: str, record: bytes) -> str:
    """What a plot says of its record, so that one that is out of date can be told."""
    return f"drawn from {name}, SHA-256 {hashlib.sha256(record).hexdigest()}"


def _growth(result: Json) -> Any:
    """A figure of three panels: seconds against rows, memory against rows, milliseconds a pair against its length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    time, memory, length = figure.subplots(1, 3)
    for kind in ("scoring", "training"):
        for processes, style in _STYLES.items():
            rows = [row for row in result[kind] if row["processes"] == processes]
            label = f"{kind}, {processes} process{'es' if processes > 1 else ''}"
            numbers = [row["rows"] for row in rows]
            time.plot(numbers, [row["seconds"] for row in rows], style, label=label)
            memory.plot(numbers, [row["peak_mib"]["rss"] for row in rows], style, label=label)
    time.set(title="Time of the command", xlabel="rows", ylabel="seconds", xscale="log", yscale="log")
    memory.set(title="Memory of all its processes", xlabel="rows", ylabel="MiB", xscale="log", ylim=(0, None))
    tokens = [row["tokens"] for row in result["lengths"]]
    each = [row["seconds_a_pair"] for row in result["lengths"]]
    length.plot(tokens, [1000 * one["median"] for one in each], "o-")
    length.fill_between(tokens, [1000 * one["min"] for one in each], [1000 * one["max"] for one in each], alpha=0.2)
    length.set(title="Scoring a pair", xlabel="tokens", ylabel="milliseconds", xlim=(0, None), ylim=(0, None))
    for panel in (time, memory):
        panel.legend(fontsize="small")
    for panel in (time, memory, length):
        panel.grid(alpha=0.3)
    return figure


def _save(figure: Any, to: Path, description: str) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": to.name, "svg.fonttype": "none"}):
        figure.savefig(to, metadata={"Date": None, "Description": description})


_DRAWN: dict[str, Callable[[Json], Any]] = {"growth": _growth}
