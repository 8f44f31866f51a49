"""Bundles opened by optimum and CrossEncoder, and parsed by Triton's own protobuf: the real packages, in own folders.

optimum-onnx pins older versions of transformers and tokenizers, tritonclient of ml_dtypes: only the processes that
need them see these folders, before this environment's packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from bertnli_export import build, triton
from bertnli_export.build import export_bundle
from bertnli_export.scorer import Scorer

from bertnli.data.outputs import SCORE, Outputs
from bertnli.evaluation.activations import activate
from bertnli.model import pretrained
from tests.conftest import environment
from tests.model.test_families import PAIRS as FAMILY_PAIRS
from tests.model.test_families import ROWS, V3, save, theirs_of
from tests.support import tiny

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

OPTIMUM = (
    "optimum-onnx==0.1.0",
    "optimum==2.1.0",
    "transformers==4.57.6",
    "tokenizers==0.22.2",
    "huggingface_hub==0.36.2",
    "sentence-transformers==5.7.0",
)
INT8 = "onnx/model_quantized.onnx"
PAIRS = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(40)] + [("A man run. " * 30, "Two dogs.")]

_WITH_OPTIMUM = """
import json, sys
import transformers
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

bundle, pairs = json.loads(sys.stdin.read())
model, tokenizer = ORTModelForSequenceClassification.from_pretrained(bundle), AutoTokenizer.from_pretrained(bundle)
inputs = tokenizer(*map(list, zip(*pairs)), padding=True, truncation=True, return_tensors="pt")
direct = model(**inputs).logits.softmax(-1).tolist()
classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, truncation=True)
piped = [{one["label"]: one["score"] for one in classify({"text": p, "text_pair": h})} for p, h in pairs]
print(json.dumps([transformers.__version__, model.config.id2label, direct, piped]))
"""

_HUB_LAYOUT = """
import json, sys
import onnxruntime
from optimum.onnxruntime import ORTModelForSequenceClassification
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer

exact = onnxruntime.SessionOptions()
exact.add_session_config_entry("session.x64quantprecision", "1")
answers = []
for folder, pairs in json.loads(sys.stdin.read()):
    inputs = AutoTokenizer.from_pretrained(folder)(
        *map(list, zip(*pairs)), padding=True, truncation=True, return_tensors="np"
    )
    for options in ({}, {"file_name": "model_quantized.onnx", "session_options": exact}):
        optimum = ORTModelForSequenceClassification.from_pretrained(folder, **options)(**inputs).logits
        options["provider"] = "CPUExecutionProvider"  # by default the first, which may be a GPU's
        encoder = CrossEncoder(folder, backend="onnx", model_kwargs=options)
        answers.append([optimum.tolist(), encoder.predict([tuple(pair) for pair in pairs]).tolist()])
print(json.dumps(answers))
"""

_WITH_TRITON = """
import importlib.util, json, pathlib, sys
from google.protobuf import json_format, text_format

folder, *texts = json.loads(sys.stdin.read())
# By its file: the package around it wants libraries that parsing needs not.
file = pathlib.Path(folder) / "tritonclient" / "grpc" / "model_config_pb2.py"
spec = importlib.util.spec_from_file_location("model_config_pb2", file)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
parsed = [text_format.Parse(text, module.ModelConfig()) for text in texts]
print(json.dumps([json_format.MessageToDict(one, preserving_proto_field_name=True) for one in parsed]))
"""


def installed(packages: tuple[str, ...], folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *packages]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder


def answer(program: str, question: object, folder: Path) -> list:
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(question),
        env=environment(PYTHONPATH=str(folder)),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def with_optimum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(OPTIMUM, tmp_path_factory.mktemp("optimum"))


def test_optimum_opens_a_bundle_as_it_is(with_optimum: Path) -> None:
    version, names, direct, piped = answer(_WITH_OPTIMUM, [str(tiny.bundle()), PAIRS], with_optimum)
    assert f"transformers=={version}" in OPTIMUM
    scores = Scorer(tiny.bundle(), "cpu").score(PAIRS)
    assert scores[-1].truncated and len({score.label for score in scores}) > 1
    assert tuple(names.values()) == tiny.SNLI_LABELS
    np.testing.assert_allclose(direct, [list(score.probabilities.values()) for score in scores], atol=1e-5)
    for score, found in zip(scores, piped, strict=True):
        assert found == pytest.approx(score.probabilities, abs=1e-5)


def test_optimum_and_crossencoder_give_bertnlis_scores_with_the_hubs_layout(with_optimum: Path, tmp_path: Path) -> None:
    """Several families, one of them a reranker; both graphs of each; families without token types, too."""
    families = {"bert": {"num_labels": 1}, "roberta": {"type_vocab_size": 1}, "deberta-v2": V3, "modernbert": {}}
    for family, changes in families.items():
        row = next(row for row in ROWS if row.model_type == family)
        folder = save(theirs_of(row.config(**changes)), tmp_path / family)
        export_bundle(pretrained.load(folder), tmp_path / "hub" / family, layout="hub")
    bundles = [tmp_path / "hub" / family for family in families]
    answers = iter(answer(_HUB_LAYOUT, [[str(bundle), FAMILY_PAIRS] for bundle in bundles], with_optimum))
    for bundle in bundles:
        for opened in (bundle, bundle / INT8):
            scorer = Scorer(opened, "cpu")
            outputs = scorer.bundle.outputs
            scores = scorer.score(FAMILY_PAIRS)
            expected = np.array([list(score.probabilities.values()) or [score.score] for score in scores])
            optimum, encoder = (np.array(one).reshape(expected.shape) for one in next(answers))
            np.testing.assert_allclose(activate(optimum, outputs.activation), expected, atol=1e-5)
            if outputs.problem_type != "regression":  # of a score, CrossEncoder applies the activation itself
                encoder = activate(encoder, outputs.activation)
            np.testing.assert_allclose(encoder, expected, atol=1e-5)


def test_tritons_protobuf_reads_config_pbtxt(tmp_path: Path) -> None:
    folder = installed(("tritonclient==2.73.0",), tmp_path / "triton")
    model = pretrained.load(tiny.hf_folder(tmp_path / "model", labels=("no", "yes")))
    export_bundle(model, tmp_path / "repository", layout="triton")
    bundle = tmp_path / "repository" / triton.NAME
    graph = onnx.load(bundle / "1" / "model.onnx").graph
    [found] = answer(_WITH_TRITON, [str(folder), (bundle / "config.pbtxt").read_text()], folder)
    kinds = {onnx.TensorProto.INT64: "TYPE_INT64", onnx.TensorProto.FLOAT: "TYPE_FP32"}

    def as_triton(value: onnx.ValueInfoProto) -> dict:
        tensor = value.type.tensor_type
        batch, *axes = tensor.shape.dim  # with max_batch_size the first axis is Triton's own
        assert batch.dim_param == "batch"
        return {
            "name": value.name,
            "data_type": kinds[tensor.elem_type],
            "dims": [str(axis.dim_value or -1) for axis in axes],
        }

    assert found.pop("input") == [as_triton(value) for value in graph.input]
    assert found.pop("output") == [{**as_triton(value), "label_filename": "labels.txt"} for value in graph.output]
    assert (bundle / "labels.txt").read_text().splitlines() == ["no", "yes"]
    # Names of fields and of an enum's members that Triton does not know would have failed to parse.
    assert found.pop("max_batch_size") > 1
    assert int(found.pop("dynamic_batching")["max_queue_delay_microseconds"]) > 0
    assert found == {"backend": "onnxruntime", "instance_group": [{"count": 1}]}  # KIND_AUTO is the default
    outputs = [Outputs(("a", "b", "c")), Outputs((SCORE,), "regression", "sigmoid")]
    texts = [triton.config(each, precision) for each in outputs for precision in ("fp32", "fp16", "int8")]
    kinds_found = [
        one["instance_group"][0].get("kind", "KIND_AUTO") for one in answer(_WITH_TRITON, [str(folder), *texts], folder)
    ]
    assert kinds_found == ["KIND_AUTO", "KIND_GPU", "KIND_CPU"] * 2
    assert set(build.EXPORTERS) <= {"fp32", "fp16", "int8"}
