"""Models that do not run are refused with advice: a model of equal use that runs."""

from __future__ import annotations

import pytest

from bertnli.common.errors import InputError
from bertnli.families import described, others
from bertnli.families.table import BY_MODEL_TYPE, FAMILIES

KNOWN = {repo: model_type for models in others._MODELS.values() for repo, model_type in models}


def advice(where: str, **config: object) -> str:
    with pytest.raises(InputError, match="such as") as caught:
        others.check(config, where)
    return str(caught.value).rpartition("such as ")[2]


@pytest.mark.parametrize("use", others._MODELS)
def test_what_is_named_instead_runs(use: others.Use) -> None:
    assert KNOWN[others.instead(use).rpartition(" ")[2]] in BY_MODEL_TYPE


@pytest.mark.parametrize(
    ("where", "config", "use"),
    [
        ("Qwen/Qwen3-Reranker-0.6B", {"model_type": "qwen3"}, "rerank"),
        ("BAAI/bge-reranker-v2-gemma", {"model_type": "gemma"}, "rerank"),
        ("castorini/monot5-base", {"model_type": "t5"}, "rerank"),
        ("org/x", {"model_type": "xlnet", "num_labels": 1}, "rerank"),
        ("org/x", {"model_type": "xlnet", "id2label": {"0": "LABEL_0"}}, "rerank"),
        ("facebook/bart-large-mnli", {"model_type": "bart"}, "nli"),
        ("org/llama-nli", {"model_type": "llama"}, "nli"),
        ("org/x", {"model_type": "qwen2", "id2label": {"0": "entailment", "1": "neutral"}}, "nli"),
        ("org/x", {"model_type": "mbart"}, "nli in many languages"),
        ("allenai/longformer", {"model_type": "longformer"}, "nli of long texts"),
        ("nomic/x", {"model_type": "nomic_bert"}, "rerank long texts"),
        ("org/x", {"model_type": "never_seen"}, "nli"),
        ("org/x", {"model_type": "never_seen", "architectures": ["NeverForCausalLM"]}, "rerank"),
        ("org/x", {"model_type": "never_seen", "architectures": ["NeverForConditionalGeneration"]}, "nli"),
        ("jinaai/jina-reranker-v2", {"auto_map": {"AutoModelForSequenceClassification": "x.Y"}}, "rerank"),
    ],
)
def test_it_is_of_the_same_use(where: str, config: dict[str, object], use: others.Use) -> None:
    assert advice(where, **config) == others.instead(use).rpartition(" ")[2]


def test_no_model_both_runs_and_does_not() -> None:
    assert not others.OTHERS.keys() & BY_MODEL_TYPE.keys()


def test_a_language_model_that_nobody_knows_is_called_one() -> None:
    config = {"model_type": "never_seen", "architectures": ["NeverForCausalLM"]}
    with pytest.raises(InputError, match="'never_seen': a language model that generates text"):
        others.check(config, "config.json")
    others.check({"model_type": "bert", "architectures": ["BertLMHeadModel", "XForCausalLM"]}, "config.json")


@pytest.mark.parametrize("value", [None, 1, ["bert"], {"a": 1}])
def test_any_value_of_model_type_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="key model_type; found"):
        others.check({"model_type": value}, "config.json")


def test_every_family_is_described() -> None:
    assert [row["family"] for row in described.families()] == list(FAMILIES)
    assert described.ABOUT.keys() >= {family.model_types[0] for family in FAMILIES.values()}
