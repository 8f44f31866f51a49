"""What the outputs of a model mean, by its config.json and CrossEncoder's files."""

from __future__ import annotations

from typing import Any

import pytest

from bertnli.common.errors import InputError
from bertnli.data.output_config import LENGTH, MODULES, SETTINGS, check_score, count, entries, length_note, meaning
from bertnli.data.outputs import Outputs, contradiction

IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
SOFTMAX = "torch.nn.modules.activation.Softmax"
MULTI, SINGLE = "multi_label_classification", "single_label_classification"
ONE = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]


def new(path: object) -> dict[str, Any]:
    return {"sentence_transformers": {"activation_fn": path, "version": "4.1.0"}}


def old(path: object) -> dict[str, Any]:
    return {"sbert_ce_default_activation_function": path}


def files(path: object, modules: object = ONE, **more: object) -> dict[str, Any]:
    return {MODULES: modules, SETTINGS: {"model_type": "CrossEncoder", "activation_fn": path, **more}}


@pytest.mark.parametrize(
    ("config", "others", "outputs", "expected", "said"),
    [
        ({}, {}, 1, ("regression", "sigmoid"), ""),
        ({"problem_type": SINGLE}, {}, 1, ("regression", "sigmoid"), ""),
        ({"problem_type": MULTI}, {}, 1, ("regression", "sigmoid"), ""),
        ({"problem_type": "regression"}, {}, 1, ("regression", "identity"), "CrossEncoder takes its sigmoid"),
        ({"problem_type": "regression"} | new(SIGMOID), {}, 1, ("regression", "sigmoid"), ""),
        (new(IDENTITY), {}, 1, ("regression", "identity"), ""),
        (new("torch.nn.Identity") | old(SIGMOID), {}, 1, ("regression", "identity"), ""),
        (new(None) | old(IDENTITY), {}, 1, ("regression", "sigmoid"), ""),
        ({"sentence_transformers": {"version": "4"}} | old(IDENTITY), {}, 1, ("regression", "identity"), ""),
        (old(IDENTITY), {}, 1, ("regression", "identity"), ""),
        (old(None), {}, 1, ("regression", "sigmoid"), ""),
        (new(SIGMOID), files(IDENTITY), 1, ("regression", "identity"), ""),
        (new(IDENTITY), files(None), 1, ("regression", "identity"), ""),
        # CrossEncoder reads its settings with modules.json only, and not those of a SentenceTransformer.
        (new(SIGMOID), {SETTINGS: files(IDENTITY)[SETTINGS]}, 1, ("regression", "sigmoid"), ""),
        ({}, files(IDENTITY, model_type="SentenceTransformer"), 1, ("regression", "sigmoid"), ""),
        ({}, {}, 3, (SINGLE, "softmax"), ""),
        (new(IDENTITY), {}, 3, (SINGLE, "softmax"), ""),
        (old(SOFTMAX), {}, 3, (SINGLE, "softmax"), ""),
        ({"problem_type": SINGLE}, {}, 3, (SINGLE, "softmax"), ""),
        ({"problem_type": MULTI}, {}, 3, (MULTI, "sigmoid"), ""),
        ({"problem_type": MULTI} | new(SIGMOID), {}, 3, (MULTI, "sigmoid"), ""),
        ({"problem_type": MULTI} | new(IDENTITY), {}, 3, (MULTI, "sigmoid"), "CrossEncoder gives the logits"),
        (new(SIGMOID), {}, 3, (MULTI, "sigmoid"), "key sentence_transformers.activation_fn: Sigmoid, so the 3 labels"),
        ({}, files(SIGMOID), 2, (MULTI, "sigmoid"), "m/config_sentence_transformers.json: key activation_fn: Sigmoid"),
    ],
)
def test_what_the_outputs_mean(config, others, outputs, expected, said) -> None:
    found = meaning(config, outputs, "m/config.json", others, "m")
    assert found[:2] == expected
    assert len(found.notes) == bool(said) and said in "".join(found.notes)


@pytest.mark.parametrize(
    ("config", "others", "outputs", "named"),
    [
        (new("torch.nn.modules.activation.Tanh"), {}, 1, ["sentence_transformers.activation_fn", "Tanh", "Identity"]),
        (old("mine.act.Sigmoid"), {}, 1, ["sbert_ce_default_activation_function", "'mine.act.Sigmoid'"]),
        (new(["torch.nn.Identity"]), {}, 2, ["sentence_transformers.activation_fn", "['torch.nn.Identity']"]),
        (new(SOFTMAX), {}, 1, ["Softmax, which is always 1"]),
        (new(SIGMOID) | {"problem_type": SINGLE}, {}, 3, ["Sigmoid, and problem_type single", "Sigmoid means multi_"]),
        (new(SOFTMAX) | {"problem_type": MULTI}, {}, 3, ["Softmax, and problem_type multi"]),
        ({"problem_type": "regression"}, {}, 2, ["problem_type", "regression, with 2 outputs"]),
        ({"problem_type": "ranking"}, {}, 1, ["problem_type", "'ranking'"]),
        ({"problem_type": []}, {}, 1, ["problem_type", "[]"]),
        ({}, files("mine.Act"), 1, ["m/config_sentence_transformers.json: key activation_fn", "mine.Act"]),
        (
            {},
            files(None, [*ONE, {"type": "sentence_transformers.base.modules.dense.Dense"}]),
            1,
            ["modules.json", "Dense"],
        ),
        ({}, files(None, "x"), 1, ["m/modules.json"]),
        (
            {},
            files(None, prompts={"query": "search: "}, default_prompt_name="query"),
            1,
            ["default_prompt_name", "'search: '"],
        ),
    ],
)
def test_what_is_unknown_or_contradicts_itself_is_refused(config, others, outputs, named) -> None:
    with pytest.raises(InputError) as error:
        meaning(config, outputs, "m/config.json", others, "m")
    assert all(part in str(error.value) for part in named), str(error.value)


@pytest.mark.parametrize(
    "outputs",
    [
        Outputs(("a", "b")),
        Outputs(("a", "b", "c"), "multi_label_classification", "sigmoid"),
        Outputs(("score",), "regression", "sigmoid"),
        Outputs(("score",), "regression", "identity"),
    ],
)
def test_what_is_written_is_read_back(outputs: Outputs) -> None:
    assert not contradiction(outputs)
    written = entries(outputs)
    assert meaning(written, count(written, "it"), "it") == (outputs.problem_type, outputs.activation, ())


def test_outputs_that_contradict_themselves() -> None:
    assert "softmax does" in contradiction(Outputs(("a", "b"), activation="sigmoid"))
    assert "sigmoid or identity does" in contradiction(Outputs(("score",), "regression"))
    assert "one output, score, not a, b" in contradiction(Outputs(("a", "b"), "regression", "identity"))


def test_another_length_of_cross_encoders_is_said() -> None:
    others = {**files(None), LENGTH: {"max_seq_length": 16}}
    assert length_note(others, "m", 16) == ()
    assert length_note({LENGTH: others[LENGTH]}, "m", 24) == ()  # CrossEncoder does not read it then
    assert length_note({**others, LENGTH: {"max_seq_length": None}}, "m", 24) == ()
    [note] = length_note(others, "m", 24)
    assert (
        note.startswith("m/sentence_bert_config.json: CrossEncoder reads up to 16 tokens") and "--max-length 16" in note
    )


def test_how_many_outputs_a_config_has() -> None:
    assert [count(config, "m") for config in ({}, {"num_labels": 1}, {"id2label": {"0": "x"}, "num_labels": 3})] == [
        2,
        1,
        1,
    ]
    with pytest.raises(InputError, match="num_labels"):
        count({"num_labels": "three"}, "m")
    assert check_score({"id2label": {"0": "LABEL_0"}}, "m", None) == ("score",)
    with pytest.raises(InputError, match=r"--labels; found yes; .*one output, a score.*omit --labels"):
        check_score({}, "m", ["yes"])
    with pytest.raises(InputError, match="id2label; found a, b"):
        check_score({"id2label": {"0": "a", "1": "b"}}, "m", None)
