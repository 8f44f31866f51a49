"""URLs on the command line: where a bundle, a model or a folder may be elsewhere, and what is said where it may not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bertnli_export.manifest import update_manifest

from bertnli import cli
from bertnli.common.errors import InputError
from tests.support import tiny
from tests.support.memory_store import memory_store
from tests.support.scored_files import write

BUNDLE = "memory://bucket/models/nli"
SECRET = "bucket/m: a user, a password or a query in the URL of a bundle"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("BERTNLI_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    with memory_store(monkeypatch) as files:
        put(files, tiny.bundle())
        files.pipe_file("memory://bucket/rows.jsonl", write(tmp_path / "rows.jsonl", tiny.snli_rows(30)).read_bytes())
        yield files
    assert not list(Path.cwd().iterdir()), "no folder with the name of a URL is made"


def put(store: Any, folder: Path) -> None:
    for path in folder.iterdir():
        store.pipe_file(f"{BUNDLE}/{path.name}", path.read_bytes())


def run(*arguments: str) -> None:
    """The command, in this process."""
    try:
        cli.app([*arguments])
    except SystemExit as ended:
        assert not ended.code


def summary(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    run(*arguments, "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_verify_takes_a_bundles_url(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = summary(capsys, "verify", BUNDLE, "--device", "cpu", "--data", "memory://bucket/rows.jsonl")
    assert (found["bundle"], found["label_flips"]) == (BUNDLE, 0)
    assert found["rows"] > 20


def test_what_was_damaged_after_a_copy_was_made_is_found(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run("verify", BUNDLE, "--device", "cpu")
    run("doctor", "--bundle", BUNDLE)
    assert f"bundle {BUNDLE}: complete; 5 files" in capsys.readouterr().out
    store.pipe_file(f"{BUNDLE}/model.onnx", store.cat_file(f"{BUNDLE}/model.onnx")[:-1] + b"x")
    for command in (["verify", BUNDLE], ["doctor", "--bundle", BUNDLE]):
        with pytest.raises(InputError, match=rf"{BUNDLE}/model\.onnx: not the file that was exported"):
            run(*command)
    store.rm_file(f"{BUNDLE}/tokenizer.json")
    store.pipe_file(f"{BUNDLE}/model.onnx", (tiny.bundle() / "model.onnx").read_bytes())
    with pytest.raises(InputError, match=rf"{BUNDLE}/tokenizer\.json: no such file"):
        run("verify", BUNDLE)


def test_a_bundle_that_was_never_verified_is_verified_here_first(store: Any, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny.bundle(), tmp_path / "bundle")
    update_manifest(bundle, parity=None)
    put(store, bundle)
    with pytest.raises(InputError, match=rf"{BUNDLE}: was never compared .*; copy the bundle here, "):
        run("verify", BUNDLE, "--device", "cpu")
    with pytest.raises(InputError, match="was never compared with its checkpoint"):
        run("score", BUNDLE, "memory://bucket/rows.jsonl", "memory://bucket/out.jsonl", "--device", "cpu")


def test_eval_takes_a_bundles_url(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", BUNDLE, "memory://bucket/rows.jsonl", "--device", "cpu", "--against", f"{BUNDLE}/"]
    assert summary(capsys, *arguments)["rows"] > 20
    with pytest.raises(InputError, match="--calibrate; found memory://bucket/models/nli, which is elsewhere; copy"):
        run(*arguments, "--calibrate", "memory://bucket/rows.jsonl")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("verify {}", SECRET),
        ("doctor --bundle {}", SECRET),
        ("eval {} rows.jsonl", SECRET),
        ("eval {} rows.jsonl --arch bert.small", r"--arch; found memory://bucket/m, a bundle"),
        ("eval {} rows.jsonl --calibrate x", r"--calibrate; found memory://bucket/m, which is elsewhere"),
        (
            "score {} memory://bucket/rows.jsonl out.jsonl",
            SECRET,
        ),
        ("push {} org/name", r"push: memory://bucket/m; found a URL; expected a folder here; copy it here first"),
        ("doctor --model {}", r"model 'memory://bucket/m'; found a URL; .*; copy its folder here, and give its path"),
        ("export {} out", r"model 'memory://bucket/m'; found a URL; .*; copy its folder here, and give its path"),
    ],
)
def test_no_message_shows_what_may_be_secret(command: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        run(*command.format("memory://me:secret@bucket/m?sig=secret").split())
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("export model s3://bucket/out", "OUT"),
        ("fetch snli --to gs://bucket/out", "--to"),
        ("eval model data --report az://bucket/out", "--report"),
        ("demo --out s3://bucket/out", "--out"),
    ],
)
def test_a_folder_that_is_written_is_here(command: str, name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}; found a URL; expected a folder here; give one, and copy it there"):
        run(*command.split())


def test_a_run_is_written_here(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: minilm\ndata: {train: snli}\noutput: s3://bucket/run\n")
    with pytest.raises(InputError, match=r"a URL: a run writes into a folder that every host sees"):
        run("train", str(tmp_path / "run.yaml"))


def test_the_rows_of_a_parity_check_may_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def export_bundle(source: Any, out: Path, *, verify_data: Any, **options: Any) -> dict[str, Any]:
        seen.append(verify_data)
        return {}

    monkeypatch.setattr("bertnli_export.build.export_bundle", export_bundle)
    arguments = ["export", str(tiny.hf_folder(tmp_path / "model")), str(tmp_path / "out"), "--verify"]
    run(*arguments, "memory://bucket/rows.jsonl")
    assert seen[0].file.name == "memory://bucket/rows.jsonl"
    assert Path(seen[0].file.path).read_bytes() == (tmp_path / "rows.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"memory://bucket/none\.jsonl: no such file"):
        run(*arguments, "memory://bucket/none.jsonl")
