"""Rows of a data set on the model hub: which Parquet files are a split, and what its numbers mean."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertnli.common.errors import InputError, RunError
from bertnli.data.labelled import read_labelled
from bertnli.evaluation.data_sets import open_set
from bertnli.fetch.catalog import hub_data_set
from bertnli.fetch.entry import HubDataSet
from bertnli.fetch.resolve import check_name, fetch
from bertnli.report.model_card import _hub_dataset, _languages
from tests.support import hub_stand_in
from tests.support.http_stand_in import StandIn

NAMES = ("contradiction", "entailment", "neutral")  # not in the order of any model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with hub_stand_in.serving(tmp_path, monkeypatch) as stand_in:
        yield stand_in


def rows(labels: Sequence[int], start: int = 0, names: Sequence[str] | None = NAMES) -> bytes:
    """A Parquet file as the datasets library writes it."""
    table = pa.table(
        {
            "premise": [f"premise {start + number}" for number in range(len(labels))],
            "hypothesis": ["a man"] * len(labels),
            "label": pa.array(labels, pa.int64()),
        }
    )
    features: dict[str, Any] = {"premise": {"dtype": "string", "_type": "Value"}}
    features["label"] = {"names": list(names or ()), "_type": "ClassLabel"} if names else {"_type": "Value"}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def card(*configs: dict[str, Any]) -> dict[str, Any]:
    return {"license": "mit", "configs": list(configs)}


def config(name: str, *splits: str, **more: object) -> dict[str, Any]:
    files = [{"split": split, "path": f"{name}/{split}-*"} for split in splits]
    return {"config_name": name, "data_files": files, **more}


def pairs(name: str) -> list[tuple[str, int]]:
    labels = ("entailment", "neutral", "contradiction")
    chosen = open_set(name)
    options: dict[str, Any] = {"label_names": chosen.schema.label_names}
    return [(row.premise, row.label) for row in read_labelled(chosen.file, labels, **options)]


def test_a_split_of_several_files_with_its_own_class_names(hub: StandIn) -> None:
    files = {"two/train-00001-of-00002.parquet": rows([2], 2), "two/train-00000-of-00002.parquet": rows([0, 1])}
    files |= {"two/dev-00000-of-00001.parquet": rows([1], 9), "one/train-0.parquet": rows([1]), "README.md": b"x"}
    commit = hub.add_model("datasets/org/nli", files, card=card(config("one", "train"), config("two", "train", "dev")))
    assert pairs("hf:org/nli:two:train") == [("premise 0", 2), ("premise 1", 0), ("premise 2", 1)]
    assert pairs("hf:org/nli:two:dev") == [("premise 9", 0)]
    asked = len(hub.requests)
    assert len(pairs("hf:org/nli:two:train")) == 3 and len(hub.requests) == asked  # from the cache
    receipt = json.loads((fetch("hf:org/nli:two:dev").parent / "receipt.json").read_text())
    assert receipt["revision"] == commit and receipt["source"].startswith("model hub, data set org/nli at ")
    assert hub.resolved("datasets/org/nli") == [
        *sorted(files)[1:0:-1],
        *[],
    ] or "one/train-0.parquet" not in hub.resolved("datasets/org/nli")


def with_columns(*names: str) -> bytes:
    table = pq.read_table(io.BytesIO(rows([0])))
    stream = io.BytesIO()
    pq.write_table(table.select(list(names)) if len(names) < 4 else table.append_column("more", table["label"]), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (with_columns("label", "hypothesis", "premise"), None),
        (with_columns("premise", "label"), "columns 'premise', 'label', not 'premise', 'hypothesis', 'label'"),
        (with_columns("premise", "hypothesis", "label", "more"), "columns .*'more', not 'premise'"),
        (rows([0], names=NAMES[::-1]), "other class names of column 'label'"),
        (rows([0], names=None), None),
        (rows([0]).replace(b"PAR1", b"PAR9"), "Parquet magic bytes not found"),
    ],
)
def test_files_of_a_split_that_are_not_alike(hub: StandIn, second: bytes, message: str | None) -> None:
    files = {"two/train-0.parquet": rows([1]), "two/train-1.parquet": second}
    hub.add_model("datasets/org/nli", files, card=card(config("two", "train")))
    if message is None:
        assert pairs("hf:org/nli:train") == [("premise 0", 0), ("premise 0", 2)]
    else:
        with pytest.raises(InputError, match=f"cannot be joined: train-1.parquet: {message}.*download its files"):
            fetch("hf:org/nli:train")


def test_the_only_config_and_the_default_one_need_no_name(hub: StandIn) -> None:
    files = {"a/train-0.parquet": rows([1]), "b/train-0.parquet": rows([2])}
    hub.add_model("datasets/org/only", files, card=card(config("a", "train")))
    assert pairs("hf:org/only:train") == [("premise 0", 0)]
    hub.add_model("datasets/org/default", files, card=card(config("a", "train"), config("b", "train", default=True)))
    assert pairs("hf:org/default:train") == [("premise 0", 1)]
    hub.add_model("datasets/org/plain", files, card=card({"config_name": "a", "data_files": "a/*.parquet"}))
    assert pairs("hf:org/plain:train") == [("premise 0", 0)]


def test_without_parquet_on_its_card_the_hubs_own_copy_is_taken(hub: StandIn) -> None:
    hub.add_model("datasets/org/csv", {"train.csv": b"a,b\n"}, card={})
    converted = {"default/train/0000.parquet": rows([0]), "default/train/0001.parquet": rows([1], 5)}
    converted["default/partial-test/0000.parquet"] = rows([2])
    hub.add_model("datasets/org/csv", converted, revisions=("refs/convert/parquet",), card={})
    assert pairs("hf:org/csv:train") == [("premise 0", 2), ("premise 5", 0)]
    with pytest.raises(InputError, match="no split 'test' in it; config default has train"):
        fetch("hf:org/csv:test")


def test_numbers_without_names_are_not_guessed(hub: StandIn) -> None:
    hub.add_model("datasets/org/nli", {"a/train-0.parquet": rows([0, 1], names=None)}, card=card(config("a", "train")))
    with pytest.raises(InputError, match=r"labels that the model does not know.*'0' \(1 row\)"):
        pairs("hf:org/nli:train")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:org/nli:three:train", "no config of that name in it; it has one, two; give hf:org/nli:CONFIG:SPLIT"),
        ("hf:org/nli:train", "2 configs, and none is the default; it has one, two"),
        (
            "hf:org/nli:two:test",
            "no split 'test' in it; config two has train, dev; give one of these as in hf:",
        ),
        ("hf:org/only", "no split given; config a has train; give one of these as in hf:org/name:split"),
        ("hf:org/only:a", "no split 'a' in it; config a has train; give hf:org/only:a:SPLIT"),
        ("hf:org/none:train", "no such data set on the hub, or it is private; check the name"),
        ("hf:org/model:train", "a model on the hub, not a data set; give the hub id of a data set"),
        ("hf:org/text:train", "no Parquet files that its card names; download the file, and give its path"),
        ("hf:org/nli@v9:two:train", "no branch, tag or commit 'v9' in it"),
    ],
)
def test_what_the_hub_does_not_have_is_said(hub: StandIn, name: str, message: str, tmp_path: Path) -> None:
    files = {f"{one}/{split}-0.parquet": rows([1]) for one in ("one", "two") for split in ("train", "dev")}
    hub.add_model("datasets/org/nli", files, card=card(config("one", "train"), config("two", "train", "dev")))
    hub.add_model("datasets/org/only", {"a/train-0.parquet": rows([1])}, card=card(config("a", "train")))
    hub.add_model("datasets/org/text", {"train.txt": b"x"}, card={})
    hub.add_model("org/model", {"config.json": b"{}"})
    with pytest.raises(InputError) as raised:
        fetch(name)
    assert f"data set '{name}'" in str(raised.value) and message in str(raised.value)
    assert not list((tmp_path / "cache").glob("hub-data/*/*.parquet"))


def test_a_revision_and_a_damaged_file(hub: StandIn, tmp_path: Path) -> None:
    hub.add_model("datasets/org/nli", {"a/train-0.parquet": rows([1])}, card=card(config("a", "train")))
    old = {"a/train-0.parquet": rows([2, 2])}
    hub.add_model("datasets/org/nli", old, revisions=("v1", "of v1"), card=card(config("a", "train")))
    assert pairs("hf:org/nli@v1:train") == [("premise 0", 1), ("premise 1", 1)]
    for path, hosted in hub.files.items():
        if "/resolve/" in path:
            hosted.body = b"x" * len(hosted.body)
    with pytest.raises(RunError, match="checksum"):
        fetch("hf:org/nli:train")


def test_the_names_that_mean_rows() -> None:
    assert hub_data_set("hf:org/name:train") == HubDataSet("org/name", None, "train")
    assert hub_data_set("hf:org/name@refs/pr/1:a b:train") == HubDataSet("org/name", "a b", "train", "refs/pr/1")
    assert hub_data_set("hf:org/name") == HubDataSet("org/name", None, None)
    for other in (
        "hf:name:train",
        "org/name:train",
        "hf:org/name:a:b:c",
        "hf:org/name:",
        "hf:org/name:a/b",
        "hf://org/x",
    ):
        assert hub_data_set(other) is None
    check_name("hf:org/name:train", "dataset")
    with pytest.raises(InputError, match=r"found the name of a model; expected a path, .*, or hf:org/name:split"):
        check_name("org/name", "dataset")
    with pytest.raises(InputError, match="the name of a dataset"):
        check_name("hf:org/name:train", "model")


def test_the_model_card_names_the_data_set_and_only_known_languages() -> None:
    assert _hub_dataset("hf:org/name:train") == "org/name" and _hub_dataset("xnli-de-dev") == "facebook/xnli"
    assert _languages(["snli", "hf:org/name:train"]) == "en" and _languages(["hf:org/name:train"]) is None
    assert _languages(["snli", "xnli-de", "ocnli"]) == ["de", "en", "zh"]
