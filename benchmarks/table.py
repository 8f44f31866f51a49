"""Markdown tables from the results, so that no figure is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.sets import OURS
from benchmarks.targets import targets

Json = Mapping[str, Any]


def tables(folder: Path) -> str:
    """One table for each result in `folder`, in the order of their names."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return "\n\n".join(map(table, results))


def table(result: Json) -> str:
    """The result's head in a sentence, its figures in the form of its kind, and the targets it has to do with."""
    lines = [f"### {result['name']}", "", head(result), "", *body(result)]
    found = targets(result)
    if found:
        lines += ["", *grid(("target", "wanted", "measured", ""))]
        lines += [target.row() for target in found]
    return "\n".join(lines)


def body(result: Json) -> list[str]:
    """Its figures, in the form of its kind."""
    return _BODIES.get(result["kind"], _peers)(result)


def head(result: Json) -> str:
    """What was measured where, with what, when and by which command, in a sentence."""
    machine, versions, given = result["machine"], result["versions"], result["work"]
    where = ", ".join(machine["gpus"]) if machine.get("gpus") else f"{machine['cores']} cores of {machine['cpu']}"
    tokens = f", {given['tokens_per_pair']:.1f} tokens a pair" if "tokens_per_pair" in given else ""
    batch = f", batch {given['batch_size']}" if given["batch_size"] else ""
    commit = (result["commit"] or "no commit")[:12] + (" with changes" if result["dirty"] else "")
    rounds = f"{result['rounds']} rounds; " if "rounds" in result else ""
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions)
    return (
        f"{given['rows']:,} rows of {given['rows_from']}{tokens}{batch}; "
        f"{rounds}{where}; {libraries}; {result['date'][:10]}, {commit}; `{result['command']}`."
    )


# --- what peers did in rounds ----------------------------------------------------------------------------------------


def _peers(result: Json) -> list[str]:
    """A row for each peer, the slowest first."""
    done = _done(result)
    pairs = sorted((peer for peer in done if peer["unit"] == "pairs"), key=lambda peer: peer["per_second"]["median"])
    peaks = [peer for peer in done if peer["unit"] == "FLOP"]
    lines: list[str] = []
    if pairs:
        columns = ("how", "pairs/s, median (min to max)", f"{OURS} is faster by", "of the bf16 peak", "peak memory")
        lines += [*grid(columns), *map(_row, pairs)]
    elif peaks:
        lines += grid(("what", "GFLOP/s, median (min to max)"))
        lines += [f"| {peer['about']} | {spread(peer['per_second'], 1e9)} |" for peer in peaks]
    if pairs:
        lines += _matrix_peak(peaks)
    costs = [
        f"{peer['about'].removeprefix('bertnli, ')} {spread(peer['time_over_plain_loop'])}"
        for peer in done
        if "time_over_plain_loop" in peer
    ]
    if costs:
        lines += ["", f"Time of {OURS}'s step over the plain loop's: {'; '.join(costs)}."]
    return lines + _skipped(result)


def _row(peer: Json) -> str:
    share = peer["share_of_peak"].get("bf16")
    return (
        f"| {peer['about']} | {spread(peer['per_second'])} | {faster(peer, OURS)} "
        f"| {f'{share:.0%}' if share is not None else ''} | {peer['peak_rss_mib']:,.0f} MiB |"
    )


def _scoring(result: Json) -> list[str]:
    """A row for each peer, the slowest first, with what its precision costs beside its rate."""
    done = _done(result)
    pairs = sorted((peer for peer in done if peer["unit"] == "pairs"), key=lambda peer: peer["per_second"]["median"])
    peaks = [peer for peer in done if peer["unit"] == "FLOP"]
    lines = grid(
        (
            *("how", "batch", "pairs/s, median (min to max)", f"{OURS} is faster by", f"{OURS} int8 is faster by"),
            *(f"of the {peer['options']['precision']} peak" for peer in peaks),
            *("labels changed", "accuracy", "depends on company by", "peak memory"),
        )
    )
    for peer in pairs:
        cells = [peer["about"], str(peer["options"].get("batch_size", "")), spread(peer["per_second"])]
        cells += [faster(peer, name) for name in (OURS, f"{OURS}-int8")]
        cells += [f"{peer['share_of_peak'][one['options']['precision']]:.0%}" for one in peaks]
        cells += [f"{peer['labels_changed']:.2%}", f"{peer['accuracy']:.4f}" if "accuracy" in peer else ""]
        cells += [f"{peer['depends_on_company']:.1g}", f"{peer['peak_rss_mib']:,.0f} MiB"]
        lines.append(f"| {' | '.join(cells)} |")
    about = result["work"].get("model", {})
    if "pairs" in about:
        training = f"{about['epochs']} epochs on {about['pairs']:,} pairs of {about['trained_on']}"
        lines += ["", f"Model: {about['from']}, {training}."]
    elif "random" in about:
        lines += ["", "Random weights: labels and accuracy say nothing."]
    return lines + _stages(done) + _matrix_peak(peaks) + _skipped(result)


def _stages(peers: Sequence[Json]) -> list[str]:
    """Where the time goes, of ours."""
    lines = []
    for peer in peers:
        if stages := peer.get("seconds_by_stage"):
            each = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in stages.items())
            lines += ["", f"Stages of {peer['about']}, each alone: {each}; in a run they overlap."]
    return lines


def _matrix_peak(peaks: Sequence[Json]) -> list[str]:
    found = ", ".join(f"{peer['options']['precision']} {peer['per_second']['median'] / 1e9:.0f}" for peer in peaks)
    return ["", f"Matrix peak in the same rounds, GFLOP/s: {found}."] if peaks else []


def _long_row(result: Json) -> list[str]:
    lines = grid(("what", "seconds, median (min to max)"))
    for key, what in (
        ("without_seconds", "the file without the long row"),
        ("with_seconds", "with it"),
        ("more_seconds", "difference in the same round"),
        ("alone_seconds", "the long row alone"),
    ):
        lines.append(f"| {what} | {spread(result[key])} |")
    return [
        *lines,
        "",
        f"Noise, half of what the first differs by from round to round: {result['noise_seconds']:.2f} s.",
    ]


def _start_up(result: Json) -> list[str]:
    names = {
        "python": 'python -c ""',
        "import": "from bertnli import Scorer",
        "score": "bertnli score, to the first row",
    }
    lines = grid(("what", "seconds, median (min to max)"))
    return lines + [f"| {what} | {spread(result['seconds'][name])} |" for name, what in names.items()]


def _score_memory(result: Json) -> list[str]:
    columns = (
        "rows",
        "file",
        "first bytes after",
        "seconds",
        "pairs/s",
        "peak memory, MiB",
        "own pages",
        "mapped files",
    )
    lines = grid(columns)
    for size in result["sizes"]:
        first, peak = size["seconds_to_first_bytes"], size["peak_mib"]
        lines.append(
            f"| {size['rows']:,} | {size['file_mib']:,.0f} MiB | {'' if first is None else f'{first:.1f} s'} "
            f"| {size['seconds']:,.0f} | {_three_digits(size['pairs_per_second'])} | {peak['rss']:,.0f} "
            f"| {peak['own']:,.0f} | {peak['mapped']:,.0f} |"
        )
    return lines


def _tokenise(result: Json) -> list[str]:
    lines = grid(("how", "seconds, median (min to max)", "pairs/s", "peak memory"))
    for peer in sorted(_done(result), key=lambda peer: peer["per_second"]["median"]):
        seconds = sorted(run["seconds"] for run in peer["runs"])
        found = {"median": seconds[len(seconds) // 2], "min": seconds[0], "max": seconds[-1]}
        rate, memory = peer["per_second"]["median"], peer["peak_rss_mib"]
        lines.append(f"| {peer['about']} | {spread(found)} | {_three_digits(rate)} | {memory:,.0f} MiB |")
    return lines + _skipped(result)


def _done(result: Json) -> list[Json]:
    return [peer for peer in result["peers"] if "skipped" not in peer]


def _skipped(result: Json) -> list[str]:
    return [f"\nSkipped: {peer['about']}: {peer['skipped']}." for peer in result["peers"] if "skipped" in peer]


# --- sets with an idea of their own ----------------------------------------------------------------------------------


def _ranks(result: Json) -> list[str]:
    lines = grid(("batch", "ranks", "the fullest rank has more than the mean by: median step", "worst of all steps"))
    for row in result["imbalance"]:
        excess = row["excess"]
        lines.append(f"| {row['batch_size']} | {row['ranks']} | {excess['median']:.2%} | {excess['worst']:.1%} |")
    return lines


def _memory(result: Json) -> list[str]:
    lines = grid(
        ("rows", "start", "first step after", "peak memory, MiB", "own pages", "mapped files", "corpus on disk")
    )
    for size in result["sizes"]:
        for start, found in size["starts"].items():
            peak = found["peak_mib"]["whole"]
            lines.append(
                f"| {size['rows']:,} | {start} | {found['seconds_to_first_step']:.0f} s | {peak['rss']:,.0f} "
                f"| {peak['own']:,.0f} | {peak['mapped']:,.0f} | {size['corpus_mib']:,.0f} MiB |"
            )
    for start, growth in result["growth"].items():
        parts = "; ".join(
            f"{part.replace('_', ' ')}: own {growth[part]['own']:.2f}, mapped {growth[part]['mapped']:.2f}"
            for part in ("before_steps", "steps")
        )
        lines += ["", f"Growth from the fewest rows to the most, {start} start: {parts}."]
    return lines


def _accuracy(result: Json) -> list[str]:
    lines = grid(("how", *(f"seed {seed}" for seed in result["work"]["seeds"]), "mean"))
    for how, mean in result["mean"].items():
        each = " | ".join(f"{run['accuracy']:.4f}" for run in result["runs"] if run["how"] == how)
        lines.append(f"| {how} | {each} | {mean:.4f} |")
    return lines


def _evidence(result: Json) -> list[str]:
    about = {
        "checkpoint": "its last checkpoint",
        "folder": "its folder",
        "bundle-fp32": "its fp32 bundle",
        "bundle-int8": "its int8 bundle",
        "transformers": "its folder, by transformers' own evaluation",
    }
    lines = grid((f"bertnli eval of {result['work']['test']}", "accuracy", "rows", "log loss"))
    for how, found in result["same"].items():
        lines.append(f"| {about[how]} | {found['accuracy']:.4f} | {found['rows']:,} | {found['loss']:.4f} |")
    before, after = result["calibration"]["before"], result["calibration"]["after"]
    held_out = result["work"]["held_out_rows"]
    lines += ["", *grid((f"a temperature, fitted on {held_out:,} other rows", "ECE", "Brier score", "log loss"))]
    for what, one in (("without", before), (f"{result['calibration']['temperature']:.3g}", after)):
        lines.append(f"| {what} | {one['ece']:.4f} | {one['brier']:.4f} | {one['loss']:.4f} |")
    artefact = result["artefact"]
    lines += ["", *grid(("how much of it is annotation artefact", "accuracy"))]
    lines += [
        f"| the model, premises given to other rows | {artefact['shuffled_premises']:.4f} |",
        f"| the same run, blind to premises | {artefact['hypothesis_only']:.4f} |",
        f"| the largest class for every row | {artefact['largest_class']:.4f} |",
    ]
    return lines


def _gpu_checks(result: Json) -> list[str]:
    lines = grid(("check", "found", "at most", ""))
    for check in result["checks"]:
        if check["skipped"]:
            lines.append(f"| {check['what']} | | | skipped: {check['skipped']} |")
        else:
            verdict = "right" if check["right"] else "WRONG"
            lines.append(f"| {check['what']} | {check['found']:.2g} | {check['limit']:.2g} | {verdict} |")
    return lines


def _gpu_run(result: Json) -> list[str]:
    names = ("from the command to the model, s", "training, pairs/s", "accuracy", "rows evaluated")
    values = (
        f"{result['wall_seconds']:.0f}",
        _three_digits(result["pairs_per_second"]),
        f"{result['accuracy']:.4f}",
        f"{result['rows']:,}",
    )
    return [*grid(names), f"| {' | '.join(values)} |"]


_BODIES: dict[str, Callable[[Json], list[str]]] = {
    "scoring": _scoring,
    "gpu-scoring": _scoring,
    "long-row": _long_row,
    "start-up": _start_up,
    "score-memory": _score_memory,
    "tokenise": _tokenise,
    "ranks": _ranks,
    "memory": _memory,
    "accuracy": _accuracy,
    "evidence": _evidence,
    "gpu-checks": _gpu_checks,
    "gpu-run": _gpu_run,
}


def grid(columns: Sequence[str]) -> list[str]:
    """The two lines that begin a table."""
    return [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]


def spread(found: Json, unit: float = 1.0) -> str:
    """`74 (70 to 77)`, to three digits."""
    median, low, high = (_three_digits(found[key] / unit) for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def faster(peer: Json, name: str) -> str:
    """What `name` is faster than the peer by, in the same round; nothing where that was not compared."""
    ratio = peer.get(f"{name}_over_it")
    return f"{spread(ratio)} x" if ratio else ""


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
