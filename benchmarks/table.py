"""Markdown tables from the results, so that no figure is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.sets import OURS

Json = Mapping[str, Any]


def tables(folder: Path) -> str:
    """One table for each result in `folder`, in the order of their names."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return "\n\n".join(map(table, results))


def table(result: Json) -> str:
    """The result's head in a sentence, then a row for each peer, the slowest first; of a profile, its shares."""
    if result["kind"] == "profile":
        lines = [f"### {result['name']}", "", _head(result), "", "| kind of work | of a step |", "| --- | --- |"]
        return "\n".join(lines + [f"| {kind} | {share:.0%} |" for kind, share in result["kinds"].items()])
    done = [peer for peer in result["peers"] if "skipped" not in peer]
    pairs = sorted((peer for peer in done if peer["unit"] == "pairs"), key=lambda peer: peer["per_second"]["median"])
    peaks = [peer for peer in done if peer["unit"] == "FLOP"]
    lines = [f"### {result['name']}", "", _head(result), ""]
    if pairs:
        lines += [
            f"| how | pairs/s, median (min to max) | {OURS} is faster by | of the bf16 peak | peak memory |",
            "| --- | --- | --- | --- | --- |",
            *map(_row, pairs),
        ]
    elif peaks:
        lines += ["| what | GFLOP/s, median (min to max) |", "| --- | --- |"]
        lines += [f"| {peer['about']} | {_spread(peer['per_second'], 1e9)} |" for peer in peaks]
    if pairs and peaks:
        found = ", ".join(f"{peer['options']['precision']} {peer['per_second']['median'] / 1e9:.0f}" for peer in peaks)
        lines += ["", f"Matrix peak in the same rounds, GFLOP/s: {found}."]
    lines += [f"\nSkipped: {peer['about']}: {peer['skipped']}." for peer in result["peers"] if "skipped" in peer]
    return "\n".join(lines)


def _head(result: Json) -> str:
    machine, versions, given = result["machine"], result["versions"], result["work"]
    where = ", ".join(machine["gpus"]) if machine.get("gpus") else f"{machine['cores']} cores of {machine['cpu']}"
    batch = f", batch {given['batch_size']}" if given["batch_size"] else ""
    commit = (result["commit"] or "no commit")[:12] + (" with changes" if result["dirty"] else "")
    rounds = f"{result['rounds']} rounds; " if "rounds" in result else ""
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions)
    return (
        f"{given['rows']:,} rows of {given['rows_from']}, {given['tokens_per_pair']:.1f} tokens a pair{batch}; "
        f"{rounds}{where}; {libraries}; {result['date'][:10]}, {commit}; `{result['command']}`."
    )


def _row(peer: Json) -> str:
    ratio = peer.get(f"{OURS}_over_it")
    share = peer["share_of_peak"].get("bf16")
    return (
        f"| {peer['about']} | {_spread(peer['per_second'])} | {_spread(ratio) + ' x' if ratio else ''} "
        f"| {f'{share:.0%}' if share is not None else ''} | {peer['peak_rss_mib']:,.0f} MiB |"
    )


def _spread(found: Json, unit: float = 1.0) -> str:
    """`74 (70 to 77)`, to three digits."""
    median, low, high = (_three_digits(found[key] / unit) for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
