"""A bundle in other programs: Triton's model repository, transformers' tokenizer, onnxruntime without bertnli."""

from __future__ import annotations

import http.server
import json
import re
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from bertnli_export import build, triton
from bertnli_export.build import export_bundle
from bertnli_export.bundle import Bundle
from bertnli_export.scorer import Scorer
from bertnli_export.verify import verify

from bertnli.common.errors import InputError, RunError
from bertnli.data.outputs import Outputs
from bertnli.evaluation.metrics import softmax
from bertnli.model.pretrained import Pretrained
from tests.conftest import ROOT, environment
from tests.support import tiny
from tests.support.bundles import tiny_graph

EXAMPLE = ROOT / "examples" / "onnxruntime_only.py"
PAIRS = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(40)] + [("A man run. " * 30, "Two dogs.")]


@pytest.fixture(scope="module")
def repository(tiny_source: Pretrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository of Triton's with the tiny bundle's graph, to be read only."""
    out = tmp_path_factory.mktemp("triton") / "repository"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.EXPORTERS, "fp32", tiny_graph)
        summary = export_bundle(tiny_source, out, layout="triton")
    assert summary["bundle"] == str(out / "nli")
    return out


# --- Triton


def test_a_triton_repository_is_also_a_bundle(repository) -> None:
    folder = repository / triton.NAME
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    theirs = {"config.pbtxt", "labels.txt", "1/model.onnx"}
    ours = {"config.json", "parity.npz", "tokenizer.json", "tokenizer_config.json"}
    assert [path.name for path in repository.iterdir()] == [triton.NAME]
    assert files == theirs | ours | {"manifest.json"}
    assert set(Bundle.open(folder).manifest.files) == theirs | ours
    assert verify(folder, device="cpu")["label_flips"] == 0
    assert Scorer(folder, "cpu").score(PAIRS) == Scorer(tiny.bundle(), "cpu").score(PAIRS)


def test_config_pbtxt_says_what_the_graph_takes_and_gives(repository) -> None:
    """Against Triton's own protobuf: test_layouts_system.py."""
    folder = repository / triton.NAME
    graph = onnx.load(folder / "1" / "model.onnx").graph
    text = (folder / "config.pbtxt").read_text()
    found = {
        name: (kind, dims) for name, kind, dims in re.findall(r'name: "(\w+)" data_type: (\w+) dims: (\[.*?\])', text)
    }
    assert found == {
        **{value.name: ("TYPE_INT64", "[ -1 ]") for value in graph.input},
        "logits": ("TYPE_FP32", "[ 3 ]"),
    }
    assert 'label_filename: "labels.txt"' in text
    assert (folder / "labels.txt").read_text().splitlines() == list(tiny.SNLI_LABELS)


def test_triton_is_told_where_each_precision_runs() -> None:
    kinds = {
        precision: re.findall(r"kind: (\w+)", triton.config(Outputs(("a", "b")), precision))
        for precision in ("fp32", "fp16", "int8")
    }
    assert kinds == {"fp32": ["KIND_AUTO"], "fp16": ["KIND_GPU"], "int8": ["KIND_CPU"]}
    assert set(build.EXPORTERS) <= kinds.keys()


def test_a_changed_file_of_a_triton_model_is_named(repository, tmp_path) -> None:
    folder = shutil.copytree(repository / triton.NAME, tmp_path / "renamed")
    Bundle.open(folder).check_files()
    file = folder / "config.pbtxt"
    file.write_text(file.read_text().replace("KIND_AUTO", "KIND_CPU "))
    with pytest.raises(InputError, match=r"renamed/config\.pbtxt: not the file that was exported"):
        verify(folder, device="cpu")
    (folder / "1" / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"1/model\.onnx: .*no such file"):
        Bundle.open(folder)


def test_a_repository_keeps_its_other_models(tiny_source, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(build.EXPORTERS, "fp32", tiny_graph)
    (tmp_path / "other" / "1").mkdir(parents=True)
    export_bundle(tiny_source, tmp_path, layout="triton")
    with pytest.raises(InputError, match=r"nli: exists already; .*--force"):
        export_bundle(tiny_source, tmp_path, layout="triton")
    export_bundle(tiny_source, tmp_path, layout="triton", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nli", "other"]
    (tmp_path / "nli").rename(tmp_path / "mine")
    verify(tmp_path / "mine", device="cpu")


def test_a_failed_export_leaves_no_triton_model(tiny_source, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton, "config", full)
    monkeypatch.setitem(build.EXPORTERS, "fp32", tiny_graph)
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        export_bundle(tiny_source, tmp_path, layout="triton")
    assert list(tmp_path.iterdir()) == []


def test_another_layout_is_refused(tiny_source, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(build.EXPORTERS, "fp32", lambda *_: pytest.fail("the work began"))
    with pytest.raises(InputError, match="--layout; found 'optimum'; expected bertnli or hub or triton"):
        export_bundle(tiny_source, tmp_path / "out", layout="optimum")


def with_temperature(bundle: Path) -> Path:
    """The bundle, calibrated."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"temperature": 2.5}))
    return bundle


class _Triton(http.server.BaseHTTPRequestHandler):
    """Triton's HTTP endpoint for one model: KServe's v2 protocol, and the model repository's rules."""

    folder: Path  # of the model
    asked: list[tuple[str, list[int]]]  # path and shape of each request

    def do_POST(self) -> None:
        inputs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        self.asked.append((self.path, inputs[0]["shape"]))
        config = (self.folder / "config.pbtxt").read_text()
        assert {one["name"] for one in inputs} == set(re.findall(r'name: "(\w+)" data_type: TYPE_INT64', config))
        assert {one["datatype"] for one in inputs} == {"INT64"}
        assert inputs[0]["shape"][0] <= int(re.search(r"max_batch_size: (\d+)", config)[1])
        session = onnxruntime.InferenceSession(self.folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        batch = {one["name"]: np.array(one["data"], np.int64).reshape(one["shape"]) for one in inputs}
        [logits] = session.run(["logits"], batch)
        outputs = [{"name": "logits", "datatype": "FP32", "shape": logits.shape, "data": logits.ravel().tolist()}]
        answer = json.dumps({"model_name": "nli", "model_version": "1", "outputs": outputs}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


def test_the_client_of_triton_gets_the_bundles_scores(repository, tmp_path) -> None:
    """The example as it stands, against a stand-in: Triton itself comes as a container of many gigabytes."""
    folder = with_temperature(shutil.copytree(repository / triton.NAME, tmp_path / triton.NAME))
    handler = type("_Handler", (_Triton,), {"folder": folder, "asked": []})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        command = [sys.executable, str(ROOT / "examples" / "serve_with_triton.py"), address, str(folder)]
        done = subprocess.run(command, env=environment(PYTHONPATH=""), capture_output=True, text=True, timeout=120)
        long = runpy.run_path(str(ROOT / "examples" / "serve_with_triton.py"))["scores"](address, folder, PAIRS[-3:])
        server.shutdown()
    assert done.returncode == 0, done.stderr
    scorer = Scorer(folder, "cpu")
    pairs = [("A man is playing a guitar.", "A person makes music."), ("Two dogs run on a beach.", "The dogs sleep.")]
    found = [json.loads(line) for line in done.stdout.splitlines()] + long
    for expected, one in zip(scorer.score(pairs + PAIRS[-3:]), found, strict=True):
        assert one == pytest.approx(expected.probabilities, abs=1e-5)
    assert [path for path, _ in handler.asked] == ["/v2/models/nli/infer"] * 2
    assert all(length % 16 == 0 for _, (_, length) in handler.asked)


# --- tools that know neither bertnli nor its manifest


def test_transformers_reads_the_bundles_tokenizer_and_labels() -> None:
    """All that optimum's ORTModelForSequenceClassification takes beside the graph; itself: test_layouts_system.py."""
    transformers = pytest.importorskip("transformers")
    bundle = tiny.bundle()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
    config = transformers.AutoConfig.from_pretrained(bundle)
    inputs = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, truncation=True, return_tensors="np")
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, dict(inputs))
    scores = Scorer(bundle, "cpu").score(PAIRS)
    assert scores[-1].truncated
    assert [config.id2label[index] for index in logits.argmax(axis=1)] == [score.label for score in scores]
    np.testing.assert_allclose(softmax(logits), [list(score.probabilities.values()) for score in scores], atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "d2l"])
def test_onnxruntime_alone_gives_the_same_scores(family, d2l_bundle, tmp_path) -> None:
    """The example as it stands, where importing any package of ours fails; a batch with padding."""
    shutil.copytree(tiny.bundle() if family == "bert" else d2l_bundle, tmp_path / "bundle")
    with_temperature(tmp_path / "bundle")
    for package in ("bertnli", "bertnli_export"):
        (tmp_path / "none" / package).mkdir(parents=True)
        (tmp_path / "none" / package / "__init__.py").write_text("raise ImportError('not here')\n")
    program = (
        f"import json, runpy; made = runpy.run_path({str(EXAMPLE)!r});"
        "print(json.dumps([made['pairs'], made['batch']['attention_mask'].tolist(), made['values'].tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(tmp_path / "none")),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    pairs, mask, found = json.loads(last)
    assert len({sum(row) for row in mask}) > 1, "no padding in it"
    scores = Scorer(tmp_path / "bundle", "cpu").score([tuple(pair) for pair in pairs])
    np.testing.assert_allclose(found, [list(score.probabilities.values()) for score in scores], atol=1e-5)
    assert [line.split("'")[1::2] for line in printed] == [list(score.probabilities) for score in scores]
