"""Scores to and from an object store: the output is there whole, with its record, or not at all."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bertnli_export.score import score_file
from bertnli_export.scorer import Scorer

from bertnli.common.errors import InputError, RunError
from bertnli.data.pairs import Columns
from tests.support import tiny
from tests.support.http_stand_in import Hosted, StandIn
from tests.support.memory_store import failing, memory_store
from tests.support.scored_files import CHUNK, Stop, score, stop_after, write

pytestmark = pytest.mark.usefixtures("small_chunks")
INPUT, OUTPUT = "memory://bucket/in/pairs.tsv", "memory://bucket/out/scores.tsv"
RECORD = "memory://bucket/out/_scores.tsv.run.json"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("BERTNLI_CACHE", str(tmp_path / "cache"))
    with memory_store(monkeypatch) as files:
        files.pipe_file(INPUT, write(tmp_path / "pairs.tsv", tiny.snli_rows(4 * CHUNK)).read_bytes())
        yield files


@pytest.fixture
def expected(tmp_path: Path) -> bytes:
    score(tmp_path / "pairs.tsv", tmp_path / "scores.tsv")
    return (tmp_path / "scores.tsv").read_bytes()


def names(store: Any) -> list[str]:
    return sorted(path.removeprefix("/bucket/") for path in store.find("/bucket"))


def work(tmp_path: Path) -> list[str]:
    """What is left of the work here."""
    return sorted(path.name for path in tmp_path.glob("cache/outputs/*/*"))


def test_the_bytes_are_those_of_a_local_run(store: Any, tmp_path: Path, expected: bytes) -> None:
    found = score(INPUT, OUTPUT)
    assert store.cat_file(OUTPUT) == expected
    assert names(store) == ["in/pairs.tsv", "out/_scores.tsv.run.json", "out/scores.tsv"]
    assert work(tmp_path) == []
    assert (found["output"], found["rows"]) == (OUTPUT, 4 * CHUNK)
    record = store.cat_file(RECORD).decode()
    assert str(tmp_path) not in record, "the record may be read by others"
    again = score(INPUT, OUTPUT)
    assert again == json.loads(json.dumps(found)) | {"already_finished": True}


def test_a_stopped_run_continues_and_nothing_is_there_before_the_end(
    store: Any, tmp_path: Path, expected: bytes
) -> None:
    with pytest.raises(Stop):
        score(INPUT, OUTPUT, progress=stop_after(2))
    assert names(store) == ["in/pairs.tsv"]
    assert score(INPUT, OUTPUT)["resumed_at"] == CHUNK
    assert store.cat_file(OUTPUT) == expected
    assert work(tmp_path) == []


@pytest.mark.parametrize(("done", "there"), [(0, []), (1, [RECORD]), (2, [RECORD, OUTPUT])])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_upload_that_fails_is_done_by_the_next_command(
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: bytes,
    done: int,
    there: list[str],
    elsewhere: bool,
) -> None:
    """A record is put first, then the output, and then its record; each may fail, in the next command too. Another
    machine, which does not have the work, makes the output again."""
    problems = [*[None] * done, *[OSError("503")] * 5, *[None] * done, *[OSError("503")] * 5]
    failing(monkeypatch, "put_file", problems)
    for _ in range(2):
        with pytest.raises(RunError, match="the store fails: 503; give the same command again"):
            score(INPUT, OUTPUT)
        assert names(store) == ["in/pairs.tsv", *(url.removeprefix("memory://bucket/") for url in there)]
    if elsewhere:
        shutil.rmtree(tmp_path / "cache")
        assert score(INPUT, OUTPUT)["resumed_at"] == 0
    else:
        found = score(INPUT, OUTPUT, progress=lambda rows, note: pytest.fail("it was scored already"))
        assert "version" not in found
    assert score(INPUT, OUTPUT)["already_finished"]
    assert store.cat_file(OUTPUT) == expected
    assert len(names(store)) == 3
    assert work(tmp_path) == []


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_restart_that_is_stopped_goes_on_and_does_not_take_the_old_output(
    store: Any, tmp_path: Path, elsewhere: bool
) -> None:
    score(INPUT, OUTPUT)
    with pytest.raises(Stop):
        score(INPUT, OUTPUT, prefix="x_", restart=True, progress=stop_after(2))
    if elsewhere:
        shutil.rmtree(tmp_path / "cache")
    with pytest.raises(InputError, match="prefix was x_, is "):
        score(INPUT, OUTPUT)
    found = score(INPUT, OUTPUT, prefix="x_")
    assert (found["already_finished"], found["resumed_at"]) == (False, 0 if elsewhere else CHUNK)
    assert b"x_prediction" in store.cat_file(OUTPUT)


def test_a_name_with_a_percent_sign_is_that_of_the_record_too(store: Any) -> None:
    store.pipe_file("memory://bucket/in/a%20b.tsv", store.cat_file(INPUT))
    score("memory://bucket/in/a%20b.tsv", "memory://bucket/out/a%20b.tsv")
    assert names(store) == ["in/a%20b.tsv", "in/pairs.tsv", "out/_a%20b.tsv.run.json", "out/a%20b.tsv"]
    assert score("memory://bucket/in/a%20b.tsv", "memory://bucket/out/a%20b.tsv")["already_finished"]


def test_a_finished_output_is_recognised_without_its_work_and_what_changed_is_told(store: Any, tmp_path: Path) -> None:
    score(INPUT, OUTPUT)
    assert score(INPUT, OUTPUT)["already_finished"]
    with pytest.raises(InputError, match=rf"{OUTPUT}: is the finished output of another run \(options: prefix was"):
        score(INPUT, OUTPUT, prefix="x_")
    body = store.cat_file(OUTPUT)
    store.pipe_file(OUTPUT, body[:-1] + b"x")
    with pytest.raises(InputError, match=f"{OUTPUT}: was changed after it was finished; .*--restart"):
        score(INPUT, OUTPUT)
    assert score(INPUT, OUTPUT, restart=True)["already_finished"] is False
    assert store.cat_file(OUTPUT) == body
    store.rm_file(RECORD)
    with pytest.raises(InputError, match=f"{OUTPUT}: exists, and no record says that bertnli made it"):
        score(INPUT, OUTPUT)
    store.pipe_file(RECORD, b"{}")
    with pytest.raises(InputError, match=r"_scores\.tsv\.run\.json: damaged, or not bertnli's"):
        score(INPUT, OUTPUT)


def test_an_output_that_is_gone_is_made_again(store: Any, expected: bytes) -> None:
    score(INPUT, OUTPUT)
    store.rm_file(OUTPUT)
    score(INPUT, OUTPUT)
    assert store.cat_file(OUTPUT) == expected


def test_errors_name_the_url_and_rows_by_number(store: Any, tmp_path: Path) -> None:
    store.pipe_file(INPUT, b"sentence1\tsentence2\na\tb\n\tb\n")
    with pytest.raises(InputError, match=f"{INPUT}: row 2: empty premise"):
        score(INPUT, OUTPUT, strict=True)
    assert score(INPUT, OUTPUT.replace("scores", "other"))["errors"] == 1
    with pytest.raises(InputError, match="an earlier run, without --strict") as raised:
        score(INPUT, OUTPUT.replace("scores", "other"), strict=True)
    assert "memory://bucket/out/other.tsv" in str(raised.value) and str(tmp_path) not in str(raised.value)
    with pytest.raises(InputError, match=f"{INPUT}: the output is the input"):
        score(INPUT, INPUT, restart=True)


def test_a_pipe_can_be_scored_to_a_url(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_pipe() -> dict[str, Any]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(store.cat_file(INPUT))))
        monkeypatch.setattr("os.set_blocking", lambda descriptor, blocking: None)
        return score("-", OUTPUT, input_format="tsv")

    assert from_pipe()["rows"] == 4 * CHUNK
    assert names(store) == ["in/pairs.tsv", "out/scores.tsv"]
    with pytest.raises(InputError, match=f"{OUTPUT}: exists already"):
        from_pipe()


def test_a_bundle_is_read_from_a_url(store: Any, tmp_path: Path, expected: bytes) -> None:
    for path in tiny.bundle().iterdir():
        store.pipe_file(f"memory://bucket/models/nli/{path.name}", path.read_bytes())
    url = "memory://bucket/models/nli"
    score_file(url, INPUT, OUTPUT, device="cpu")
    assert store.cat_file(OUTPUT) == expected
    assert Scorer(f"{url}/", "cpu").bundle.path == Scorer(url, "cpu").bundle.path
    store.pipe_file(f"{url}/model.onnx", store.cat_file(f"{url}/model.onnx")[:-1] + b"x")
    [folder] = (tmp_path / "cache" / "bundles").glob("*/")
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"model\.onnx: not the file that was exported; found SHA-256"):
        Scorer(url, "cpu")
    with pytest.raises(InputError, match=r"bucket/none/manifest\.json: no such file"):
        Scorer("memory://bucket/none", "cpu")
    with pytest.raises(InputError, match=r"https://host/nli: a user, a password or a query in the URL of a bundle"):
        Scorer("https://host/nli?sig=1", "cpu")


def test_signed_urls_are_in_no_record_and_no_summary(store: Any, tmp_path: Path) -> None:
    with StandIn() as server:
        server.files["/pairs.tsv"] = Hosted(store.cat_file(INPUT))
        url = server.url("/pairs.tsv?X-Amz-Signature=secret").replace("//", "//me:pw@")
        said: list[str] = []
        summary = score_file(Scorer(tiny.bundle(), "cpu"), url, tmp_path / "out.tsv", say=said.append)
        with pytest.raises(InputError, match=r"/pairs\.tsv: .*'none'") as raised:
            score(url, tmp_path / "no.tsv", columns=Columns("none"))
        with pytest.raises(InputError, match="a web server, to which nothing is written"):
            score(INPUT, url)
    kept = [str(summary), *said, str(raised.value), (tmp_path / "_out.tsv.run.json").read_text()]
    kept += [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]
    assert not [text for text in kept if "secret" in text or "me:pw" in text]
