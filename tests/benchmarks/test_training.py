"""The work that trainers are given, and our own peers on it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import work
from benchmarks.peer import Peer
from benchmarks.peers.bertnli_train import BertnliTrain
from benchmarks.peers.plain_loop import PlainLoop
from bertnli.train.flops import block_weights
from tests.support import tiny
from tests.support.benchmarked import snli_file


@pytest.fixture
def given(tmp_path: Path) -> work.Work:
    """Work of 64 rows at batch 32, with a tiny model."""
    model = tiny.hf_folder(tmp_path / "tiny", max_positions=128)
    return work.training(tmp_path, str(model), str(snli_file(tmp_path, 400)), pairs=64, batch_size=32)


def test_training_rows_stand_in_micro_batches_of_one_length(given: work.Work, tmp_path: Path) -> None:
    from bertnli.model import pretrained

    rows = given.read()
    assert len(rows) == given.pairs == 64
    source = pretrained.load(given.model, max_length=work.MAX_LENGTH)
    lengths = source.tokenizer.encode([r["sentence1"] for r in rows], [r["sentence2"] for r in rows]).lengths
    assert lengths.mean() == pytest.approx(given.tokens_per_pair)
    short, long = sorted(lengths.reshape(-1, work.MICRO_BATCH), key=np.mean)
    assert (np.diff(short) <= 0).all()  # as the Trainer's sampler leaves them
    assert (np.diff(long) <= 0).all()
    assert short.max() < long.mean()
    again = work.training(tmp_path, str(given.model), str(tmp_path / "snli.jsonl"), pairs=64, batch_size=32)
    assert again.read() == rows
    assert given.head(5).read_text().splitlines() == given.rows.read_text().splitlines()[:5]


def test_flop_are_counted_from_the_config(given: work.Work) -> None:
    from bertnli.model import pretrained

    model = pretrained.load(given.model, max_length=work.MAX_LENGTH).build()
    weights = sum(p.numel() for p in model.blocks.parameters() if p.dim() == 2)
    assert block_weights(model.config) == weights
    assert given.flop_per_pair == pytest.approx(6 * weights * given.tokens_per_pair)
    assert 0.5 * given.flop_per_pair < given.needed_flop_per_pair < 0.9 * given.flop_per_pair


def test_the_plain_loop_computes_what_bertnli_train_computes(given: work.Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "check_steps", 4)
    choices: dict[str, Any] = {"precision": "fp32", "micro_batch_tokens": 256}  # several micro-batches a step
    plain, ours = PlainLoop(given, **choices), BertnliTrain(given, **choices)
    try:
        expected = plain.check()
        assert expected[0] != pytest.approx(expected[1], abs=1e-3)  # a step was taken
        assert ours.check() == pytest.approx(expected, abs=1e-5)
        plain.prepare()
        assert plain.run(64).done == 64
        ours.prepare()
        for _ in range(2):
            found = ours.run(64)
            assert found.done == 64
            assert found.seconds > 0
            (pid,) = ours.processes()
            deadline = time.monotonic() + 10  # the signal takes a moment
            while "T (stopped)" not in Path(f"/proc/{pid}/status").read_text():
                assert time.monotonic() < deadline
    finally:
        for pid in ours.processes():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
