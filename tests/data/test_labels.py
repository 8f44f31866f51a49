"""Label names and orders: read from the model, never assumed, never exchanged in silence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.common.errors import InputError
from bertnli.data.labels import (
    LabelTable,
    check_doubled,
    check_names,
    format_label_names,
    from_config,
    label_key,
    number_in,
    parse_label_names,
)

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


# The text of label cells


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        *((one, "1") for one in ("1", "1.0", " 1.00 ", "+1", "1.", "01", "1e0", "1.000000000000000000e+00")),
        *((one, "-1") for one in ("-1", "-1.0", "-01.")),
        *((one, "0") for one in ("0", "0.0", "-0.0", ".0")),
        *((one, one.casefold()) for one in ("1.5", "Neutral", "1_0", "1,0", "NaN", "inf", "-", "١", "9" * 5000)),
    ],
)
def test_numbers_are_the_same_label_in_every_form(cell: str, key: str) -> None:
    assert label_key(cell) == key == label_key(key)


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{}.0", " {}.", "{}e0", "{}.000"]))
def test_every_integer_has_one_key(number: int, form: str) -> None:
    assert label_key(form.format(number)) == str(number) and number_in(form.format(number)) == number


def test_characters_that_cannot_be_seen_are_no_part_of_a_label() -> None:
    table = LabelTable(("entailment", "neutral"), {"1": "neutral"})
    for around in ("\ufeff", "\u200b", "\xa0", "\0", " \u200b\t"):
        assert table.index(f"{around}Entailment{around}") == 0 and table.index(f"1.0{around}") == 1
        assert table.index(around) == -2


def test_a_number_that_is_none_is_no_gold_label() -> None:
    assert [LabelTable(("entailment", "neutral")).index(cell) for cell in ("nan", "NaN", "NA")] == [-2, -2, -1]
    assert LabelTable(("nan", "neutral")).index("NaN") == 0


def test_booleans_are_numbers_unless_they_are_labels() -> None:
    numbers = LabelTable(("a", "b"), {"0": "a", "1": "b"})
    assert [numbers.index(cell) for cell in ("true", "False", "1.0")] == [1, 0, 1]
    labels = LabelTable(("true", "false"))
    assert [labels.index(cell) for cell in ("True", "false", "1", "0")] == [0, 1, -1, -1]
    assert LabelTable(("a", "b"), {"1": "b", "true": "a"}).index("true") == 0


def test_minus_one_and_nothing_are_no_gold_label_unless_they_have_a_name() -> None:
    table = LabelTable(("a", "b"))
    assert [table.index(cell) for cell in ("-1", "-1.0", "-", "", " ", None)] == [-2] * 6
    assert LabelTable(("a", "b"), {"-1": "b"}).index("-1.0") == 1


def test_labels_that_differ_in_case_alone_are_told_apart() -> None:
    table = LabelTable(("A", "a", "1", "1.0", "b"))
    assert [table.index(cell) for cell in ("A", "a", " a", "1", "1.0", "1.00", "B")] == [0, 1, -1, 2, 3, -1, 4]


@pytest.mark.parametrize("cells", [("0", "0"), ("0", "0.0"), ("Yes", "yes ")])
def test_a_label_twice_is_refused(cells: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="--label-names: a label twice"):
        check_doubled(cells, "--label-names")
    with pytest.raises(InputError, match="--label-names: a label twice"):
        parse_label_names("--label-names", ",".join(f"{cell}=a" for cell in cells))


_LABELS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1).filter(
    lambda text: text == text.strip()
)


@given(st.dictionaries(_LABELS, _LABELS.filter(lambda label: "=" not in label), min_size=1))
def test_label_names_are_read_as_they_are_written(names: dict[str, str]) -> None:
    if len({label_key(cell) for cell in names}) == len(names):
        assert parse_label_names("--label-names", format_label_names(names)) == names
