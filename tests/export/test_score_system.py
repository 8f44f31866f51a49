"""Scoring that takes minutes, or limits on memory and time."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import environment
from tests.support import tiny
from tests.support.scored_files import FORMATS, write
from tests.support.scoring_child import killed_at_random

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("small_chunks")]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_many_random_moments(tmp_path, format, workers) -> None:
    killed_at_random(tmp_path, format, kills=5, seed=FORMATS.index(format), workers=workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_does_not_grow_with_the_file(tmp_path, workers) -> None:
    """Ten times the rows, the same peak of resident memory, of all processes together; within a tenth."""
    peaks = []
    for rows in (20_000, 200_000):
        file = tmp_path / f"{rows}.tsv"
        with file.open("w") as lines:
            lines.write("premise\thypothesis\n")
            for _ in range(rows // 1000):
                lines.writelines(f"{row['sentence1']}\t{row['sentence2']}\n" for row in tiny.snli_rows(1000))
        command = [sys.executable, "-m", "bertnli.cli", "score", tiny.bundle(), file, tmp_path / f"{rows}.jsonl"]
        options = ["--device", "cpu", "--workers", str(workers)]
        child = psutil.Popen([*map(str, command), *options], env=environment(), stdout=subprocess.DEVNULL)
        peak = 0
        while child.poll() is None:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, sum(each.memory_info().rss for each in [child, *child.children()]))
            time.sleep(0.05)
        assert child.returncode == 0
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0], peaks


def test_scoring_starts_with_little_work(tmp_path) -> None:
    """Processor seconds, the best of five, to twice what they are on a quiet machine: other programs count little.

    `python -m benchmarks start-up` measures the time until the first row.
    """
    file = write(tmp_path / "in.tsv", tiny.snli_rows(1))
    score_it = ["-m", "bertnli.cli", "score", str(tiny.bundle()), str(file), str(tmp_path / "out.tsv"), "--restart"]
    for limit, command in ((0.6, ["-c", "from bertnli import Scorer"]), (3.0, score_it)):
        took = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *command], env=environment(), check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert min(took) < limit, (command, took)
