"""`score_file` in processes of its own: without torch, stopped by a signal, killed, two for one output."""

from __future__ import annotations

import json
import signal

import pytest
from bertnli_export.run_record import record_path

from bertnli.common.errors import InputError
from tests.support import tiny
from tests.support.scored_files import CHUNK, score, write
from tests.support.scoring_child import killed_at_random, start

pytestmark = pytest.mark.usefixtures("small_chunks")


def test_scoring_needs_no_torch(tmp_path) -> None:
    file = write(tmp_path / "in.parquet", tiny.snli_rows(40))
    child = start(file, tmp_path / "out.parquet", no_torch=True)
    out, errors = child.communicate(timeout=100)
    assert child.returncode == 0, errors
    assert json.loads(out.splitlines()[-1])["rows"] == 40


def test_sigterm_keeps_what_is_done(tmp_path) -> None:
    file = write(tmp_path / "in.jsonl", tiny.snli_rows(4 * CHUNK))
    child = start(file, tmp_path / "out.jsonl", held=True)
    assert child.stdout is not None and child.stdin is not None
    child.stdout.readline()
    child.stdin.write("\n")
    child.stdin.flush()
    child.stdout.readline()
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=100)
    assert child.returncode == 143, errors
    assert "give the same command again, without --restart, to continue" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out.jsonl").exists()
    assert json.loads(record_path(tmp_path / "out.jsonl").read_text())["counts"]["rows"] >= CHUNK


def test_killed_at_random_moments(tmp_path) -> None:
    """One kill in each of three formats, two of them in a write; `make test-system` has twenty more."""
    for seed, (format, workers) in enumerate([("tsv", 1), ("parquet", 1), ("jsonl", 2)]):
        killed_at_random(tmp_path, format, kills=1, seed=seed, workers=workers)


def test_two_processes_do_not_write_one_output(tmp_path) -> None:
    file = write(tmp_path / "in.jsonl", tiny.snli_rows(4 * CHUNK))
    child = start(file, tmp_path / "out.jsonl", held=True)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        with pytest.raises(InputError, match="another process is writing it"):
            score(file, tmp_path / "out.jsonl")
    finally:
        child.kill()
        child.communicate()
