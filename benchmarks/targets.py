"""What this project set out to reach, beside what was measured; every figure is computed from a result's record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """One figure and its bound. found: None where a peer was skipped, so there is nothing to say."""

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
        """Of a Markdown table: what, wanted, measured, verdict."""
        wanted = f"{'at most' if self.at_most else 'at least'} {self.form.format(self.bound)}"
        found = "" if self.found is None else self.form.format(self.found)
        verdict = {True: "met", False: "not met", None: "not measured"}[self.met]
        return f"| {self.what} | {wanted} | {found} | {verdict} |"


def targets(result: Json) -> list[Target]:
    """The targets that a result has something to say about, by its kind."""
    return list(_OF_KIND.get(result["kind"], lambda result: iter(()))(result))


def _training(result: Json) -> Iterator[Target]:
    peers = {peer["name"]: peer for peer in result["peers"] if "skipped" not in peer}

    def of(name: str, *keys: str) -> float | None:
        found: Any = peers.get(name)
        for key in keys:
            found = None if found is None else found.get(key)
        return found

    for name, what, bound in (
        ("trainer-defaults", "rate over the Trainer's at its defaults", 3.0),
        ("trainer-best", "rate over the Trainer's at its best", 1.25),
        ("d2l-loop", "rate over the book's loop", 7.0),
    ):
        yield Target(what, of(name, "bertnli_over_it", "median"), bound)
    yield Target("share of the bf16 matrix peak", of("bertnli", "share_of_peak", "bf16"), 0.5, "{:.1%}")
    memory = of("trainer-best", "bertnli_memory_over_it")
    yield Target("peak memory over the Trainer's at its best", memory, 1.0, at_most=True)
    if result["work"]["batch_size"] == 256:
        time = of("bertnli", "time_over_plain_loop", "median")
        yield Target("time of a step over the plain loop's, ZeRO-0", time, 1.1, at_most=True)


def _gpu_training(result: Json) -> Iterator[Target]:
    for peer in result["peers"]:
        if peer["name"] == "bertnli":
            yield Target("share of the bf16 matrix rate", peer.get("share_of_peak", {}).get("bf16"), 0.4, "{:.1%}")


def _tokenise(result: Json) -> Iterator[Target]:
    """For 100,000 pairs: seconds in proportion, so that a shorter rehearsal says as much."""
    for peer in result["peers"]:
        if peer["name"] == "bertnli":
            seconds = 100_000 / peer["per_second"]["median"]
            yield Target("seconds for 100,000 pairs, from an empty cache", seconds, 10.0, "{:.1f} s", at_most=True)


def _ranks(result: Json) -> Iterator[Target]:
    for row in result["imbalance"]:
        what = f"excess of the fullest rank, batch {row['batch_size']} on {row['ranks']} ranks, median"
        yield Target(what, row["excess"]["median"], 0.05, "{:.1%}", at_most=True)


def _memory(result: Json) -> Iterator[Target]:
    sizes = f"{result['sizes'][-1]['rows']:,} rows over {result['sizes'][0]['rows']:,}"
    for start, growth in result["growth"].items():
        what = f"resident memory, {start} start, {sizes}"
        yield Target(what, growth["whole"]["rss"], 1.1, at_most=True)


def _accuracy(result: Json) -> Iterator[Target]:
    """Of 8,000 pairs and three seeds or more; fewer say nothing."""
    pairs, seeds = result["work"]["rows"], len(result["work"]["seeds"])
    if pairs < 8000 or seeds < 3:
        return
    what = f"accuracy less the Trainer's, {pairs:,} pairs, mean of {seeds} seeds"
    yield Target(what, result["points_over_trainer"], -0.5, "{:+.2f} points")


_OF_KIND: dict[str, Callable[[Json], Iterator[Target]]] = {
    "training": _training,
    "gpu-training": _gpu_training,
    "tokenise": _tokenise,
    "ranks": _ranks,
    "memory": _memory,
    "accuracy": _accuracy,
}
