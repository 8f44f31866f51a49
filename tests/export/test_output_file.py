"""An output until it is finished: it grows, is resumed, and appears in one step; what else may be in its place."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bertnli_export.output_file import partial_path
from bertnli_export.writer import RowResult, open_writer
from hypothesis import given, settings
from hypothesis import strategies as st

from bertnli.common.errors import InputError, RunError
from bertnli.data.outputs import Outputs
from bertnli.data.pairs import PairFile
from tests.conftest import environment
from tests.support.writer_runs import HEAD, LABELS, OUTPUTS, TEXTS, make, run


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 50 rows, some of them bad, in each format; and what an undisturbed run makes of them."""
    folder = tmp_path_factory.mktemp("sources")
    rows = [(f"premise {n}", "" if n % 7 == 0 else f"hypothesis {n}") for n in range(50)]
    (folder / "a.tsv").write_text("premise\thypothesis\n" + "".join(f"{a}\t{b}\n" for a, b in rows) + "bad\n")
    (folder / "a.csv").write_text("premise,hypothesis\n" + "".join(f'"{a}",{b}\n' for a, b in rows) + "bad\n")
    lines = [json.dumps({"premise": a, "hypothesis": b}) for a, b in rows]
    (folder / "a.jsonl").write_text("\n".join([*lines, "bad"]))
    premises, hypotheses = zip(*rows, strict=True)
    table = pa.table({"premise": pa.array(premises).dictionary_encode(), "hypothesis": hypotheses, "n": range(50)})
    pq.write_table(table, folder / "a.parquet", row_group_size=9)
    for source in list(folder.iterdir()):
        for output in OUTPUTS:
            run(source, folder / f"{source.suffix[1:]}-undisturbed{output}")
    return folder


@settings(max_examples=60)
@given(
    suffix=st.sampled_from([*TEXTS, ".parquet"]),
    output=st.sampled_from(OUTPUTS),
    stops=st.lists(st.integers(0, 26), max_size=3).map(sorted),
    beyond=st.binary(max_size=50),
)
def test_resumed_anywhere_the_bytes_are_the_same(
    sources: Path, suffix: str, output: str, stops: Sequence[int], beyond: bytes
) -> None:
    out = sources / f"resumed{output}"
    state = None
    for stop in stops:
        state = run(sources / f"a{suffix}", out, stop=stop, resume_at=state)
        # a further chunk, half of which reached the disk before the kill
        with partial_path(out).open("ab") as partial:
            partial.write(beyond)
    run(sources / f"a{suffix}", out, resume_at=state)
    assert out.read_bytes() == (sources / f"{suffix[1:]}-undisturbed{output}").read_bytes()
    assert [path for path in sources.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize("output", OUTPUTS)
def test_killed_while_finishing(sources: Path, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill before the rename (here: a rename that fails) leaves everything for another try."""

    def no(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    out = sources / f"finishing{output}"
    state = run(sources / "a.tsv", out, stop=26)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", no)
        with pytest.raises(RunError, match="Input/output error"):
            run(sources / "a.tsv", out, resume_at=state)
    assert not out.exists()
    run(sources / "a.tsv", out, resume_at=state)
    assert out.read_bytes() == (sources / f"tsv-undisturbed{output}").read_bytes()
    assert [path for path in sources.iterdir() if "partial" in path.name] == []


def test_the_output_appears_when_it_is_finished(tmp_path: Path) -> None:
    make(tmp_path / "a.tsv")
    (tmp_path / "out.csv").write_text("earlier output")
    run(tmp_path / "a.tsv", tmp_path / "out.csv", stop=1)
    assert (tmp_path / "out.csv").read_text() == "earlier output"
    assert partial_path(tmp_path / "out.csv").read_text().startswith("premise,hypothesis,prediction")
    run(tmp_path / "a.tsv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("premise,hypothesis,prediction")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tsv", "out.csv"]


def test_a_checkpoint_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "a.tsv")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    file = PairFile(tmp_path / "a.tsv")
    with open_writer(tmp_path / "out.tsv", file, Outputs(LABELS)) as writer:
        writer.write(next(file.chunks(2)), [RowResult(None, None, False, "x")] * 2)
        state = writer.checkpoint()
    written = partial_path(tmp_path / "out.tsv").read_bytes()
    assert state == {"rows": 2, "bytes": len(written), "crc32": zlib.crc32(written)}
    assert synced[-1] == state["bytes"]


@pytest.mark.parametrize("suffix", [*TEXTS, ".tsv.gz", ".jsonl.gz", ".csv.zst", ".parquet"])
def test_an_input_without_rows(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a.tsv").write_text("premise\thypothesis\n")
    out = tmp_path / f"out{suffix}"
    run(tmp_path / "a.tsv", out)
    if suffix == ".jsonl.gz":
        assert gzip.decompress(out.read_bytes()) == b"" and out.stat().st_size > 0
    elif suffix == ".jsonl":
        assert out.read_bytes() == b""
    else:
        file = PairFile(out)
        assert file.fields == ["premise", "hypothesis", *HEAD, "raw"] and list(file.rows()) == []


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".parquet", ".jsonl"])
def test_json_lines_without_a_line_become_a_file_that_can_be_read_again(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a.jsonl").touch()
    run(tmp_path / "a.jsonl", tmp_path / f"out{suffix}")
    again = PairFile(tmp_path / f"out{suffix}")
    assert (again.columns.premise, again.columns.hypothesis) == ("premise", "hypothesis")
    assert list(again.rows()) == []


def test_gzip_members_have_neither_date_nor_name(tmp_path: Path) -> None:
    make(tmp_path / "a.tsv")
    run(tmp_path / "a.tsv", tmp_path / "out.tsv.gz")
    data = (tmp_path / "out.tsv.gz").read_bytes()
    assert data[:3] == b"\x1f\x8b\x08" and data[3] == 0 and data[4:8] == bytes(4)


def test_lost_work_is_noticed(tmp_path: Path) -> None:
    make(tmp_path / "a.tsv")
    state = run(tmp_path / "a.tsv", tmp_path / "out.tsv", stop=1)
    partial = partial_path(tmp_path / "out.tsv")
    os.truncate(partial, 10)
    with pytest.raises(InputError, match=r"out\.tsv\.partial: unfinished work is lost; found 10 bytes; .*--restart"):
        run(tmp_path / "a.tsv", tmp_path / "out.tsv", resume_at=state)
    partial.unlink()
    with pytest.raises(InputError, match="unfinished work is lost; found nothing"):
        run(tmp_path / "a.tsv", tmp_path / "out.tsv", resume_at=state)
    assert not partial.exists()


@pytest.mark.parametrize("suffix", [".tsv", ".csv.gz", ".parquet"])
def test_damaged_work_is_not_published(tmp_path: Path, suffix: str) -> None:
    make(tmp_path / "a.tsv")
    out = tmp_path / f"out{suffix}"
    run(tmp_path / "a.tsv", out)
    right = out.read_bytes()
    out.unlink()
    state = run(tmp_path / "a.tsv", out, stop=2)
    partial = partial_path(out)
    whole = bytearray(partial.read_bytes())
    for place in (0, len(whole) // 2, state["bytes"] - 1):
        damaged = whole.copy()
        damaged[place] ^= 4
        partial.write_bytes(damaged)
        with pytest.raises(InputError, match=r"work is lost; found other bytes than were written; .*--restart"):
            run(tmp_path / "a.tsv", out, resume_at=state)
    partial.write_bytes(whole + b"of a chunk that was not finished")
    run(tmp_path / "a.tsv", out, resume_at=state)
    assert out.read_bytes() == right


def test_two_writers_of_one_output(tmp_path: Path) -> None:
    make(tmp_path / "a.tsv")
    file = PairFile(tmp_path / "a.tsv")
    with open_writer(tmp_path / "out.tsv", file, Outputs(LABELS)):
        before = partial_path(tmp_path / "out.tsv").read_bytes()
        with pytest.raises(InputError, match="another process is writing it"):
            open_writer(tmp_path / "out.tsv", file, Outputs(LABELS))
        assert partial_path(tmp_path / "out.tsv").read_bytes() == before
    open_writer(tmp_path / "out.tsv", file, Outputs(LABELS)).close()


def test_an_output_finished_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes: one opens the partial file, and by the time it has the lock the other has renamed it."""
    make(tmp_path / "a.tsv")
    out = tmp_path / "out.tsv"
    partial_path(out).write_text("the other's")
    monkeypatch.setattr("fcntl.flock", lambda *_: partial_path(out).replace(out))
    with pytest.raises(InputError, match="another process is writing it"):
        open_writer(out, PairFile(tmp_path / "a.tsv"), Outputs(LABELS))
    assert out.read_text() == "the other's"


def test_outputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "a.tsv")
    file = PairFile(tmp_path / "a.tsv")
    (tmp_path / "folder.tsv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.tsv")
    (tmp_path / "b.tsv.partial").hardlink_to(tmp_path / "a.tsv")
    for output, options, message in (
        ("a.tsv", {}, "the output is the input"),
        ("link.csv", {}, "the output is the input"),
        ("b.tsv", {}, r"b\.tsv: b\.tsv\.partial, its unfinished work, is the input; give it another name"),
        ("folder.tsv", {}, "not a file"),
        ("nowhere/out.tsv", {}, "there is no folder"),
        ("a.tsv/out.tsv", {}, "cannot be written"),
        ("out.zip", {}, "unknown format"),
        ("out.parquet.gz", {}, "has its own compression"),
    ):
        with pytest.raises(InputError, match=message):
            open_writer(tmp_path / output, file, Outputs(LABELS), **options)
    for output, options, message in (
        ("/dev/null", {"format": "tsv"}, "not a file; name one, or - for standard output"),
        ("-", {}, "--format"),
        ("-", {"format": "parquet"}, "expected TSV, CSV or JSON lines"),
        ("-", {"format": "tsv", "resume_at": {"rows": 1, "bytes": 1, "crc32": 1}}, "from the first row"),
    ):
        with pytest.raises(InputError, match=message):
            open_writer(output, file, Outputs(LABELS), **options)
    assert (tmp_path / "a.tsv").read_text().startswith("premise\thypothesis\n")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    make(tmp_path / "a.tsv")
    (tmp_path / "real").mkdir()
    (tmp_path / "out.tsv").symlink_to(tmp_path / "real" / "out.tsv")
    run(tmp_path / "a.tsv", tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").is_symlink() and not (tmp_path / "real" / "out.tsv").is_symlink()


SCRIPT = """
    import json, resource, sys
    from bertnli.common.errors import BertnliError
    from bertnli.data.pairs import PairFile
    from bertnli_export.writer import open_writer
    from bertnli.data.outputs import Outputs
    from tests.support.writer_runs import LABELS, score

    source, output, limit = sys.argv[1:]
    file = PairFile(source)
    format = "tsv" if output == "-" else None
    try:
        with open_writer(output, file, Outputs(LABELS), format=format) as writer:
            if limit != "0":  # the next thing to a full disk that needs no root
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
            for chunk in file.chunks(100):
                writer.write(chunk, score(chunk))
                print(json.dumps(writer.checkpoint()), file=sys.stderr)
            writer.finish()
    except BertnliError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code)
"""


def script(source: Path, output: str, limit: int = 0, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(source), output, str(limit)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), **options)


@pytest.mark.parametrize("output", ["out.tsv", "out.parquet"])
def test_a_full_disk_is_said_and_can_be_gone_on_from(tmp_path: Path, output: str) -> None:
    source = tmp_path / "a.tsv"
    source.write_text("premise\thypothesis\n" + "".join(f"{os.urandom(20).hex()}\tb\n" for _ in range(2000)))
    process = script(source, str(tmp_path / output), limit=60_000)
    *states, message = process.communicate()[1].splitlines()
    assert process.returncode == 1
    assert f"{output}.partial: cannot be written (File too large); make room there, then give the same" in message
    assert not (tmp_path / output).exists()
    assert 0 < json.loads(states[-1])["rows"] < 2000
    run(source, tmp_path / output, size=100, resume_at=json.loads(states[-1]))
    run(source, tmp_path / f"undisturbed-{output}", size=100)
    assert (tmp_path / output).read_bytes() == (tmp_path / f"undisturbed-{output}").read_bytes()


def test_a_full_disk_while_parquet_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "a.tsv")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(RunError, match=r"No space left on device\); make room there"):
            run(tmp_path / "a.tsv", tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists() and partial_path(tmp_path / "out.parquet").exists()


def test_standard_output(tmp_path: Path) -> None:
    make(tmp_path / "a.tsv")
    process = script(tmp_path / "a.tsv", "-", stdout=subprocess.PIPE)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert out.splitlines()[1] == "A man plays.\tHe, too.\tneutral\t0.000001\t0.999999\tfalse\t\t"
    assert len(out.split("\n")) == 6


def test_a_broken_pipe_is_one_clear_message(tmp_path: Path) -> None:
    source = tmp_path / "a.tsv"
    source.write_text("premise\thypothesis\n" + "premise\thypothesis\n" * 20_000)
    process = script(source, "-", stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    lines = process.stderr.read().splitlines()
    assert process.wait() == 1
    assert lines[-1].startswith("standard output: the reader closed it before the end; write to a file")
    assert all(line.startswith("{") for line in lines[:-1])


# --- links that somebody planted


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    make(tmp_path / "in" / "in.tsv")
    return tmp_path / "in" / "in.tsv"


def test_a_link_in_place_of_the_partial_file_is_refused(tmp_path, source) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out.tsv.partial").symlink_to(victim)
    for resume_at in (None, {"bytes": 0, "rows": 0}):
        with pytest.raises(InputError, match=r"out\.tsv\.partial: a symbolic link, which is not followed; remove it"):
            run(source, tmp_path / "out.tsv", resume_at=resume_at)
    assert victim.read_text() == "precious"


def test_a_link_that_comes_after_the_check_is_not_followed_either(tmp_path, source, monkeypatch) -> None:
    monkeypatch.setattr("bertnli_export.output_file.check_output", lambda *_: None)
    (tmp_path / "victim").write_text("precious")
    for target in ("victim", "new"):
        (tmp_path / "out.tsv.partial").symlink_to(tmp_path / target)
        with pytest.raises(InputError, match=r"cannot be written .a symbolic link, which is not followed"):
            run(source, tmp_path / "out.tsv")
        (tmp_path / "out.tsv.partial").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "victim"]
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_link_in_place_of_what_parquet_is_joined_in(tmp_path, source) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "out.parquet.partial.parquet").symlink_to(tmp_path / "victim")
    run(source, tmp_path / "out.parquet")
    assert (tmp_path / "victim").read_text() == "precious"
    assert pq.read_table(tmp_path / "out.parquet").num_rows > 0 and not (tmp_path / "out.parquet").is_symlink()


def test_a_pipe_in_place_of_the_partial_file_is_refused(tmp_path, source) -> None:
    os.mkfifo(tmp_path / "out.tsv.partial")
    with pytest.raises(InputError, match=r"out\.tsv\.partial: cannot be written \(not a file\)"):
        run(source, tmp_path / "out.tsv")
