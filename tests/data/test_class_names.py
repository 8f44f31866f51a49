"""A Parquet file that says what the numbers in its label column mean is believed, and nobody else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertnli.common.errors import InputError
from bertnli.data.class_names import class_names
from bertnli.data.labels import LabelTable
from bertnli.data.pairs import PairFile
from bertnli.evaluation.data_sets import open_set
from bertnli.evaluation.shuffled_premises import ShuffledPremises

ORDER = ["neutral", "entailment", "contradiction"]
MODEL = ("contradiction", "entailment", "neutral")


def write(path: Path, labels: list[Any], names: Any = ORDER, kind: str = "ClassLabel", column: str = "label") -> Path:
    """As the datasets library writes it."""
    features = {"premise": {"dtype": "string", "_type": "Value"}, column: {"names": names, "_type": kind}}
    table = pa.table({"premise": ["p"] * len(labels), "hypothesis": ["h"] * len(labels), column: labels})
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(about), path)
    return path


@pytest.mark.parametrize(
    "labels", [[0, 1, 2, -1], [0.0, 1.0, 2.0, None], ["0", "1", "2", "-1"]], ids=["integers", "floats", "text"]
)
def test_its_own_names_decide(tmp_path: Path, labels: list[Any]) -> None:
    path = write(tmp_path / "a.parquet", labels)
    for kind in (PairFile, ShuffledPremises):
        found = [LabelTable(MODEL).index(row.label) for row in kind(path).rows()]
        assert found == [2, 1, 0, -2]
    [chunk] = PairFile(path).chunks(10)
    assert [record and record["label"] for record in PairFile(path).values(chunk)] == labels, "written back unchanged"


def test_booleans_are_numbers_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [True, False], ["no", "yes"])
    assert [row.label for row in PairFile(path).rows()] == ["yes", "no"]


def test_a_number_without_a_name_stays_a_number(tmp_path: Path) -> None:
    assert [row.label for row in PairFile(write(tmp_path / "a.parquet", [3, 0])).rows()] == ["3", "neutral"]


@pytest.mark.parametrize("form", ["Sequence", "List", "a list"])
def test_lists_of_numbers_have_their_names(tmp_path: Path, form: str) -> None:
    inner = {"names": ["toxic", "insult"], "_type": "ClassLabel"}
    features = {"label": [inner] if form == "a list" else {"feature": inner, "_type": form}}
    table = pa.table({"premise": ["p"] * 5, "hypothesis": ["h"] * 5, "label": [[0, 1], [], [1], None, [2]]})
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "a.parquet")
    found = [row.label for row in PairFile(tmp_path / "a.parquet").rows()]
    assert found == ['["toxic", "insult"]', "[]", '["insult"]', None, "[2]"]


@pytest.mark.parametrize(
    "metadata",
    [
        *(None, {}, {b"huggingface": b"{"}, {b"huggingface": b"[]"}, {b"huggingface": b"[" * 100_000}),
        {b"huggingface": b'{"info": {"features": {"other": {"names": ["a"], "_type": "ClassLabel"}}}}'},
        {b"huggingface": b'{"info": {"features": {"label": {"names": ["a"], "_type": "Value"}}}}'},
        {b"huggingface": b'{"info": {"features": {"label": {"names": [1], "_type": "ClassLabel"}}}}'},
        {b"huggingface": b'{"info": {"features": {"label": {"names": null, "_type": "ClassLabel"}}}}'},
        {b"huggingface": b"\xff"},
    ],
)
def test_metadata_that_say_nothing(metadata: dict[bytes, bytes] | None) -> None:
    assert class_names(pa.schema([("label", pa.int64())], metadata), "label") == ()


def test_the_users_names_may_repeat_but_not_contradict_them(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.parquet", [0, 1, 2]))
    same = open_set(path, label_names={"0": "Neutral", "1.0": "entailment", "2": "-"})
    assert same.schema.label_names == {"neutral": "Neutral", "entailment": "entailment", "contradiction": "-"}
    with pytest.raises(InputError, match=r"found 0=contradiction; expected 0=neutral, 1=entailment, 2=contradiction"):
        open_set(path, label_names={"0": "contradiction"})
    path = str(write(tmp_path / "b.parquet", [0, 1], ["yes", "no"]))
    told = open_set(path, label_names={"0": "entailment", "no": "contradiction"})
    assert told.schema.label_names == {"yes": "entailment", "no": "contradiction"}


def test_class_names_that_are_numbers_are_not_mixed_up_with_their_own(tmp_path: Path) -> None:
    """`class_encode_column` makes such names of a column of integers; -1 comes first."""
    path = str(write(tmp_path / "a.parquet", [1, 2, 0], ["-1", "0", "1"]))
    assert [row.label for row in PairFile(path).rows()] == ["0", "1", "-1"]
    with pytest.raises(InputError, match=r"numbers too.*found 0=neutral, .* 0 is '-1', 1 is '0', 2 is '1'"):
        open_set(path, label_names={"0": "neutral", "1": "entailment"})
    path = str(write(tmp_path / "b.parquet", [1, 0], ["0", "1"]))
    assert open_set(path, label_names={"0": "neutral", "1.0": "entailment"}).schema.label_names == {
        "0": "neutral",
        "1": "entailment",
    }
