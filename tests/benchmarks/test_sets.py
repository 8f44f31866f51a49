"""Sets with an idea of their own: tokenisation, imbalance of ranks, memory, accuracy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import accuracy, machine, memory, ranks, work
from benchmarks.table import table
from benchmarks.targets import targets
from benchmarks.tokenise import CorpusPreparation, TransformersTokenizer, tokenising
from bertnli.common.errors import RunError
from bertnli.data.batches import Assignment
from tests.support import tiny
from tests.support.benchmarked import snli_file


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return snli_file(tmp_path, 400)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.hf_folder(tmp_path / "tiny", max_positions=128)


def test_tokenisers_agree_and_begin_where_they_say(rows: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    given = tokenising(folder, str(model), str(rows))
    labelled = [row for row in map(json.loads, rows.open()) if row["gold_label"] != "-"]
    assert given.pairs == len(labelled) < 400
    peers = [TransformersTokenizer(given), CorpusPreparation(given), CorpusPreparation(given, again=True)]
    expected, *others = (peer.check() for peer in peers)
    assert len(expected) == round(given.tokens_per_pair * given.pairs)
    assert others == [expected, expected]

    def corpora(peer: CorpusPreparation) -> list[int]:
        return [
            path.stat().st_mtime_ns for path in (folder / f"{peer.name}-cache" / "corpora").iterdir() if path.is_dir()
        ]

    for peer in peers:
        peer.prepare()  # each has a cache of its own, named in the environment of its own process
        assert peer.run(given.pairs).done == given.pairs
        if isinstance(peer, CorpusPreparation):
            before = corpora(peer)
            assert peer.run(given.pairs).done == given.pairs
            assert (corpora(peer) == before) == peer.again
            assert len(before) == 1 or peer.again  # an empty cache is empty of the shorter file, too
    assert peers[1].run(100).done < 100  # rows without a gold label
    assert rows.parent.joinpath("snli-100.jsonl").exists() is False


def test_imbalance_is_counted_over_every_step(
    rows: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ranks.ranks(tmp_path, str(model), str(rows), lambda line: None)
    assert [(row["batch_size"], row["ranks"]) for row in real["imbalance"]] == [
        (batch, world) for batch in (32, 256) for world in (2, 4, 8)
    ]
    pairs = real["work"]["rows"]
    assert [row["steps"] for row in real["imbalance"]] == [-(-pairs // 32)] * 3 + [-(-pairs // 256)] * 3
    assert all(0 <= row["excess"]["median"] <= row["excess"]["worst"] for row in real["imbalance"])
    # One rank that gets all in the first step has `world` times the mean.
    calls: list[int] = []

    def unfair(step: Any, lengths: Any, world: int) -> Assignment:
        calls.append(world)
        tokens = [1000, 0, 0, 0] if len(calls) == 1 else [250] * 4
        return Assignment(step, step, step, np.array(tokens))

    monkeypatch.setattr("bertnli.data.batches.assign_to_ranks", unfair)
    monkeypatch.setattr(ranks, "WORLDS", (4,))
    monkeypatch.setattr(ranks, "BATCH_SIZES", (32,))
    (row,) = ranks.ranks(tmp_path, str(model), str(rows), lambda line: None)["imbalance"]
    assert row["excess"] == {"median": 0.0, "mean": pytest.approx(3 / row["steps"]), "worst": 3.0}
    (target,) = targets({"kind": "ranks", "imbalance": [row]})
    assert target.met is True


def test_rows_are_repeated_with_their_words_in_another_order(rows: Path, tmp_path: Path) -> None:
    path = memory.write_rows(str(rows), tiny.SNLI_LABELS, 1000, tmp_path / "many.jsonl")
    labelled = [row for row in map(json.loads, rows.open()) if row["gold_label"] != "-"]
    found = [json.loads(line) for line in path.open()]
    assert len(found) == 1000
    names = ("sentence1", "sentence2", "gold_label")
    assert found[: len(labelled)] == [{name: row[name] for name in names} for row in labelled]
    again = found[len(labelled) : 2 * len(labelled)]
    for one, other in zip(labelled, again, strict=True):
        assert one["gold_label"] == other["gold_label"]
        assert sorted(one["sentence1"].split()) == sorted(other["sentence1"].split())
    assert sum(one["sentence1"] != other["sentence1"] for one, other in zip(labelled, again, strict=True)) > 300
    assert memory.write_rows(str(rows), tiny.SNLI_LABELS, 1000, tmp_path / "b.jsonl").read_text() == path.read_text()


TRAINER = """
import mmap, pathlib, sys, time
held = bytearray(b"x") * (60 << 20)
time.sleep(0.3)
output = pathlib.Path(sys.argv[1])
output.mkdir()
(output / "metrics.jsonl").write_text('{"step": 1}\\n')
time.sleep(0.3)  # the step is seen before more is taken
more = bytearray(b"x") * (100 << 20)
with open(sys.argv[2], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
touched = sum(mapped[place] for place in range(0, len(mapped), 4096))
time.sleep(0.3)
sys.exit(int(sys.argv[3]))
"""


def test_memory_is_told_apart_by_kind_and_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that holds 60 MiB, logs a step, takes 100 MiB more of its own and maps a file of 40."""
    (tmp_path / "file").write_bytes(bytes(40 << 20))
    (tmp_path / "trainer.py").write_text(TRAINER)
    code = "0"

    def stand_in(run_file: Any, environment: Any, **streams: Any) -> subprocess.Popen[bytes]:
        script = [sys.executable, str(tmp_path / "trainer.py"), run_file["output"], str(tmp_path / "file"), code]
        return subprocess.Popen(script, **streams)

    monkeypatch.setattr("benchmarks.peers.bertnli_train.start", stand_in)
    found = memory.watched({"output": str(tmp_path / "run")}, tmp_path / "cache")
    before, after, whole = (found["peak_mib"][name] for name in ("before_steps", "steps", "whole"))
    assert after["own"] - before["own"] == pytest.approx(100, abs=10)
    assert after["mapped"] - before["mapped"] == pytest.approx(40, abs=10)
    assert whole == after
    assert after["rss"] == pytest.approx(after["own"] + after["mapped"], abs=1)
    assert found["kernel_rss_mib"] == pytest.approx(after["rss"], abs=15)
    assert 0.3 < found["seconds_to_first_step"] < found["seconds"] - 0.3
    code = "3"
    with pytest.raises(RunError, match="exit code 3"):
        memory.watched({"output": str(tmp_path / "failed")}, tmp_path / "cache")


def test_growth_is_of_the_largest_over_the_smallest() -> None:
    def size(rows: int, rss: float, own: float) -> dict[str, Any]:
        peak = {part: {"rss": rss, "own": own, "mapped": rss - own} for part in ("whole", "before_steps", "steps")}
        start = {"kernel_rss_mib": rss, "peak_mib": peak, "seconds_to_first_step": 1.0}
        return {"rows": rows, "corpus_mib": 5.0, "starts": {"first": start, "second": start}}

    sizes = [size(100_000, 1000, 900), size(1_000_000, 1300, 990)]
    head = {"name": "memory", "kind": "memory", **machine.describe()}
    given = {"rows_from": "snli-100k", "rows": 1_000_000, "batch_size": 256}
    result = head | {"work": given, "sizes": sizes, "growth": memory._growth(sizes)}
    assert result["growth"]["first"]["whole"] == pytest.approx({"rss": 1.3, "own": 1.1, "mapped": 3.1})
    wanted = "| resident memory, first start, 1,000,000 rows over 100,000 | at most 1.10 x | 1.30 x | not met |"
    assert wanted in table(result)
    assert "Growth from the fewest rows to the most, second start: before steps: own 1.10, mapped 3.10" in table(result)


def test_accuracy_is_compared_by_its_mean_over_seeds(
    rows: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[tuple[bytes, bytes]]] = {"bertnli": [], "trainer": []}

    def training(name: str) -> Callable[[work.Work, int], Path]:
        def train(given: work.Work, seed: int) -> Path:
            seen[name].append((given.rows.read_bytes(), (given.model / "model.safetensors").read_bytes()))
            return Path(f"{name}-{seed}")

        return train

    figures = {"bertnli-0": 0.70, "bertnli-1": 0.80, "trainer-0": 0.75, "trainer-1": 0.764}
    monkeypatch.setattr(accuracy, "_bertnli", training("bertnli"))
    monkeypatch.setattr(accuracy, "_trainer", training("trainer"))
    monkeypatch.setattr(accuracy, "evaluate", lambda path, data: {"accuracy": figures[str(path)], "rows": 9824})
    encoder = tiny.hf_folder(tmp_path / "encoder", max_positions=128, labels=None)
    result = accuracy.accuracy(tmp_path, str(encoder), str(rows), "snli-test", 64, range(2), lambda line: None)
    assert result["mean"] == pytest.approx({"bertnli": 0.75, "trainer-best": 0.757})
    assert result["points_over_trainer"] == pytest.approx(-0.7)
    assert seen["bertnli"] == seen["trainer"]  # the same rows and weights for both
    assert all(one != other for one, other in zip(*seen["bertnli"], strict=True))  # others for each seed
    lines = table(result)
    assert "| bertnli | 0.7000 | 0.8000 | 0.7500 |" in lines
    enough = result | {"work": result["work"] | {"rows": 8000, "seeds": [0, 1, 2]}}
    for too_few in ({"rows": 64}, {"seeds": [0, 1]}):
        assert targets(enough | {"work": enough["work"] | too_few}) == []
    wanted = "8,000 pairs, mean of 3 seeds | at least -0.50 points | -0.70 points | not met |"
    assert [wanted in target.row() for target in targets(enough)] == [True]
