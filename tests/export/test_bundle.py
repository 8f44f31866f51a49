"""A bundle's folder: complete or refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from bertnli_export import new_bundle
from bertnli_export.bundle import Bundle
from bertnli_export.scorer import Scorer
from hypothesis import given, settings
from hypothesis import strategies as st

from bertnli.common.errors import InputError
from bertnli.common.files import digest
from tests.support import tiny
from tests.support.bundles import edit_config, edit_manifest, note_new_content


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return shutil.copytree(tiny.bundle(), tmp_path / "bundle")


def test_a_bundle_holds_exactly_these_files(bundle) -> None:
    names = {"config.json", "manifest.json", "model.onnx", "parity.npz", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in bundle.iterdir()} == names
    opened = Bundle.open(bundle)
    assert set(opened.manifest.files) == names - {"manifest.json"}
    opened.check_files()
    assert opened.labels == tiny.SNLI_LABELS
    assert opened.manifest.precision == "fp32"
    assert opened.manifest.max_length == 48
    assert opened.manifest.parity is not None
    assert opened.manifest.parity.max_logit_difference < 1e-4
    assert opened.manifest.parity.batch_sizes == [1, 2, 3, 32]
    assert opened.manifest.parity.lengths == (3, 48)
    assert {"bertnli", "torch", "onnx", "tokenizers"} <= opened.manifest.versions.keys()
    config = json.loads((bundle / "config.json").read_text())
    assert config["id2label"] == {"0": "entailment", "1": "neutral", "2": "contradiction"}
    assert config["label2id"] == {"entailment": 0, "neutral": 1, "contradiction": 2}


def test_what_is_no_bundle(tmp_path) -> None:
    with pytest.raises(InputError, match=r"not a bundle; found nothing there; expected .*manifest\.json"):
        Bundle.open(tmp_path / "no")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="found a file"):
        Bundle.open(tmp_path / "file")
    model = tiny.hf_folder(tmp_path / "model")
    with pytest.raises(InputError, match=r"found config\.json, model\.safetensors.*bertnli export"):
        Bundle.open(model)


@pytest.mark.parametrize(
    ("method", "name"), [("read_bytes", "manifest.json"), ("stat", "config.json"), ("open", "model.onnx")]
)
def test_what_may_not_be_read_is_one_message(bundle, monkeypatch, method, name) -> None:
    real = getattr(Path, method)

    def refuse(path: Path, *arguments: object, **options: object) -> object:
        if path == bundle / name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(InputError, match=rf"bundle/{name}: cannot be read \(Permission denied\); make it readable"):
        Bundle.open(bundle).check_files()


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "tokenizer_config.json", "config.json", "parity.npz"])
def test_a_missing_a_cut_and_a_changed_file_are_named(bundle, name) -> None:
    file = bundle / name
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(InputError, match=rf"{name}: not the file that was exported; found [\d,]+ bytes"):
        Bundle.open(bundle)
    file.unlink()
    with pytest.raises(InputError, match=rf"{name}: .*no such file"):
        Bundle.open(bundle)
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    opened = Bundle.open(bundle)
    with pytest.raises(InputError, match=rf"{name}: .*found SHA-256 {digest(file)}"):
        opened.check_files()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=3), "format_version; found 3; expected 2; a newer bertnli wrote"),
        (lambda m: m.update(format_version=1), "format_version; found 1; expected 2; an older bertnli wrote"),
        (lambda m: m.update(format="other"), "not a bundle's manifest"),
        (lambda m: m.pop("labels"), "key labels"),
        (lambda m: m.update(labels=["LABEL_0", "LABEL_1"]), "placeholders"),
        (lambda m: m.update(precision="fp99"), "key precision; found 'fp99'"),
        (lambda m: m.update(colour="red"), "key colour"),
        (lambda m: m["files"].pop("model.onnx"), r"key files; found no model\.onnx"),
        (lambda m: m["files"].update({"../../etc/passwd": {"sha256": "0" * 64, "size": 1}}), r"\.\./\.\./etc/passwd"),
        (lambda m: m["files"]["model.onnx"].update(sha256="x"), r"key files\.model\.onnx\.sha256; found 'x'"),
    ],
)
def test_a_bad_manifest_is_named(bundle, change, message) -> None:
    edit_manifest(bundle, change)
    with pytest.raises(InputError, match=message):
        Bundle.open(bundle)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_damaged_manifest(bundle, content) -> None:
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json"):
        Bundle.open(bundle)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(data=st.data(), value=_json)
def test_no_manifest_ends_in_a_traceback(bundle, data, value) -> None:
    content = json.loads((tiny.bundle() / "manifest.json").read_text())
    place = content
    while isinstance(place, dict) and place:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or data.draw(st.booleans()):
            place[key] = value
            break
        place = place[key]
    (bundle / "manifest.json").write_text(json.dumps(content))
    with contextlib.suppress(InputError):
        Bundle.open(bundle)


def test_another_tokenizer_is_refused(bundle) -> None:
    file = bundle / "tokenizer.json"
    file.write_text(file.read_text().replace('"strip_accents": null', '"strip_accents": false'))
    note_new_content(bundle, "tokenizer.json")
    with pytest.raises(InputError, match="other ids than the one it was exported with"):
        Scorer(bundle, "cpu")


def test_a_graph_with_another_number_of_labels_is_refused(bundle) -> None:
    edit_manifest(bundle, lambda content: content.update(labels=["a", "b"]))
    edit_config(bundle, lambda content: content.update(id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}))
    with pytest.raises(InputError, match="labels; found 2; expected 3"):
        Scorer(bundle, "cpu")


def test_a_bundle_appears_whole_or_not_at_all(tmp_path) -> None:
    with pytest.raises(KeyError), new_bundle.new_bundle(tmp_path / "out") as folder:
        (folder / "model.onnx").write_text("half")
        assert not (tmp_path / "out").exists()
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with new_bundle.new_bundle(tmp_path / "deep" / "out") as folder:
        (folder / "model.onnx").write_text("whole")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_an_empty_folder_is_taken(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    with new_bundle.new_bundle(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert (tmp_path / "out" / "a").exists()
