"""The project's goals beside what was measured; every figure is computed from a record."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """One figure and its bound. found: None if a peer was skipped, so that the figure is unknown."""

    what: str
    found: float | None
    bound: float
    form: str = "{:.2f} x"
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        if self.found is None:
            return None
        return self.found <= self.bound if self.at_most else self.found >= self.bound

    def row(self) -> str:
        """A row of a Markdown table: what, wanted, measured, verdict."""
        wanted = f"{'at most' if self.at_most else 'at least'} {self.form.format(self.bound)}"
        found = "" if self.found is None else self.form.format(self.found)
        verdict = {True: "met", False: "not met", None: "not measured"}[self.met]
        return f"| {self.what} | {wanted} | {found} | {verdict} |"


def targets(result: Json) -> list[Target]:
    """The targets that belong to a record, by its kind."""
    return list(_OF_KIND.get(result["kind"], lambda result: iter(()))(result))


_TRAINING = {32: (1.5, 0.5), 256: (1.6, 0.65)}
"""By batch size: the rate over the Trainer's with its best settings, and the MFU."""


def _training(result: Json) -> Iterator[Target]:
    if result["work"]["batch_size"] not in _TRAINING:
        return
    over_best, mfu = _TRAINING[result["work"]["batch_size"]]
    peers = {peer["name"]: peer for peer in result["peers"] if "skipped" not in peer}

    def of(name: str, *keys: str) -> float | None:
        found: Any = peers.get(name)
        for key in keys:
            found = None if found is None else found.get(key)
        return found

    for name, what, bound in (
        ("trainer-defaults", "rate over the Trainer's with its defaults", 3.0),
        ("trainer-best", "rate over the Trainer's with its best settings", over_best),
        ("d2l-loop", "rate over the book's loop", 7.0),
    ):
        yield Target(what, of(name, "bertnli_over_it", "median"), bound)
    yield Target("MFU, of the measured bf16 peak", of("bertnli", "share_of_peak", "bf16"), mfu, "{:.1%}")
    memory = of("trainer-best", "bertnli_memory_over_it")
    yield Target("peak memory over the Trainer's with its best settings", memory, 1.0, at_most=True)
    if result["work"]["batch_size"] == 256:
        time = of("bertnli", "time_over_plain_loop", "median")
        yield Target("time of a step over the plain loop's, ZeRO-0", time, 1.1, at_most=True)


def _reported(result: Json) -> Iterator[Target]:
    peers = {peer["name"]: peer for peer in result["peers"]}
    for name, what, bound in (
        ("trainer-defaults", "rate over the Trainer's with its defaults", 3.0),
        ("trainer-best", "rate over the Trainer's with its best settings", _TRAINING[32][0]),
    ):
        yield Target(what, peers[name]["bertnli_over_it"]["median"], bound)


def _scoring(result: Json) -> Iterator[Target]:
    """int8 is compared with CrossEncoder, the fastest peer, and all int8 peers."""
    peers = {peer["name"]: peer for peer in result["peers"] if "skipped" not in peer and peer["unit"] == "pairs"}
    others = [peer for name, peer in peers.items() if not name.startswith("bertnli")]
    cross_encoder, int8 = peers.get("cross-encoder", {}), peers.get("bertnli-int8")

    yield Target("rate over CrossEncoder.predict's", cross_encoder.get("bertnli_over_it", {}).get("median"), 1.3)
    over = "bertnli-int8_over_it"
    over_cross_encoder = cross_encoder.get(over, {}).get("median")
    over_best = min((peer[over]["median"] for peer in others if over in peer), default=None)
    yield Target("int8's rate over CrossEncoder.predict's", over_cross_encoder, 4.5)
    yield Target("int8's rate over the best peer's", over_best, 1.25)
    if result["name"] == "scoring":  # MiniLM's shape
        yield Target("int8, pairs/s", int8 and int8["per_second"]["median"], 1100, "{:,.0f}")
    theirs = [peer["labels_changed"] for peer in others if peer["options"]["precision"] == "int8"]
    if theirs:
        changed = None if int8 is None else int8["labels_changed"]
        fewer = min(theirs) - 1 / result["work"]["rows"]
        what = "labels changed by int8: one row fewer than by any int8 peer"
        yield Target(what, changed, fewer, "{:.2%}", at_most=True)
    difference = None if int8 is None else int8["depends_on_company"]
    yield Target("int8's probabilities, alone against batched", difference, 0.0, "{:.2g}", at_most=True)


def _shape_scoring(result: Json) -> Iterator[Target]:
    peers = {peer["name"]: peer for peer in result["peers"] if "skipped" not in peer and peer["unit"] == "pairs"}

    def over(name: str, ours: str) -> float | None:
        return peers.get(name, {}).get(f"{ours}_over_it", {}).get("median")

    fp32 = [peer for name, peer in peers.items() if name not in ("cross-encoder", "bertnli", "bertnli-int8")]
    best = [peer["bertnli_over_it"]["median"] for peer in fp32 if peer["options"]["precision"] == "fp32"]
    yield Target("rate over CrossEncoder.predict's", over("cross-encoder", "bertnli"), 1.5)
    yield Target("rate over the best other fp32 peer's", min(best, default=None), 1.0)
    yield Target("int8's rate over CrossEncoder.predict's", over("cross-encoder", "bertnli-int8"), 3.5)
    yield Target("int8's rate over OpenVINO's int8", over("openvino-int8", "bertnli-int8"), 1.0)
    difference = peers.get("bertnli-int8", {}).get("depends_on_company")
    yield Target("int8's probabilities, alone against batched", difference, 0.0, "{:.2g}", at_most=True)


def _shape_training(result: Json) -> Iterator[Target]:
    peers = {peer["name"]: peer for peer in result["peers"] if "skipped" not in peer}
    over = peers.get("trainer-best", {}).get("bertnli_over_it", {}).get("median")
    yield Target("rate over the Trainer's with its best settings", over, 1.25)


def _long_row(result: Json) -> Iterator[Target]:
    what = "extra seconds with one long row: twice its own, plus noise"
    bound = 2 * result["alone_seconds"]["median"] + result["noise_seconds"]
    yield Target(what, result["more_seconds"]["median"], bound, "{:.3f} s", at_most=True)


def _start_up(result: Json) -> Iterator[Target]:
    bounds = {
        "score": ("from the command to the first scored row", 1.5),
        "train": ("from the command to the first step of training", 6.0),
        "import": ("from bertnli import Scorer", 0.3),
    }
    for name, (what, bound) in bounds.items():
        yield Target(what, result["seconds"].get(name, {}).get("median"), bound, "{:.2f} s", at_most=True)
    yield Target("modules of torch in that process", result["torch_modules"], 0.0, "{:.0f}", at_most=True)


def _busy(result: Json) -> Iterator[Target]:
    """In each place beside busy loops, against the peer as people start it, and against what the scheduler allows."""
    usual = {
        "training": ("trainer-defaults", "the Trainer's with its defaults"),
        "scoring": ("cross-encoder", "CrossEncoder.predict's"),
    }
    for task, found in result["tasks"].items():
        peers = {peer["name"]: peer for peer in found["peers"]}
        name, whose = usual[task]
        for place in (place for place in result["places"] if place.startswith("beside")):
            over = peers.get(name, {}).get("bertnli_over_it", {}).get(place, {}).get("median")
            share = peers.get("bertnli", {}).get("of_fair_share", {}).get(place, {}).get("median")
            yield Target(f"{task} {place}, rate over {whose}", over, 5.0)
            yield Target(f"{task} {place}, rate over its fair share", share, 0.5)


def _score_memory(result: Json) -> Iterator[Target]:
    small, large = result["sizes"][0], result["sizes"][-1]
    rows = f"{large['rows']:,} rows"
    yield Target(
        f"resident memory above the model, {rows}", large["above_model_mib"], 1024, "{:,.0f} MiB", at_most=True
    )
    what = f"resident memory, {rows} over {small['rows']:,}"
    yield Target(what, result["growth"]["rss"], 1.1, at_most=True)


def _score_processes(result: Json) -> Iterator[Target]:
    for one in result["formats"]:
        what = f"main process, {one['format']}, pairs per second of CPU time"
        yield Target(what, one["main_pairs_per_second"], 150_000, "{:,.0f}")


def _gpu_training(result: Json) -> Iterator[Target]:
    for peer in result["peers"]:
        if peer["name"] == "bertnli":
            yield Target("MFU, of the measured bf16 peak", peer.get("share_of_peak", {}).get("bf16"), 0.4, "{:.1%}")


def _gpu_scoring(result: Json) -> Iterator[Target]:
    peers = [peer for peer in result["peers"] if "skipped" not in peer and peer["unit"] == "pairs"]
    ours = next((peer["per_second"]["median"] for peer in peers if peer["name"] == "bertnli"), None)
    over_best = min((peer["bertnli_over_it"]["median"] for peer in peers if "bertnli_over_it" in peer), default=None)
    yield Target("pairs/s, file to file", ours, 40_000, "{:,.0f}")
    yield Target("rate over the best peer's", over_best, 3.0)


def _tokenise(result: Json) -> Iterator[Target]:
    """The seconds are scaled to 100,000 pairs, so a shorter run is comparable."""
    for peer in result["peers"]:
        if peer["name"] == "bertnli":
            seconds = 100_000 / peer["per_second"]["median"]
            yield Target("seconds for 100,000 pairs, from an empty cache", seconds, 10.0, "{:.1f} s", at_most=True)


def _ranks(result: Json) -> Iterator[Target]:
    for row in result["imbalance"]:
        what = f"tokens of the fullest rank above the mean, batch {row['batch_size']} on {row['ranks']} ranks, median"
        yield Target(what, row["excess"]["median"], 0.05, "{:.1%}", at_most=True)


def _memory(result: Json) -> Iterator[Target]:
    sizes = f"{result['sizes'][-1]['rows']:,} rows over {result['sizes'][0]['rows']:,}"
    for start, growth in result["growth"].items():
        what = f"resident memory, {start} start, {sizes}"
        yield Target(what, growth["whole"]["rss"], 1.1, at_most=True)


def _accuracy(result: Json) -> Iterator[Target]:
    """For 8,000 pairs and three seeds or more; fewer prove nothing."""
    pairs, seeds = result["work"]["rows"], len(result["work"]["seeds"])
    if pairs < 8000 or seeds < 3:
        return
    what = f"accuracy minus the Trainer's, {pairs:,} pairs, mean of {seeds} seeds"
    yield Target(what, result["points_over_trainer"], -0.5, "{:+.2f} points")


def _evidence(result: Json) -> Iterator[Target]:
    same, calibration, warned = result["same"], result["calibration"], result["warned"]

    def apart(*names: str) -> float:
        """The largest number of rows whose cell of the confusion matrix differs from the model folder's."""
        tables = [[*itertools.chain(*same[name]["confusion"])] for name in ("folder", *names)]
        return max(sum(abs(a - b) for a, b in zip(tables[0], table, strict=True)) for table in tables) / 2

    names = ("checkpoint", "bundle-fp32")
    yield Target("rows on which checkpoint, folder and fp32 bundle differ", apart(*names), 0.0, "{:.0f}", at_most=True)
    yield Target("rows on which transformers differs", apart("transformers"), 0.0, "{:.0f}", at_most=True)
    ratio = calibration["after"]["ece"] / calibration["before"]["ece"]
    yield Target("ECE on unseen rows, with temperature over without", ratio, 1.0, "{:.2f}", at_most=True)
    for how, wanted in (("good", False), ("swapped", True)):
        right = (warned[how] is not None) == wanted
        yield Target(f"warning of swapped labels {'fires' if wanted else 'is silent'}", float(right), 1.0, "{:.0f}")


def _distill(result: Json) -> Iterator[Target]:
    yield Target("points by which a teacher helps", result["points_over_alone"], 1.0, "{:.2f}")
    yield Target("scoring speed of half the blocks, fp32", result["speed_up"]["fp32"], 1.8, "{:.2f} x")


_OF_KIND: dict[str, Callable[[Json], Iterator[Target]]] = {
    "training": _training,
    "reported": _reported,
    "scoring": _scoring,
    "shape-scoring": _shape_scoring,
    "shape-training": _shape_training,
    "long-row": _long_row,
    "start-up": _start_up,
    "busy": _busy,
    "score-memory": _score_memory,
    "score-processes": _score_processes,
    "gpu-training": _gpu_training,
    "gpu-scoring": _gpu_scoring,
    "tokenise": _tokenise,
    "ranks": _ranks,
    "memory": _memory,
    "accuracy": _accuracy,
    "evidence": _evidence,
    "distill": _distill,
}
