"""Bundles that strangers made or that lost their way: one message, at once, and nothing is read that is not theirs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from bertnli_export.binding import BoundSession
from bertnli_export.bundle import Bundle
from bertnli_export.devices import CPU
from bertnli_export.graph_file import check_graph
from bertnli_export.manifest import update_manifest
from bertnli_export.new_bundle import check_target
from bertnli_export.parity import Reference
from bertnli_export.score import score_file
from bertnli_export.scorer import Scorer
from bertnli_export.scoring_setup import prepare
from bertnli_export.session import DeviceError, Session
from bertnli_export.verify import verify
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from packaging.version import Version

from bertnli.common import rust
from bertnli.common.errors import InputError
from tests.support import tiny
from tests.support.bundles import edit_config, edit_graph, edit_manifest, note_new_content


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return shutil.copytree(tiny.bundle(), tmp_path / "bundle")


# --- the graph


def _then(graph: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Put nodes behind the logits: the first takes `raw`, the last gives `logits`."""
    for node in graph.graph.node:
        node.output[:] = ["raw" if name == "logits" else name for name in node.output]
    graph.graph.node.extend(nodes)


def _constant(name: str, values: list[int]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value_ints=values)


def _first_row(graph: onnx.ModelProto) -> None:
    bounds = [_constant(name, [value]) for name, value in (("from", 0), ("to", 1), ("axis", 0))]
    _then(graph, *bounds, helper.make_node("Slice", ["raw", "from", "to", "axis"], ["logits"]))


def _rows_twice(graph: onnx.ModelProto) -> None:
    _then(graph, helper.make_node("Concat", ["raw", "raw"], ["logits"], axis=0))


def _rows_that_do_not_begin_with_7(graph: onnx.ModelProto) -> None:
    _then(
        graph,
        *[_constant(name, [value]) for name, value in (("zero", 0), ("one", 1), ("seven", 7))],
        helper.make_node("Slice", ["input_ids", "zero", "one", "one"], ["first"]),
        helper.make_node("Equal", ["first", "seven"], ["is_seven"]),
        helper.make_node("Squeeze", ["is_seven", "one"], ["flat"]),
        helper.make_node("Not", ["flat"], ["kept"]),
        helper.make_node("Compress", ["raw", "kept"], ["logits"], axis=0),
    )


def _for_ever(operator: str = "Loop") -> Callable[[onnx.ModelProto], None]:
    def change(graph: onnx.ModelProto) -> None:
        values = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("on", 9))]
        body = helper.make_graph(
            [helper.make_node("Identity", ["on"], ["again"])],
            "body",
            values,
            [helper.make_tensor_value_info("again", TensorProto.BOOL, [])],
        )
        loop = helper.make_node(operator, ["", ""], [], body=body)
        _then(graph, loop, helper.make_node("Identity", ["raw"], ["logits"]))

    return change


def _function(graph: onnx.ModelProto) -> None:
    calls = [helper.make_node("F", ["x"], ["y"], domain="d")]
    graph.functions.append(helper.make_function("d", "F", ["x"], ["y"], calls, [helper.make_opsetid("d", 1)]))


def _external(tensor: onnx.TensorProto, place: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)


def _weights_in(place: str) -> Callable[[onnx.ModelProto], None]:
    return lambda graph: _external(graph.graph.initializer[0], place)


def _constant_in_a_file(graph: onnx.ModelProto) -> None:
    value = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "c")
    _external(value, "/etc/passwd")
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(value)
    _then(graph, node, helper.make_node("Add", ["raw", "c"], ["logits"]))


def _sparse_weights_in_a_file(graph: onnx.ModelProto) -> None:
    values = onnx.numpy_helper.from_array(np.zeros(1, np.float32), "s")
    _external(values, "/etc/passwd")
    sparse = graph.graph.sparse_initializer.add(dims=[3])
    sparse.values.CopyFrom(values)
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.zeros(1, np.int64)))


def _too_large(graph: onnx.ModelProto) -> None:
    _then(
        graph,
        _constant("shape", [10**6, 10**9, 1, 3]),
        _constant("axes", [0, 1]),
        helper.make_node("Expand", ["raw", "shape"], ["large"]),
        helper.make_node("ReduceMax", ["large", "axes"], ["logits"], keepdims=0),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_first_row, r"another shape than its batch; found \(1, 3\); expected \(2, 3\)"),
        (_rows_twice, r"another shape than its batch; found \(4, 3\)"),
        (_for_ever(), "found a node Loop with a graph of its own"),
        (_for_ever("Anything"), "found a node Anything with a graph of its own"),
        (_function, "found a function in it"),
        (lambda graph: graph.training_info.add(), "found a training in it"),
        (_weights_in("weights.bin"), "found weights in another file"),
        (_weights_in("../../../../etc/passwd"), "found weights in another file"),
        (_weights_in("/etc/passwd"), "found weights in another file"),
        (_constant_in_a_file, "found weights in another file"),
        (_sparse_weights_in_a_file, "found weights in another file"),
        (_too_large, "cannot be run: ONNX Runtime failed"),
        (lambda graph: graph.graph.ClearField("node"), "ONNX Runtime cannot load it"),
    ],
)
def test_a_graph_that_is_not_ours_is_refused(bundle, change, message) -> None:
    edit_graph(bundle, change)
    for use in (Scorer, verify):
        with pytest.raises(InputError, match=rf"model\.onnx: .*{message}"):
            use(bundle, device="cpu")


def test_rows_that_are_lost_later_are_noticed_too(bundle) -> None:
    edit_graph(bundle, _rows_that_do_not_begin_with_7)
    scorer = Scorer(bundle, "cpu")
    ids = np.array([[2, 9, 3], [7, 9, 3]])
    with pytest.raises(InputError, match=r"another shape than its batch; found \(1, 3\); expected \(2, 3\)"):
        scorer.session.logits(ids, np.ones_like(ids), 0 * ids)


def test_on_a_gpu_too(bundle, monkeypatch) -> None:
    """Its batches are padded to buckets, and the output has a buffer of its own."""
    edit_graph(bundle, _rows_that_do_not_begin_with_7)
    session = Session(bundle / "model.onnx", CPU)
    monkeypatch.setattr(session, "_bound", BoundSession(session._session, CPU, 3))
    ids = np.array([[2, 9, 3], [7, 9, 3]])
    with pytest.raises(DeviceError, match="Compress"):  # its result does not fit the buffer
        session.logits(ids, np.ones_like(ids), 0 * ids)


@pytest.mark.parametrize("tag", [b"\x6a", b"\xea\x00", b"\xea\x80\x80\x00", b"\xea\x80\x80\x80\x10"])
def test_a_field_is_known_by_every_number_that_protobuf_takes_for_its_own(bundle, tag) -> None:
    """0x6a is field 13 of a tensor, external_data. A number may have more bytes than it needs."""
    place = onnx.StringStringEntryProto(key="location", value="w").SerializeToString()
    graph = onnx.GraphProto(name="g").SerializeToString()
    odd = tag + bytes([len(place)]) + place
    graph += b"\x2a" + bytes([len(odd)]) + odd  # field 5 of a graph, initializer
    (bundle / "model.onnx").write_bytes(b"\x3a" + bytes([len(graph)]) + graph)  # field 7 of a model
    with pytest.raises(InputError, match="weights in another file"):
        check_graph(bundle / "model.onnx")


@given(place=st.integers(0, 100_000), value=st.binary(max_size=8), cut=st.integers(0, 100_000))
def test_whatever_a_graph_file_holds_it_is_no_traceback(bundle, place, value, cut) -> None:
    content = bytearray((tiny.bundle() / "model.onnx").read_bytes())
    content[place : place + len(value)] = value
    (bundle / "model.onnx").write_bytes(content[: len(content) - cut % len(content)])
    with contextlib.suppress(InputError):
        check_graph(bundle / "model.onnx")


def test_a_graph_with_more_parts_than_any_of_ours_is_refused_at_once(bundle, monkeypatch) -> None:
    monkeypatch.setattr("bertnli_export.graph_file._MOST_FIELDS", 100)
    with pytest.raises(InputError, match="not an ONNX graph; found more than 100 fields"):
        Session(bundle / "model.onnx", CPU)


@pytest.mark.skipif(Version(onnxruntime.__version__) < Version("1.31"), reason="it heeds the option for bytes only")
def test_onnx_runtime_itself_is_told_to_open_no_other_file(bundle, monkeypatch) -> None:
    (bundle / "weights.bin").write_bytes(bytes(1 << 20))
    edit_graph(bundle, _weights_in("weights.bin"))
    monkeypatch.setattr("bertnli_export.session.check_graph", lambda model: None)
    with pytest.raises(InputError, match=r"cannot load it: .*xternal"):
        Session(bundle / "model.onnx", CPU)


def test_an_onnx_runtime_that_is_too_old_is_named(bundle, monkeypatch) -> None:
    assert json.loads((bundle / "manifest.json").read_text())["onnxruntime"] == "1.24.4"
    edit_manifest(bundle, lambda content: content.update(onnxruntime="99.1"))
    with pytest.raises(
        InputError, match=r"bundle needs ONNX Runtime 99\.1 or newer; found .*; pip install -U '.*>=99\.1'"
    ):
        prepare(bundle, "cpu")
    edit_manifest(bundle, lambda content: content.update(onnxruntime="1.2"))
    prepare(bundle, "cpu")
    monkeypatch.setattr(onnxruntime, "__version__", "1.24.3")
    for use in (lambda: prepare(bundle, "cpu"), lambda: Session(bundle / "model.onnx", CPU)):
        with pytest.raises(InputError, match=r"needs ONNX Runtime 1\.24\.4 or newer; found 1\.24\.3"):
            use()
    monkeypatch.setattr(onnxruntime, "__version__", "1.25.0.dev20260101")
    prepare(bundle, "cpu")


# --- labels


def _swapped(content: dict) -> None:
    content["labels"] = content["labels"][::-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: edit_manifest(b, _swapped), r"config\.json: key id2label: other labels.*found 0: entailment"),
        (lambda b: edit_config(b, lambda c: c.update(label2id=dict.fromkeys(c["label2id"], 1))), "key label2id: other"),
        (lambda b: edit_config(b, lambda c: c.update(label2id=[1])), r"key label2id: other labels.*found 1;"),
        (lambda b: edit_config(b, lambda c: c.pop("id2label")), r"config\.json: key id2label.*export the model again$"),
        (
            lambda b: edit_manifest(b, lambda c: c.update(labels=["LABEL_0", "LABEL_1", "LABEL_2"])),
            r"manifest\.json: key labels: .*; export the model again$",
        ),
        (lambda b: edit_graph(b, lambda g: g.metadata_props.pop(0)), ""),
        (
            lambda b: (
                edit_manifest(b, _swapped),
                edit_config(b, lambda c: c.update(id2label=dict(enumerate(tiny.SNLI_LABELS[::-1])), label2id=None)),
            ),
            "other labels, or another order, than in its graph's own metadata",
        ),
    ],
)
def test_labels_that_differ_between_the_files_are_refused(bundle, change, message) -> None:
    change(bundle)
    if not message:  # a graph that another program has written again may have lost its metadata
        assert Scorer(bundle, "cpu").labels == tiny.SNLI_LABELS
        return
    for use in (Scorer, verify):
        with pytest.raises(InputError, match=message):
            use(bundle, device="cpu")


def test_tritons_labels_are_compared_too(bundle) -> None:
    (bundle / "labels.txt").write_text("neutral\nentailment\ncontradiction\n")
    note_new_content(bundle, "labels.txt")
    with pytest.raises(InputError, match=r"labels\.txt: other labels.*found neutral, entailment, contradiction"):
        prepare(bundle, "cpu")
    (bundle / "labels.txt").write_text("entailment\nneutral\ncontradiction\n")
    note_new_content(bundle, "labels.txt")
    prepare(bundle, "cpu")


# --- what other programs read


def test_a_precision_that_is_not_the_graphs_is_refused(bundle) -> None:
    """The limits of int8 are wider: `verify` would pass a graph that is not what it was."""
    edit_manifest(bundle, lambda content: content.update(precision="int8"))
    for use in (Scorer, verify):
        with pytest.raises(InputError, match="another precision than in its graph's own metadata; found int8"):
            use(bundle, device="cpu")


def test_code_that_transformers_would_run_is_refused(bundle) -> None:
    (bundle / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}))
    note_new_content(bundle, "tokenizer_config.json")
    with pytest.raises(InputError, match=r"tokenizer_config\.json: key auto_map; found code, .*evil"):
        prepare(bundle, "cpu")


@pytest.mark.parametrize("name", ["x\0y", "./notes", "1//notes", "1/config.json"])
def test_names_with_two_meanings_are_refused(bundle, name) -> None:
    """1/config.json: another program would read the config.json that bertnli does not."""
    edit_manifest(bundle, lambda content: content["files"].update({name: content["files"]["config.json"]}))
    with pytest.raises(InputError, match=r"manifest\.json: key files; found"):
        Bundle.open(bundle)


# --- numbers


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (keys, value)
        for keys, values in {
            ("max_length",): (10**12, 0, -1, 5.5, "48", True, None),
            ("opset",): (0, 10**9, "23"),
            ("temperature",): (0, -1, 1e-320, 1e308, float("inf"), float("nan"), 1e400, "1"),
            ("labels",): ([], ["a"], ["a"] * 3, "abc", {"a": 1}),
            ("lower_case",): (1, "true"),
            ("onnxruntime",): ("", "newest", "1." + "9" * 999, 1.24),
            ("attention", "layers"): (0, 10**30),
            ("parity", "max_logit_difference"): (float("nan"), -1),
            ("parity", "lengths"): ([1], [1, 10**10]),
            ("files", "model.onnx", "size"): (-1, 1e9),
        }.items()
        for value in values
    ],
)
def test_numbers_beyond_sense_in_the_manifest(bundle, keys, value) -> None:
    def change(content: dict) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    edit_manifest(bundle, change)
    with pytest.raises(InputError, match=r"manifest\.json: key " + r"\.".join(keys)) as raised:
        Bundle.open(bundle)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(("name", "size"), [("model.onnx", 2**63), ("config.json", 2**25), ("tokenizer.json", 2**40)])
def test_sizes_beyond_sense_are_refused_before_anything_is_read(bundle, name, size) -> None:
    edit_manifest(bundle, lambda content: content["files"][name].update(size=size))
    os.truncate(bundle / name, min(size, 2**42))
    with pytest.raises(
        InputError, match=rf"manifest\.json: key files\.{name}; found {size:,} bytes; expected .* at most"
    ):
        Bundle.open(bundle)


def _bertnli(**settings: object) -> Callable[[dict], None]:
    return lambda content: content["bertnli"].update(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_bertnli(max_length=47), r"manifest\.json: key max_length; found 48; expected 47"),
        (_bertnli(max_length=10**12), "max_length; found 1000000000000"),
        (_bertnli(max_length=1e400), "max_length; found inf"),
        (_bertnli(truncation="d2l"), "key truncation; found longest_first; expected d2l"),
        (lambda content: content.update(max_position_embeddings=-5), "max_position_embeddings"),
        (lambda content: content.update(max_position_embeddings=1e400), "max_position_embeddings"),
        (lambda content: content.update(vocab_size=10), "ids; found up to"),
        (lambda content: content.update(vocab_size="many"), "vocab_size"),
        (lambda content: content.update(id2label={str(10**30): "a", "0": "b"}), "id2label"),
        (lambda content: content.update(bertnli=[]), "key bertnli"),
        (lambda content: content.update(pad_token_id=10**9), "pad_token_id; found 1000000000; expected below"),
    ],
)
def test_numbers_beyond_sense_in_the_config(bundle, change, message) -> None:
    edit_config(bundle, change)
    with pytest.raises(InputError, match=message):
        prepare(bundle, "cpu")


def _damage_reference(bundle: Path, **arrays: np.ndarray) -> None:
    file = bundle / "parity.npz"
    with np.load(file) as known:
        np.savez(file, **{**known, **arrays})
    note_new_content(bundle, file.name)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"lengths": np.array([10**9])}, "do not fit"),
        ({"mixed": np.array(10**9)}, "do not fit"),
        ({"mixed": np.array(0)}, "do not fit"),
        ({"logits": np.zeros((3, 3), np.float32)}, "do not fit"),
        ({"logits": np.full((1, 3), np.nan, np.float32)}, "do not fit"),
        ({"ids": np.zeros(3)}, "do not fit"),
        ({"ids": np.zeros(1 << 24)}, "more than 67,108,864 bytes"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(bundle, arrays, message) -> None:
    _damage_reference(bundle, **arrays)
    with pytest.raises(InputError, match=rf"parity\.npz: damaged \(.*{message}"):
        Reference.load(bundle / "parity.npz")


def test_a_reference_of_another_model_is_refused(bundle) -> None:
    known = Reference.load(bundle / "parity.npz")
    for change, message in (
        ({"logits": np.zeros((len(known.encoded), 2), np.float32)}, "labels; found 2; expected 3"),
        ({"ids": known.encoded.ids + 10**6}, "ids; found 1,000,"),
        ({"ids": known.encoded.ids - 1000}, "ids; found -999"),
    ):
        _damage_reference(bundle, **change)
        with pytest.raises(InputError, match=rf"parity\.npz: {message}"):
            verify(bundle, device="cpu")
        shutil.copy(tiny.bundle() / "parity.npz", bundle)


def test_a_reference_that_unpacks_to_gigabytes_is_refused_before(bundle) -> None:
    with zipfile.ZipFile(bundle / "parity.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logits.npy", bytes(1 << 27))
    assert (bundle / "parity.npz").stat().st_size < 1 << 20
    with pytest.raises(InputError, match="unpacked more than 67,108,864 bytes"):
        Reference.load(bundle / "parity.npz")


# --- files


@pytest.mark.parametrize(
    "name", ["manifest.json", "model.onnx", "tokenizer.json", "tokenizer_config.json", "config.json", "parity.npz"]
)
@pytest.mark.parametrize(("make", "kind"), [(os.mkfifo, "a named pipe"), (Path.mkdir, "a folder")])
def test_something_else_in_place_of_a_file(bundle, name, make, kind) -> None:
    (bundle / name).unlink()
    make(bundle / name)
    with pytest.raises(InputError, match=rf"{name}: .*found {kind}"):
        prepare(bundle, "cpu")


def test_a_pipe_in_place_of_the_manifest_of_a_bundle_to_replace_or_calibrate(bundle) -> None:
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")
    with pytest.raises(InputError, match="exists already"):
        check_target(bundle, force=True)
    with pytest.raises(InputError, match="found a named pipe"):
        update_manifest(bundle, temperature=2.0)


@pytest.mark.parametrize(
    "name",
    [
        "linked",
        "weights.bin",
        "vocab.txt",
        "added_tokens.json",
        "modeling.py",
        "1/model.onnx",
        "README/x",
        "model.onnx.md",
    ],
)
def test_files_that_the_manifest_does_not_name_are_refused(bundle, name) -> None:
    if name == "linked":
        (bundle / name).symlink_to(bundle.parent)
    else:
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_text("{}")
    with pytest.raises(
        InputError, match=rf"{name}: a file that the bundle's manifest\.json does not name; move it out"
    ):
        prepare(bundle, "cpu")


def test_nothing_is_written_into_a_bundle(bundle) -> None:
    """It would be refused from then on: its manifest does not name what was written."""
    for path in (bundle / "nli", bundle / "a" / "b"):
        with pytest.raises(InputError, match=f"{path}: inside the bundle {bundle}; expected a place outside"):
            check_target(path, force=True)
    rows = bundle.parent / "rows.tsv"
    rows.write_text("premise\thypothesis\na man\ta dog\n")
    with pytest.raises(InputError, match=r"scores\.tsv: inside the bundle"):
        score_file(bundle, str(rows), bundle / "scores.tsv", device="cpu")
    assert not list(bundle.glob("*.tsv*"))


def test_a_description_and_hidden_files_may_be_beside_them(bundle) -> None:
    for name in ("README.md", "LICENSE", "NOTICE.txt", ".gitattributes", ".cache/huggingface/x"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text("x")
    prepare(bundle, "cpu")


def test_files_may_be_links_as_in_the_hubs_cache(bundle) -> None:
    (bundle.parent / "blobs").mkdir()
    for file in list(bundle.iterdir()):
        file.rename(bundle.parent / "blobs" / file.name)
        file.symlink_to(Path("..", "blobs", file.name))
    prepare(bundle, "cpu")


# --- the tokenizer


@pytest.mark.parametrize("charsmap", [b"", b"\x04\0\0\0\xff\xff\xff\x7f", b"\x04\0\0\0\0\x04\0\0"])
def test_a_tokenizer_that_panics_in_rust_is_one_message(bundle, capfd, charsmap) -> None:
    """When it is loaded, and when it reads its first text."""
    file = bundle / "tokenizer.json"
    content = json.loads(file.read_text())
    normalizer = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    file.write_text(json.dumps(content | {"normalizer": normalizer}))
    note_new_content(bundle, file.name)
    with pytest.raises(InputError, match=r"tokenizer\.json: "):
        prepare(bundle, "cpu")
    assert capfd.readouterr().err == ""


def test_what_a_call_of_a_library_prints_is_not_lost(capfd) -> None:
    rust.call(os.write, 2, b"a warning\n")
    assert capfd.readouterr().err == "a warning\n"

    class PanicException(BaseException):  # pyo3's name
        pass

    def panic() -> None:
        os.write(2, b"stack backtrace:\n")
        raise PanicException("index out of bounds")

    with pytest.raises(rust.PanicError, match="the library panicked: index out of bounds"):
        rust.call(panic)
    assert capfd.readouterr().err == ""


def test_a_call_needs_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """A read-only container and a full disk have none."""
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", None)
        patched.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null"])
        rust.call(os.write, 2, b"a warning\n")
    assert capfd.readouterr().err == "a warning\n"
