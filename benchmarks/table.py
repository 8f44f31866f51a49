"""Markdown tables of the records in benchmarks/results, so that no figure is typed by hand."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.sets import OURS, SHAPE_TOKENS, TRAINED_SHAPES
from benchmarks.shapes import SHAPES
from benchmarks.targets import targets

Json = Mapping[str, Any]

_TITLES = {
    "training-32": "Training, batch 32",
    "training-256": "Training, batch 256",
    "reported-32": "Training, batch 32, as each program reports its own speed",
    "scoring": "Scoring a file",
    "scoring-base": "Scoring with a model of BERT-base's shape",
    "gpu-checks": "A GPU: what it computes",
    "gpu-training-256": "A GPU: training BERT-base, batch 256",
    "gpu-training-1024": "A GPU: training BERT-base, batch 1,024",
    "gpu-scoring": "A GPU: scoring a file with BERT-base",
    "gpu-minilm": "A GPU: fine-tuning MiniLM",
    "accuracy": "Accuracy after the same training",
    "evidence": "What `bertnli eval` reports of one model",
    "distill": "A large model teaches a small one",
    "start-up": "Start-up",
    "busy": "On a machine that others use too",
    "memory": "Memory of training",
    "score-memory": "Memory of scoring",
    "score-processes": "CPU time of scoring's processes",
    "tokenise": "Tokenising",
    "ranks": "Tokens of the ranks",
    "long-row": "One long row among the others",
    **{
        f"shape-{shape}-{tokens}": f"Scoring with a model of {shape}'s shape, rows of about {tokens} tokens"
        for shape in SHAPES
        for tokens in SHAPE_TOKENS
    },
    **{f"shape-{shape}-training": f"Training a model of {shape}'s shape, batch 32" for shape in TRAINED_SHAPES},
}
"""Of the records by name, in the order in which they are shown."""

_RATE = "pairs/s, median (min to max)"


def tables(folder: Path, *, with_targets: bool = True) -> str:
    """A section for each record in `folder`, in the order of `_TITLES`."""
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    names = [*(name for name in _TITLES if name in records), *(name for name in records if name not in _TITLES)]
    return "\n\n".join(table(records[name], with_targets=with_targets) for name in names)


def table(result: Json, *, with_targets: bool = True) -> str:
    """A title, the figures in the form of the record's kind, what was measured on, and the targets."""
    lines = [f"### {_TITLES.get(result['name'], result['name'])}", "", *body(result), "", head(result)]
    found = targets(result) if with_targets else []
    if found:
        lines += ["", *grid(("target", "wanted", "measured", ""))]
        lines += [target.row() for target in found]
    return "\n".join(lines)


def body(result: Json) -> list[str]:
    """Its figures, in the form of its kind."""
    return _BODIES.get(result["kind"], _peers)(result)


def hardware(result: Json) -> str:
    """The GPUs, or the cores of the CPU."""
    machine = result["machine"]
    return ", ".join(machine["gpus"]) if machine.get("gpus") else f"{machine['cores']} cores of {machine['cpu']}"


def head(result: Json) -> str:
    """What was measured where, with what, when and by which command, in a sentence."""
    versions, given = result["versions"], result["work"]
    tokens = f", {given['tokens_per_pair']:.1f} tokens a pair" if "tokens_per_pair" in given else ""
    batch = f", batch {given['batch_size']}" if given["batch_size"] else ""
    commit = (result["commit"] or "no commit")[:12] + (" with changes" if result["dirty"] else "")
    rounds = f"{result['rounds']} rounds; " if "rounds" in result else ""
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions)
    return (
        f"{given['rows']:,} rows of {given['rows_from']}{tokens}{batch}; "
        f"{rounds}{hardware(result)}; {libraries}; {result['date'][:10]}, {commit}; `{result['command']}`."
    )


# --- what peers did in rounds ----------------------------------------------------------------------------------------


def _peers(result: Json) -> list[str]:
    """A row for each peer, the slowest first."""
    pairs, peaks = _rated(result, "pairs"), _rated(result, "FLOP")
    lines = grid(("how", _RATE, f"speed-up by {OURS}", "MFU, of the bf16 peak", "peak memory"))
    for peer in pairs:
        cells = (peer["about"], spread(peer["per_second"]), faster(peer, OURS), _mfu(peer, "bf16"), _memory_cell(peer))
        lines.append(f"| {' | '.join(cells)} |")
    times = [
        f"{peer['about'].removeprefix('bertnli, ')} {spread(peer['time_over_plain_loop'])}"
        for peer in _done(result)
        if "time_over_plain_loop" in peer
    ]
    if times:
        lines += ["", f"Time of {OURS}'s step over the plain loop's: {'; '.join(times)}."]
    return lines + _matmul_peak(peaks) + _skipped(result)


def _reported(result: Json) -> list[str]:
    lines = grid(("how", _RATE, f"speed-up by {OURS}"))
    lines += [
        f"| {peer['about']} | {spread(peer['per_second'])} | {faster(peer, OURS)} |" for peer in _rated(result, "pairs")
    ]
    how = "each run is a process of its own, and trains once on these rows"
    return [*lines, "", f"`train_samples_per_second` of the Trainer, `pairs_per_second` of `bertnli train`; {how}."]


def _scoring(result: Json) -> list[str]:
    """A row for each peer, the slowest first, with what its precision costs beside its rate."""
    pairs, peaks = _rated(result, "pairs"), _rated(result, "FLOP")
    ours = sorted(peer["name"] for peer in pairs if peer["name"].startswith(OURS))
    columns = ("how", "batch", _RATE, *(f"speed-up by {name.replace('-', ' ')}" for name in ours), "MFU")
    lines = grid((*columns, "labels changed", "accuracy", "alone against batched", "peak memory"))
    for peer in pairs:
        cells = [peer["about"], str(peer["options"].get("batch_size", "")), spread(peer["per_second"])]
        cells += [faster(peer, name) for name in ours]
        precision = peer["options"]["precision"]
        cells += [_mfu(peer, "bf16" if precision == "fp16" else precision)]  # a GPU's rates in the two are the same
        cells += [f"{peer['labels_changed']:.2%}", f"{peer['accuracy']:.4f}" if "accuracy" in peer else ""]
        cells += [f"{peer['depends_on_company']:.1g}", _memory_cell(peer)]
        lines.append(f"| {' | '.join(cells)} |")
    about = result["work"].get("model", {})
    if "pairs" in about:
        training = f"{about['epochs']} epochs on {about['pairs']:,} pairs of {about['trained_on']}"
        lines += ["", f"Model: {about['from']}, {training}."]
    elif "random" in about:
        lines += ["", "The weights are random, so labels and accuracy have no meaning."]
    return lines + _stages(pairs) + _matmul_peak(peaks) + _skipped(result)


def _stages(peers: Sequence[Json]) -> list[str]:
    """Where bertnli's time goes."""
    lines = []
    for peer in peers:
        if stages := peer.get("seconds_by_stage"):
            each = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in stages.items())
            lines += ["", f"Stages of {peer['about']}, each run alone: {each}. In a real run they overlap."]
    return lines


def _matmul_peak(peaks: Sequence[Json]) -> list[str]:
    found = ", ".join(f"{peer['options']['precision']} {peer['per_second']['median'] / 1e9:.0f}" for peer in peaks)
    return ["", f"Matmul peak measured in the same rounds, GFLOP/s: {found}."] if peaks else []


def _mfu(peer: Json, precision: str) -> str:
    """The share of the measured matmul peak, where that was measured."""
    share = peer["share_of_peak"].get(precision)
    return "" if share is None else f"{share:.0%}"


def _memory_cell(peer: Json) -> str:
    return f"{peer['peak_rss_mib']:,.0f} MiB"


def _long_row(result: Json) -> list[str]:
    lines = grid(("what", "seconds, median (min to max)"))
    for key, what in (
        ("without_seconds", "the file without the long row"),
        ("with_seconds", "the file with the long row"),
        ("more_seconds", "their difference in the same round"),
        ("alone_seconds", "the long row alone"),
    ):
        lines.append(f"| {what} | {spread(result[key])} |")
    noise = result["noise_seconds"]
    return [*lines, "", f"Noise: {noise:.2f} s, half of the range of the file without the long row over the rounds."]


def _start_up(result: Json) -> list[str]:
    names = {
        "python": 'python -c ""',
        "torch": 'python -c "import torch"',
        "import": "from bertnli import Scorer",
        "score": "bertnli score, to the first row",
        "train": "bertnli train, to the end of the first step, on a corpus that is prepared already",
    }
    lines = grid(("what", "seconds, median (min to max)"))
    return lines + [f"| {names[name]} | {spread(seconds)} |" for name, seconds in result["seconds"].items()]


def _busy(result: Json) -> list[str]:
    """For each task: the rates, then the share that each got of its fair share, then our speed-up."""
    lines: list[str] = []
    places = list(result["places"])
    for task, found in result["tasks"].items():
        done = [peer for peer in found["peers"] if "skipped" not in peer]
        lines += ["", *grid((f"{task}, pairs/s", *places))]
        lines += [_in_places(peer["about"], peer["per_second"], places) for peer in done]
        lines += ["", *grid((f"{task}, rate over the fair share of the rate alone", *places))]
        lines += [_in_places(peer["about"], peer["of_fair_share"], places) for peer in done]
        if others := [peer for peer in done if f"{OURS}_over_it" in peer]:
            lines += ["", *grid((f"{task}, speed-up by {OURS}", *places))]
            lines += [_in_places(peer["about"], peer[f"{OURS}_over_it"], places, " x") for peer in others]
        lines += _skipped(found)
    lines += [f"\nNot measurable here: {place}: {reason}." for place, reason in result["not_measured"].items()]
    return lines[1:]


def _in_places(about: str, figures: Json, places: Sequence[str], unit: str = "") -> str:
    cells = [spread(figures[place]) + unit if place in figures else "" for place in places]
    return f"| {' | '.join([about, *cells])} |"


def _score_memory(result: Json) -> list[str]:
    columns = ("rows", "file", "first bytes after", "seconds", "pairs/s")
    lines = grid((*columns, "peak memory, MiB", "own pages", "mapped files"))
    for size in result["sizes"]:
        first, peak = size["seconds_to_first_bytes"], size["peak_mib"]
        lines.append(
            f"| {size['rows']:,} | {size['file_mib']:,.0f} MiB | {'' if first is None else f'{first:.1f} s'} "
            f"| {size['seconds']:,.0f} | {_three_digits(size['pairs_per_second'])} | {peak['rss']:,.0f} "
            f"| {peak['own']:,.0f} | {peak['mapped']:,.0f} |"
        )
    return lines


def _score_processes(result: Json) -> list[str]:
    lines = grid(
        ("format", "main process, pairs per second of CPU time", "main process, us a pair", "workers, us a pair")
    )
    for one in result["formats"]:
        rate = _three_digits(one["main_pairs_per_second"])
        lines.append(f"| {one['format']} | {rate} | {one['main_seconds']:.2f} | {one['worker_seconds']:.1f} |")
    return [*lines, "", "The model takes no time; the workers parse, tokenise, batch and encode."]


def _tokenise(result: Json) -> list[str]:
    lines = grid(("how", "seconds, median (min to max)", "pairs/s", "peak memory"))
    for peer in _rated(result, "pairs"):
        seconds = sorted(run["seconds"] for run in peer["runs"])
        found = {"median": seconds[len(seconds) // 2], "min": seconds[0], "max": seconds[-1]}
        rate, memory = peer["per_second"]["median"], _memory_cell(peer)
        lines.append(f"| {peer['about']} | {spread(found)} | {_three_digits(rate)} | {memory} |")
    return lines + _skipped(result)


def _done(result: Json) -> list[Json]:
    return [peer for peer in result["peers"] if "skipped" not in peer]


def _rated(result: Json, unit: str) -> list[Json]:
    """The peers whose rate is in this unit, the slowest first."""
    return sorted((one for one in _done(result) if one["unit"] == unit), key=lambda one: one["per_second"]["median"])


def _skipped(result: Json) -> list[str]:
    return [f"\nSkipped: {peer['about']}: {peer['skipped']}." for peer in result["peers"] if "skipped" in peer]


# --- other kinds of record -------------------------------------------------------------------------------------------


def _ranks(result: Json) -> list[str]:
    lines = grid(("batch", "ranks", "tokens of the fullest rank above the mean, median step", "worst step"))
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
    about = {OURS: OURS, "trainer-best": "transformers Trainer, its best settings"}
    for how, mean in result["mean"].items():
        each = " | ".join(f"{run['accuracy']:.4f}" for run in result["runs"] if run["how"] == how)
        lines.append(f"| {about[how]} | {each} | {mean:.4f} |")
    return lines


def _evidence(result: Json) -> list[str]:
    about = {
        "checkpoint": "the last checkpoint",
        "folder": "the model folder",
        "bundle-fp32": "the fp32 bundle",
        "bundle-int8": "the int8 bundle",
        "transformers": "the model folder, by transformers' own evaluation",
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
    lines += ["", *grid(("how much of the accuracy is annotation artefact", "accuracy"))]
    lines += [
        f"| the same model, premises shuffled among the rows | {artefact['shuffled_premises']:.4f} |",
        f"| a hypothesis-only baseline of the same run | {artefact['hypothesis_only']:.4f} |",
        f"| the largest class for every row | {artefact['largest_class']:.4f} |",
    ]
    return lines


def _distill(result: Json) -> list[str]:
    blocks = len(result["options"]["student"]["keep_layers"])
    about = {
        "teacher": "the teacher, all blocks",
        "taught": f"{blocks} of its blocks, taught by it",
        "alone": f"{blocks} of its blocks, without a teacher",
    }
    lines = grid((f"bertnli eval of {result['work']['test']}", "mean accuracy", "of each seed"))
    for how, name in about.items():
        each = ", ".join(f"{run['accuracy']:.4f}" for run in result["runs"] if run["how"] == how)
        lines.append(f"| {name} | {result['mean'][how]:.4f} | {each} |")
    lines += ["", *grid(("bertnli score, pairs/s", "the teacher", "the student", "speed-up"))]
    for precision, rates in result["scoring"].items():
        medians = [f"{statistics.median(rates[how]):,.0f}" for how in ("teacher", "taught")]
        lines.append(f"| {precision} | {medians[0]} | {medians[1]} | {result['speed_up'][precision]:.2f} x |")
    return lines


def _gpu_checks(result: Json) -> list[str]:
    lines = grid(("check", "found", "at most", ""))
    for check in result["checks"]:
        if check["skipped"]:
            lines.append(f"| {check['what']} |  |  | skipped: {check['skipped']} |")
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
    "reported": _reported,
    "scoring": _scoring,
    "shape-scoring": _scoring,
    "gpu-scoring": _scoring,
    "long-row": _long_row,
    "start-up": _start_up,
    "busy": _busy,
    "score-memory": _score_memory,
    "score-processes": _score_processes,
    "tokenise": _tokenise,
    "ranks": _ranks,
    "memory": _memory,
    "accuracy": _accuracy,
    "evidence": _evidence,
    "distill": _distill,
    "gpu-checks": _gpu_checks,
    "gpu-run": _gpu_run,
}


def grid(columns: Sequence[str]) -> list[str]:
    """The two lines that begin a table."""
    return [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]


def spread(found: Json) -> str:
    """`74 (70 to 77)`, to three digits."""
    median, low, high = (_three_digits(found[key]) for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def faster(peer: Json, name: str) -> str:
    """How many times as fast as the peer `name` is, in the same round; empty where that was not compared."""
    ratio = peer.get(f"{name}_over_it")
    return f"{spread(ratio)} x" if ratio else ""


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
