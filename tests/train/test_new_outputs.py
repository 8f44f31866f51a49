"""What a run's result gives a pair: what the starting model gives, or what the run file asks for, and that is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bertnli.common.errors import InputError
from bertnli.data.outputs import Outputs
from bertnli.run.run_file import validate_run
from bertnli.train.inputs import load_starting_model
from tests.support import tiny

SIGMOID = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}
STARTS: dict[str, dict[str, Any]] = {
    "encoder": {"labels": None},
    "classes": {"labels": ("yes", "no", "-?")},
    "unnamed": {"labels": ("LABEL_0", "LABEL_1", "LABEL_2")},
    "score": {"labels": ("LABEL_0",), "config": {"problem_type": "regression"}},
    "reranker": {"labels": ("LABEL_0",), "config": SIGMOID},
    "topics": {"labels": ("toxic", "insult"), "config": {"problem_type": "multi_label_classification"}},
}
SNLI = Outputs(("entailment", "neutral", "contradiction"))
AB = ("a", "b")
XYZ = Outputs(("x", "y", "z"), "multi_label_classification", "sigmoid")
IDENTITY, BY_SIGMOID = (Outputs(("score",), "regression", one) for one in ("identity", "sigmoid"))  # type: ignore[arg-type]
TOPICS = Outputs(("toxic", "insult"), "multi_label_classification", "sigmoid")


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starts")
    for name, form in STARTS.items():
        tiny.hf_folder(folder / name, **form)
    return folder


@pytest.mark.parametrize(
    ("start", "keys", "outputs", "kept", "said"),
    [
        ("encoder", {}, SNLI, False, "a new classifier is initialised, for entailment"),
        ("encoder", {"problem_type": "regression"}, IDENTITY, False, "for one score, trained with loss: mse, as tr"),
        ("encoder", {"problem_type": "regression", "loss": "mse"}, IDENTITY, False, "trained with loss: mse"),
        (
            "classes",
            {"problem_type": "regression", "loss": "bce"},
            BY_SIGMOID,
            False,
            "for problem_type: single_label_",
        ),
        ("unnamed", {"problem_type": "regression"}, IDENTITY, False, "it is left out"),
        ("score", {}, IDENTITY, True, ""),
        ("score", {"problem_type": "regression", "loss": "bce"}, IDENTITY, True, ""),
        ("reranker", {}, BY_SIGMOID, True, ""),
        ("reranker", {"problem_type": "regression", "loss": "mse"}, BY_SIGMOID, True, ""),
        ("reranker", {"loss": "bce"}, BY_SIGMOID, True, ""),
        ("reranker", {"labels": AB}, Outputs(AB), False, "has 1 output: a new one takes its place, for a, b"),
        ("topics", {}, TOPICS, True, ""),
        ("topics", {"problem_type": "multi_label_classification"}, TOPICS, True, ""),
        ("topics", {"labels": ("x", "y", "z")}, XYZ, False, "has 2 outputs: a new one takes"),
        ("topics", {"problem_type": "single_label_classification", "labels": AB}, Outputs(AB), False, "it is left out"),
        ("topics", {"problem_type": "regression"}, IDENTITY, False, "it is left out"),
        (
            "reranker",
            {"problem_type": "multi_label_classification", "labels": ("toxic", "insult")},
            TOPICS,
            False,
            "inde",
        ),
        (
            "classes",
            {"problem_type": "multi_label_classification", "labels": ("toxic", "insult")},
            TOPICS,
            False,
            "inde",
        ),
    ],
)
def test_a_start_and_a_run_file_have_one_meaning(
    starts: Path, start: str, keys: Any, outputs: Outputs, kept: bool, said: str
) -> None:
    source = load_starting_model(_run(starts, start, keys))
    assert source.config.outputs == outputs
    assert source.has_classifier == kept
    notes = "\n".join(source.notes)
    assert said in notes and ("a new classifier is" in notes) == (not kept)
    assert "no classifier" not in notes, "the start may have one, of another meaning"
    assert source.build().classifier.weight.shape[0] == len(outputs.names)


@pytest.mark.parametrize(
    ("start", "keys", "message"),
    [
        ("classes", {"loss": "bce"}, "loss: bce; found a model for problem_type: single_label_classification"),
        ("topics", {"loss": "bce"}, "loss: bce; found a model for problem_type: multi_label_classification"),
        ("classes", {"loss": {"pos_weight": "balanced"}}, "loss.pos_weight; found a model for problem_type: single"),
        ("topics", {"loss": {"label_smoothing": 0.1}}, "loss.label_smoothing; .*; set problem_type: single_label_"),
        ("topics", {"metric_for_best": "mcc", "keep_best": True}, "metric_for_best: mcc; found a model for .*multi_"),
        ("classes", {"problem_type": "multi_label_classification"}, "found no labels; .*set labels: "),
        ("reranker", {"problem_type": "multi_label_classification"}, "found no labels; .*set labels: "),
        ("unnamed", {}, "the label names are placeholders"),
    ],
)
def test_what_can_be_meant_in_two_ways_is_refused(starts: Path, start: str, keys: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_starting_model(_run(starts, start, keys))


def _run(starts: Path, start: str, keys: Any) -> Any:
    content = {
        "model": str(starts / start),
        "data": {"train": "a.tsv", "eval": "b.tsv"},
        "output": "out",
        "max_steps": 1,
        **keys,
    }
    return validate_run(json.loads(json.dumps(content)), "test")
