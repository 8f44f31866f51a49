"""What is said about labels that the model does not have: which, how many rows, and what helps."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import yaml

from bertnli.data.labels import parse_label_names
from bertnli.data.unknown_labels import UnknownLabels, UnknownLabelsError

LABELS = ("contradiction", "entailment", "neutral")


def error_of(rows: dict[str, int], used: dict[str, int]) -> UnknownLabelsError:
    unknown = UnknownLabels()
    assert not unknown
    for label, count in rows.items():
        for row in range(count):
            unknown.add(label, row + 1)
    assert unknown
    return unknown.error("a.tsv", "gold", LABELS, used)


@pytest.mark.parametrize(
    ("rows", "used", "says", "not_said"),
    [
        ({"no_way": 32}, {"entailment": 16}, ["'no_way' (32 rows)", "labels: [", "data.label_names"], ["skip"]),
        ({"0": 3, "1": 9, "2": 1}, {}, ["found '1' (9 rows), '0' (3 rows), '2' (1 row)"], ["=entailment", "labels: ["]),
        ({"5.000": 1, "4.750": 2}, {}, ["column 'gold' has real numbers", "--label "], ["label-names"]),
        ({str(n): 1 for n in range(20)}, {}, ["column 'gold'", "and 10 more", "--label "], ["label-names"]),
        ({"a" * 99: 1}, {}, ["'" + "a" * 40 + "…'", "--label "], ["label-names", "a" * 41]),
        ({"x": 1}, {}, ["--label-names x=LABEL"], ["labels: ["]),
    ],
    ids=["another word", "numbers", "scores", "many", "long", "one label in all"],
)
def test_what_helps_is_named(rows: dict[str, int], used: dict[str, int], says: list[str], not_said: list[str]) -> None:
    error = error_of(rows, used)
    assert error.unknown == rows and error.used == used
    for part in says:
        assert part in str(error)
    for part in not_said:
        assert part not in str(error)
    assert "expected contradiction, entailment, neutral" in str(error)


def test_the_advice_can_be_typed_as_it_is_written() -> None:
    labels = {"yes": 2, "no, never": 1, "a=b": 1, "it's": 1}
    message = str(error_of(labels, {}))
    words = shlex.split(message[message.index("--label-names") :])
    assert parse_label_names(words[0], words[1]) == dict.fromkeys(labels, "LABEL")
    [names] = re.findall(r"data\.label_names: (\{.*?\})", message)
    assert yaml.safe_load(names) == json.loads(names) == dict.fromkeys(labels, "LABEL")
    [classes] = re.findall(r"labels: (\[.*\])", message)
    assert set(yaml.safe_load(classes)) == set(labels), "in quotes: yes stays text"
