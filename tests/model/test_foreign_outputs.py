"""Rerankers, models of similarity and classifiers with independent labels give what CrossEncoder and transformers give:
from their folder, from a bundle, and from the folder that bertnli writes."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from bertnli_export.build import export_bundle
from bertnli_export.scorer import Score, Scorer
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bertnli.common.errors import InputError
from bertnli.data.output_config import MODULES, SETTINGS, meaning
from bertnli.data.outputs import Outputs, ProblemType, contradiction
from bertnli.evaluation.activations import activate
from bertnli.model import pretrained
from bertnli.model.predictor import TorchPredictor
from bertnli.model.pretrained import Pretrained
from tests.model.test_foreign_models import made_by_transformers
from tests.support import tiny

transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")

PAIRS = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(20)]
PAIRS += [("THE CHILDREN Run", "über é"), ("a " * 200, "b " * 9)]
IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
TOPICS = ["art", "travel", "food"]


def keys(path: str) -> dict[str, Any]:
    return {"sentence_transformers": {"activation_fn": path, "version": "4.1.0"}}


KINDS: dict[str, dict[str, Any]] = {  # what transformers is told, and more keys of config.json
    "plain": {"outputs": 1},
    "reranker": {"outputs": 1, **keys(IDENTITY)},
    "reranker, old key": {"outputs": 1, "sbert_ce_default_activation_function": IDENTITY},
    "similarity": {"outputs": 1, "problem_type": "regression", **keys(SIGMOID)},
    "independent": {"labels": TOPICS, **keys(SIGMOID)},
    "independent by both": {"labels": TOPICS, "problem_type": "multi_label_classification", **keys(SIGMOID)},
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_by_transformers(tmp_path_factory.mktemp("foreign") / "model", **KINDS[request.param])


def by_cross_encoder(folder: Path) -> NDArray[np.float64]:
    """`[pairs, outputs]`"""
    model = sentence_transformers.CrossEncoder(str(folder), device="cpu", max_length=128)
    return model.predict(PAIRS).reshape(len(PAIRS), -1).astype(np.float64)


def by_pipeline(folder: Path) -> NDArray[np.float64]:
    pipeline = transformers.pipeline("text-classification", model=str(folder), device="cpu", truncation=True)
    found = pipeline([{"text": one, "text_pair": other} for one, other in PAIRS], top_k=None)
    order = list(pretrained.load(folder).config.labels)
    return np.array(
        [[part["score"] for part in sorted(row, key=lambda each: order.index(each["label"]))] for row in found]
    )


def ours(source: Pretrained) -> NDArray[np.float64]:
    logits = TorchPredictor(source.build(), source.tokenizer, "cpu").logits(*zip(*PAIRS, strict=True))
    return activate(logits, source.config.output_activation)


def test_scores_are_those_of_cross_encoder_also_from_what_is_written(folder: Path, tmp_path: Path) -> None:
    source, expected = pretrained.load(folder), by_cross_encoder(folder)
    assert source.config.labels == (("score",) if expected.shape[1] == 1 else tuple(TOPICS))
    assert expected.std() > 0.01  # the scores tell the pairs apart
    np.testing.assert_allclose(ours(source), expected, atol=1e-5)

    pretrained.save(source.build(), source.tokenizer, tmp_path / "saved")
    again = pretrained.load(tmp_path / "saved")
    assert again.config.outputs == source.config.outputs
    assert not [note for note in again.notes if "problem_type" in note or "activation" in note]
    np.testing.assert_allclose(by_cross_encoder(tmp_path / "saved"), expected, atol=1e-5)
    np.testing.assert_allclose(by_pipeline(tmp_path / "saved"), expected, atol=1e-5)


def test_a_folder_of_cross_encoders_own(tmp_path: Path) -> None:
    """With modules.json, and the activation in config_sentence_transformers.json alone."""
    model = sentence_transformers.CrossEncoder(
        str(made_by_transformers(tmp_path / "made", outputs=1)), device="cpu", activation_fn=identity()
    )
    model.save_pretrained(str(tmp_path / "saved"))
    assert (
        json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())["activation_fn"] == IDENTITY
    )
    source = pretrained.load(tmp_path / "saved")
    assert source.config.output_activation == "identity"
    np.testing.assert_allclose(ours(source), by_cross_encoder(tmp_path / "saved"), atol=1e-5)


def identity() -> Any:
    import torch

    return torch.nn.Identity()


def test_regression_without_an_activation_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    folder = made_by_transformers(tmp_path / "model", outputs=1, problem_type="regression")
    source = pretrained.load(folder)
    assert [note for note in source.notes if "CrossEncoder takes its sigmoid" in note]
    np.testing.assert_allclose(activate(_logits(by_cross_encoder(folder)), "identity"), ours(source), atol=1e-4)
    pretrained.save(source.build(), source.tokenizer, tmp_path / "saved")
    np.testing.assert_allclose(by_cross_encoder(tmp_path / "saved"), ours(source), atol=1e-5)
    np.testing.assert_allclose(by_pipeline(tmp_path / "saved"), ours(source), atol=1e-5)


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(probabilities / (1 - probabilities))


def test_labels_of_a_score_are_refused_and_need_no_option(tmp_path: Path) -> None:
    folder = made_by_transformers(tmp_path / "model", outputs=1)
    assert pretrained.missing_options(folder) == set()
    with pytest.raises(InputError, match=r"--labels; found yes; .*one output"):
        pretrained.load(folder, labels=["yes"])
    assert len(pretrained.load(folder, labels=["yes", "no"], new_classifier=True).config.labels) == 2


def test_a_run_keeps_a_classifier_that_is_for_its_problem_type(tmp_path: Path) -> None:
    def kept(folder: Path, **options: Any) -> bool:
        return pretrained.load(folder, new_classifier=True, **options).has_classifier

    reranker = made_by_transformers(tmp_path / "reranker", **KINDS["reranker"])
    topics = made_by_transformers(tmp_path / "topics", **KINDS["independent"])
    assert kept(reranker) and kept(reranker, problem_type="regression")
    assert not kept(reranker, problem_type="single_label_classification") and not kept(reranker, labels=["a", "b"])
    assert kept(topics) and kept(topics, problem_type="multi_label_classification", labels=TOPICS)
    assert not kept(topics, problem_type="regression") and not kept(topics, problem_type="single_label_classification")


# --- bundles; test_foreign_outputs_system.py has more of them


def values(score: Score) -> list[float]:
    return list(score.probabilities.values()) if score.score is None else [score.score]


def test_int8_has_its_gate(tmp_path: Path) -> None:
    check_int8(KINDS["reranker"], tmp_path)


def check_int8(kind: dict[str, Any], folder: Path) -> None:
    """The bundle passes its gate, is not fp32 by mistake, and gives about the same scores."""
    source = pretrained.load(made_by_transformers(folder / "model", **kind))
    summary = export_bundle(source, folder / "bundle", precision="int8")
    assert 1e-4 < summary["score_error"] < 0.1
    scores = np.array([values(score) for score in Scorer(folder / "bundle", "cpu").score(PAIRS)])
    wrong = scores - ours(source)
    assert np.abs(wrong).max() > 1e-5 and np.sqrt((wrong**2).mean()) < 0.1 * ours(source).std()


# --- whatever the files say


IDENTITIES = [IDENTITY, SIGMOID, "torch.nn.Identity", "torch.nn.Sigmoid", "torch.nn.modules.activation.Softmax"]
paths = st.sampled_from([*IDENTITIES, "torch.nn.modules.activation.Tanh", "mine.Sigmoid", None])
problem_types = st.sampled_from([None, *get_args(ProblemType)])
configs = st.fixed_dictionaries(
    {},
    optional={
        "problem_type": problem_types,
        "sbert_ce_default_activation_function": paths,
        "sentence_transformers": st.fixed_dictionaries({}, optional={"activation_fn": paths, "version": st.just("4")}),
    },
)
settings_files = st.fixed_dictionaries(
    {}, optional={"activation_fn": paths, "model_type": st.sampled_from(["CrossEncoder", "SentenceTransformer"])}
)


@given(configs, st.none() | settings_files, st.integers(1, 4))
def test_any_config_means_what_cross_encoder_and_the_pipeline_take_it_for(config, written, outputs) -> None:
    """Where the two give other numbers, a note says so, or it is refused. CrossEncoder gives several labels' logits."""
    modules = [{"type": "sentence_transformers.base.modules.transformer.Transformer"}]
    files = {} if written is None else {MODULES: modules, SETTINGS: written}
    try:
        found = meaning(config, outputs, "config.json", files)
    except InputError:
        return
    activation = _of_cross_encoder(config, written, outputs)
    pipeline = _of_pipeline(config, outputs)
    assert contradiction(Outputs(("score",) if outputs == 1 else tuple("abcd"[:outputs]), *found[:2])) == ""
    if outputs > 1 and activation == "identity":
        assert found.activation == pipeline
    elif found.activation != activation:
        assert found.activation == pipeline and found.notes


def _of_cross_encoder(config: dict[str, Any], written: dict[str, Any] | None, outputs: int) -> str:
    """By CrossEncoder's own functions, without a model."""
    kind = sentence_transformers.CrossEncoder
    stand_in = SimpleNamespace(
        config=SimpleNamespace(**copy.deepcopy(config)), num_labels=outputs, trust_remote_code=False, activation_fn=None
    )
    stand_in._resolve_activation_fn = partial(kind._resolve_activation_fn, stand_in)
    own = written if written and written.get("model_type") == "CrossEncoder" else {}
    if own.get("activation_fn") is not None:
        stand_in.activation_fn = stand_in._resolve_activation_fn(own["activation_fn"])
    chosen = stand_in.activation_fn or kind.get_default_activation_fn(stand_in)
    return type(chosen).__name__.lower()


def _of_pipeline(config: dict[str, Any], outputs: int) -> str:
    problem = config.get("problem_type")
    if problem == "regression":
        return "identity"
    return "sigmoid" if problem == "multi_label_classification" or outputs == 1 else "softmax"
