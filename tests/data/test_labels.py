"""Label names and orders: read from the model, never assumed, never exchanged in silence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.common.errors import InputError
from bertnli.data.labels import check_names, from_config

MNLI = {"0": "contradiction", "1": "neutral", "2": "entailment"}
PLACEHOLDERS = {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}


def refused(config: dict[str, Any], override: list[str] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        from_config(config, "m/config.json", override)
    return str(caught.value)


@pytest.mark.parametrize(
    "id2label",
    [MNLI, dict(reversed(MNLI.items())), {int(index): name for index, name in MNLI.items()}],
    ids=["as written", "another order of keys", "numbers as keys"],
)
def test_the_order_is_the_models_own(id2label: dict[Any, str]) -> None:
    assert from_config({"id2label": id2label}, "m/config.json") == ("contradiction", "neutral", "entailment")


@pytest.mark.parametrize(
    ("id2label", "named"),
    [
        (["entailment", "neutral"], "entailment"),
        ("entailment", "'entailment'"),
        (3, "3"),
        ({}, "{}"),
        ({"zero": "a", "one": "b"}, "zero"),
        ({"0": 0, "1": 1}, "{'0': 0"),
        ({"0": None, "1": "b"}, "None"),
        ({"0": "a", "2": "b"}, "indices 0, 2"),
        ({"1": "a", "2": "b"}, "indices 1, 2"),
        ({"-1": "a", "0": "b"}, "indices -1, 0"),
        ({"0": "LABEL_0"}, "'LABEL_0'"),
        ({"0": "score"}, "'score'"),
        ({"0": "a", "1": "a"}, "'a', 'a'"),
        ({"0": "a", "1": " "}, "' '"),
        ({"0": "a", "1": "b\tc"}, r"b\tc"),
        ({"0": "a", "1": "\ud800"}, r"\ud800"),
    ],
    ids=str,
)
def test_unusable_id2label(id2label: Any, named: str) -> None:
    message = refused({"id2label": id2label})
    assert "m/config.json: key id2label" in message
    assert named in message


def test_missing_or_placeholder_names_ask_for_labels() -> None:
    for config in ({}, {"id2label": None}):
        assert "key id2label is missing" in refused(config)
        assert from_config(config, "m/config.json", ["yes", "no"]) == ("yes", "no")
    message = refused({"id2label": PLACEHOLDERS})
    assert "LABEL_0, LABEL_1, LABEL_2" in message
    assert "--labels" in message
    assert "placeholders" in refused({"id2label": {"0": "label_0", "1": "neutral"}})


def test_override_names_placeholders() -> None:
    names = ("neutral", "contradiction", "entailment")
    assert from_config({"id2label": PLACEHOLDERS}, "m/config.json", names) == names
    assert "2 names; expected 3" in refused({"id2label": PLACEHOLDERS}, ["entailment", "neutral"])
    assert "LABEL_1" in refused({"id2label": PLACEHOLDERS}, ["entailment", "LABEL_1", "neutral"])


def test_override_repeats_real_names_but_never_changes_them() -> None:
    own = ("contradiction", "neutral", "entailment")
    assert from_config({"id2label": MNLI}, "m/config.json", own) == own
    for other in (["entailment", "neutral", "contradiction"], ["no", "maybe", "yes"], ["Contradiction", *own[1:]]):
        message = refused({"id2label": MNLI}, other)
        assert "contradiction,neutral,entailment" in message, "the model's own order is shown"
        assert ",".join(other) in message
        assert "m/config.json: key id2label" in message
    assert "2 names; expected 3" in refused({"id2label": MNLI}, ["entailment", "contradiction"])


@pytest.mark.parametrize("names", [[], ["one"], ["a", "a"], ["a", ""], ["a", "b\n"], ["a", "LABEL_7"]], ids=str)
def test_check_names_refuses(names: list[str]) -> None:
    with pytest.raises(InputError, match="somewhere"):
        check_names(names, "somewhere")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("0"), inner, max_size=3),
    max_leaves=8,
)


@given(
    json_values | st.dictionaries(st.sampled_from(["0", "1", "2"]), json_values, max_size=3),
    st.none() | st.lists(st.text(max_size=6), max_size=3),
)
def test_whatever_stands_there_names_or_an_input_error(id2label: Any, override: list[str] | None) -> None:
    try:
        names = from_config({"id2label": id2label}, "m/config.json", override)
    except InputError:
        return
    assert len(set(names)) == len(names) >= 2
