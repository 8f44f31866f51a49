"""Runs that are stopped, killed or repeated: every row is scored exactly once, and what changed meanwhile is named."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from bertnli_export import run_record
from bertnli_export import score as score_module
from bertnli_export.run_record import RunRecord, record_path
from bertnli_export.score import score_file

from bertnli.common.errors import InputError, Interrupted, RunError
from tests.support import tiny
from tests.support.scored_files import CHUNK, FORMATS, Stop, read, score, stop_after, write

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.mark.parametrize("format", [*FORMATS, "tsv.gz", "jsonl.zst"])
def test_a_stopped_run_goes_on_and_gives_the_same_bytes(tmp_path, format) -> None:
    rows = tiny.snli_rows(3 * CHUNK + 5)
    rows[3]["sentence1"] = ""
    file = write(tmp_path / "in.jsonl", rows)
    undisturbed = score(file, tmp_path / f"whole.{format}")
    output = tmp_path / f"out.{format}"
    for chunks in (1, 2):
        with pytest.raises(Stop):
            score(file, output, progress=stop_after(chunks))
        assert not output.exists()
    summary = score(file, output)
    # the first run was stopped before its only checkpoint; the second made one
    assert summary["resumed_at"] == CHUNK
    assert output.read_bytes() == (tmp_path / f"whole.{format}").read_bytes()
    same = ("rows", "errors", "truncated", "labelled", "accuracy")
    assert {key: summary[key] for key in same} == {key: undisturbed[key] for key in same}


def test_a_finished_output_is_recognised(tmp_path, monkeypatch) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(30))
    first = score(file, tmp_path / "out.tsv")
    monkeypatch.setattr(score_module, "_load", lambda *_: pytest.fail("it was scored again"))
    assert score(file, tmp_path / "out.tsv") == first | {"already_finished": True}
    shutil.move(file, tmp_path / "moved.tsv")  # the content counts
    assert score(tmp_path / "moved.tsv", tmp_path / "out.tsv")["already_finished"]


def test_a_deleted_output_is_made_again(tmp_path) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(30))
    score(file, tmp_path / "out.tsv")
    (tmp_path / "out.tsv").unlink()
    assert score(file, tmp_path / "out.tsv")["already_finished"] is False
    assert (tmp_path / "out.tsv").exists()


def test_a_kill_between_the_last_rename_and_its_note_is_harmless(tmp_path, monkeypatch) -> None:
    for format in FORMATS:
        file = write(tmp_path / f"in.{format}", tiny.snli_rows(30))
        output = tmp_path / f"out.{format}"
        with monkeypatch.context() as context:
            context.setattr(RunRecord, "finish", lambda *_: (_ for _ in ()).throw(Stop))
            with pytest.raises(Stop):
                score(file, output)
        before = output.stat().st_mtime_ns
        summary = score(file, output)
        assert (summary["rows"], summary["resumed_at"]) == (30, 30)
        assert output.stat().st_mtime_ns == before
        assert score(file, output)["already_finished"]


@pytest.mark.parametrize("checkpoint_seconds", [0, 1e9])
def test_a_kill_before_the_last_rename_is_harmless(tmp_path, monkeypatch, checkpoint_seconds) -> None:
    from bertnli_export.output_file import PartialFile

    for format in FORMATS:
        file = write(tmp_path / f"in.{format}", tiny.snli_rows(30))
        output = tmp_path / f"out.{format}"
        with monkeypatch.context() as context:
            context.setattr(PartialFile, "publish", lambda *_: (_ for _ in ()).throw(Stop))
            with pytest.raises(Stop):
                score(file, output, checkpoint_seconds=checkpoint_seconds)
        assert not output.exists()
        assert score(file, output)["resumed_at"] == 30
        score(file, tmp_path / f"whole.{format}")
        assert output.read_bytes() == (tmp_path / f"whole.{format}").read_bytes()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("input", "input: sha256 was"),
        ("bundle", "bundle: sha256 was"),
        ("options", "options: prefix was , is x_"),
    ],
)
def test_what_changed_in_between_is_named(tmp_path, finished, change, message) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(2 * CHUNK))
    output = tmp_path / "out.tsv"
    if finished:
        score(file, output)
    else:
        with pytest.raises(Stop):
            score(file, output, progress=stop_after(2))
    bundle, prefix = tiny.bundle(), ""
    if change == "input":
        file.write_text(file.read_text().replace("dogs", "cats"))
    elif change == "bundle":
        bundle = shutil.copytree(bundle, tmp_path / "bundle")
        manifest = bundle / "manifest.json"
        manifest.write_text(manifest.read_text() + "\n")
    else:
        prefix = "x_"
    before = output.read_bytes() if finished else None
    with pytest.raises(InputError, match=message) as caught:
        score_file(bundle, file, output, device="cpu", prefix=prefix)
    assert "--restart" in str(caught.value)
    others = {"input:", "bundle:", "options:"} - {f"{change}:"}
    assert not any(other in str(caught.value) for other in others)
    assert (output.read_bytes() if output.exists() else None) == before
    summary = score_file(bundle, file, output, device="cpu", prefix=prefix, restart=True)
    assert (summary["rows"], summary["resumed_at"]) == (2 * CHUNK, 0)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (3, 4, "x was 3, is 4"),
        ("a" * 30, "b", "x was aaaaaaaaaaaa…, is b"),
        ("This example is {}.", "This example is about {}.", "x was This example is {}., is … is about {}…"),
        (["sport", "politics", "art"], ["sport", "politics", "arts"], 'x was …"art"], is …"arts"]'),
        ("a" * 40, "a" * 41, "x was …aaaa, is …aaaaa"),
    ],
)
def test_a_message_shows_where_two_long_options_differ(before, now, message) -> None:
    record = RunRecord(None, {"options": {"x": before}})
    assert record.changes({"options": {"x": now}}) == f"options: {message}"


def test_versions_and_device_matter_only_until_it_is_finished(tmp_path, monkeypatch) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(2 * CHUNK))
    with pytest.raises(Stop):
        score(file, tmp_path / "out.tsv", progress=stop_after(2))
    with monkeypatch.context() as context:
        context.setattr(score_module, "versions", lambda _: {"onnxruntime": "99"})
        with pytest.raises(InputError, match=r"versions: .*onnxruntime was .*, is 99"):
            score(file, tmp_path / "out.tsv")
    score(file, tmp_path / "out.tsv")
    monkeypatch.setattr(score_module, "versions", lambda _: {"onnxruntime": "99"})
    assert score(file, tmp_path / "out.tsv")["already_finished"]


def test_an_output_that_is_not_ours_is_not_touched(tmp_path) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(5))
    (tmp_path / "out.tsv").write_text("mine")
    with pytest.raises(InputError, match=r"exists, and no record.*--restart"):
        score(file, tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_text() == "mine"
    score(file, tmp_path / "out.tsv", restart=True)
    assert len(read(tmp_path / "out.tsv")) == 5
    (tmp_path / "out.tsv").write_text("edited")
    with pytest.raises(InputError, match="was changed after it was finished"):
        score(file, tmp_path / "out.tsv")


@pytest.mark.parametrize("through_a_pipe", [False, True])
def test_a_partial_file_that_is_not_ours_is_not_touched(tmp_path, monkeypatch, through_a_pipe) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(5))
    partial = tmp_path / "out.tsv.partial"
    partial.write_text("mine")
    options: dict[str, Any] = {}
    if through_a_pipe:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
        file, options = Path("-"), {"input_format": "tsv"}
    with pytest.raises(InputError, match=r"out\.tsv\.partial: exists, and no record says that bertnli made it"):
        score(file, tmp_path / "out.tsv", **options)
    assert partial.read_text() == "mine"
    assert not record_path(tmp_path / "out.tsv").exists()
    if through_a_pipe:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "in.tsv").read_bytes())))
    score(file, tmp_path / "out.tsv", restart=True, **options)
    assert len(read(tmp_path / "out.tsv")) == 5 and not partial.exists()


def test_a_run_killed_before_it_had_a_record_starts_again(tmp_path, monkeypatch) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(5))
    with monkeypatch.context() as context:
        context.setattr(RunRecord, "save", lambda _: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            score(file, tmp_path / "out.tsv")
    assert score(file, tmp_path / "out.tsv")["rows"] == 5


@pytest.mark.parametrize("name", ["in.tsv", "in.tsv.partial"])
def test_the_input_is_never_written_over(tmp_path, name) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(5)).rename(tmp_path / name)
    before = file.read_bytes()
    for restart in (False, True):
        with pytest.raises(InputError, match="is the input; give it another name") as caught:
            score(file, tmp_path / "in.tsv", input_format="tsv", restart=restart)
        assert "--restart" not in str(caught.value)
    assert file.read_bytes() == before
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(InputError, match=r"folder\.tsv: not a file"):
        score(file, tmp_path / "folder.tsv", input_format="tsv")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"bertnli_score_record": 2}', '{"bertnli_score_record": 7}']
)
def test_a_damaged_record_is_named(tmp_path, content) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(5))
    record_path(tmp_path / "out.tsv").write_text(content)
    with pytest.raises(InputError, match=r"_out\.tsv\.run\.json: damaged, or not bertnli's.*--restart"):
        score(file, tmp_path / "out.tsv")
    score(file, tmp_path / "out.tsv", restart=True)


def test_a_record_with_another_figure_is_damaged(tmp_path) -> None:
    """Its rows decide where a resumed run goes on."""
    file = write(tmp_path / "in.tsv", tiny.snli_rows(3 * CHUNK))
    with pytest.raises(Stop):
        score(file, tmp_path / "out.tsv", progress=stop_after(2))
    path = record_path(tmp_path / "out.tsv")
    content = json.loads(path.read_text())
    content["checkpoint"]["rows"] = content["counts"]["rows"] = CHUNK + 1
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"damaged, or not bertnli's \(its checksum does not fit\)"):
        score(file, tmp_path / "out.tsv")


def test_a_stop_by_signal_says_how_to_go_on(tmp_path) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(2 * CHUNK))

    def stop(rows: int, note: str) -> None:
        if rows == 2 * CHUNK:
            raise Interrupted(signal.SIGTERM, "interrupted")

    score(file, tmp_path / "out.tsv")
    said = f"{CHUNK} rows are kept; give the same command again, without --restart, to continue"
    with pytest.raises(Interrupted, match=said) as caught:
        score(file, tmp_path / "out.tsv", progress=stop, restart=True)
    assert caught.value.exit_code == 143
    assert score(file, tmp_path / "out.tsv")["resumed_at"] == CHUNK


def test_a_record_that_cannot_be_written_is_one_message_and_resumable(tmp_path, monkeypatch) -> None:
    from bertnli_export import run_record

    file = write(tmp_path / "in.tsv", tiny.snli_rows(3 * CHUNK))
    real, saved = run_record.write_text, []

    def fill_up(path: Path, text: str) -> None:
        saved.append(path)
        if len(saved) == 3:
            raise OSError(28, "No space left on device")
        real(path, text)

    with monkeypatch.context() as context:
        context.setattr(run_record, "write_text", fill_up)
        with pytest.raises(
            RunError, match=r"run\.json: cannot be written .No space left.*the same command again, without --restart"
        ):
            score(file, tmp_path / "out.tsv")
    assert score(file, tmp_path / "out.tsv")["resumed_at"] == CHUNK
    score(file, tmp_path / "whole.tsv")
    assert (tmp_path / "out.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()


@pytest.mark.parametrize("plant", [lambda path, victim: path.symlink_to(victim), lambda path, _: os.mkfifo(path)])
def test_a_link_or_a_pipe_in_place_of_the_record_is_not_read(tmp_path, plant) -> None:
    victim = tmp_path / "victim"
    victim.write_text('{"bertnli_score_record": 1}')
    path = record_path(tmp_path / "out.tsv")
    plant(path, victim)
    with pytest.raises(InputError, match=r"out\.tsv\.run\.json: damaged, or not bertnli's .*--restart"):
        run_record.load(tmp_path / "out.tsv")
    RunRecord(tmp_path / "out.tsv", {}).save()  # what --restart does
    assert run_record.load(tmp_path / "out.tsv") is not None
    assert victim.read_text() == '{"bertnli_score_record": 1}'


def test_a_link_to_nothing_in_place_of_the_partial_file(tmp_path) -> None:
    (tmp_path / "out.tsv.partial").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"out\.tsv\.partial: exists, and no record says that bertnli made it"):
        run_record.check_free(tmp_path / "out.tsv")
