"""An input that changes while it is scored: nothing is published, and foreign rows are never taken for its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bertnli_export import score as score_module
from bertnli_export.scorer import Scorer

from bertnli.common.errors import InputError, RunError
from bertnli.data import pairs
from tests.support import tiny
from tests.support.scored_files import CHUNK, FORMATS, score, write

pytestmark = pytest.mark.usefixtures("small_chunks")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def swap(path: Path) -> None:
    """Another file of the same size and time, with the sentences of other rows."""
    other = write(path.with_name(f"other{path.suffix}"), tiny.snli_rows(4 * CHUNK, seed=1))
    other.replace(path)


def after_chunk(number: int, act: Callable[[], None]) -> Any:
    seen = []

    def progress(rows: int, note: str) -> None:
        seen.append(rows)
        if len(seen) == number:
            act()

    return progress


AT_A_CHECKPOINT, AT_THE_END = 0.0, 60.0


@pytest.mark.parametrize(
    ("format", "change", "seconds"),
    [
        *((format, cut, AT_A_CHECKPOINT) for format in FORMATS),
        ("csv", swap, AT_A_CHECKPOINT),
        ("jsonl", swap, AT_THE_END),
        ("csv", cut, AT_THE_END),
        ("parquet", swap, AT_THE_END),
    ],
)
def test_it_ends_the_run_and_nothing_is_published(tmp_path, format, change, seconds) -> None:
    input, output = write(tmp_path / f"in.{format}", tiny.snli_rows(4 * CHUNK)), tmp_path / f"out.{format}"
    options: dict[str, Any] = {"checkpoint_seconds": seconds, "progress": after_chunk(2, lambda: change(input))}
    with pytest.raises(RunError, match=r"in\.\w+: was changed while it was read|cannot be read beyond row"):
        score(input, output, **options)
    assert not output.exists()
    if seconds == AT_A_CHECKPOINT:  # there are rows of the first content
        with pytest.raises(InputError, match=r"its unfinished run cannot continue .input: sha256|cannot be read"):
            score(input, output)
    if change is swap:
        score(input, output, restart=True)
        score(input, tmp_path / f"fresh.{format}")
        assert output.read_bytes() == (tmp_path / f"fresh.{format}").read_bytes()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("back", ["after the checksum", "after the rows"])
def test_one_that_is_swapped_and_put_back_is_told(tmp_path, format, back, monkeypatch) -> None:
    """The checksum is that of the file itself, the rows would be those of another one."""
    input, output = write(tmp_path / f"in.{format}", tiny.snli_rows(4 * CHUNK)), tmp_path / f"out.{format}"
    foreign = write(tmp_path / f"foreign.{format}", tiny.snli_rows(4 * CHUNK, seed=1))
    aside, digest = tmp_path / "aside", pairs.digest

    def put_back() -> None:
        input.rename(foreign)
        aside.rename(input)

    def digest_of_the_first(path: Path) -> str:
        if path == input and aside.exists():
            put_back()
        found = digest(path)
        if path == input and back == "after the rows":
            input.rename(aside)
            foreign.rename(input)
        return found

    monkeypatch.setattr(pairs, "digest", digest_of_the_first)
    if back == "after the checksum":
        input.rename(aside)
        foreign.rename(input)
    with pytest.raises(RunError, match="was changed while it was read; found another file of this name"):
        score(input, output)
    assert not output.exists()


def test_a_partition_on_ray_is_scored_by_the_same_rules(tmp_path) -> None:
    """A worker keeps its Scorer, and calls `score_file` with it."""
    input, output = write(tmp_path / "in.tsv", tiny.snli_rows(4 * CHUNK)), tmp_path / "out.tsv"
    scorer = Scorer(tiny.bundle(), "cpu")
    with pytest.raises(RunError, match="was changed while it was read"):
        score_module.score_file(scorer, input, output, progress=after_chunk(2, lambda: cut(input)))
    assert not output.exists()
    assert score_module.score_file(scorer, input, output, restart=True)["rows"] > 0
