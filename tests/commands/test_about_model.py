"""`bertnli doctor --model`: whether and how a model runs, before its weights are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bertnli.commands import about_model
from bertnli.common.errors import InputError, RunError
from bertnli.families import folder_config
from bertnli.families.table import FAMILIES
from bertnli.fetch.resolve import fetch
from tests.support import hub_stand_in, tiny
from tests.support.http_stand_in import StandIn


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with hub_stand_in.serving(tmp_path, monkeypatch) as stand_in:
        yield stand_in


def text(facts: about_model.Facts) -> str:
    return "\n".join(about_model.lines(facts))


def test_a_hub_id_is_told_from_its_small_files(hub: StandIn, tmp_path: Path) -> None:
    commit = hub.add_model("org/nli", tiny.hub_files(), revisions=("v1",))
    facts = about_model.about_model("org/nli@v1")
    assert facts["family"] == "bert" and facts["classifier"] is True and facts["revision"] == commit
    assert facts["outputs"]["names"] == list(tiny.SNLI_LABELS)
    assert (facts["max_length"], facts["truncation"]) == (100, "longest_first")
    assert facts["weights_bytes"] == 10_240 and facts["parameters"] == 2560
    assert facts["can"] == {"train": "", "eval": "", "export": "", "score": "export it first"}
    assert json.loads(json.dumps(facts)) == facts
    found = text(facts)
    for line in (
        f"model org/nli@v1: it runs, commit {commit}",
        "family: bert (BertForSequenceClassification)",
        "outputs: entailment, neutral, contradiction; one of them, by softmax",
        "length: up to 100 tokens of a pair; longer ones are cut, longest_first",
        "weights: model.safetensors, 0.0 MB; not fetched yet",
        "precisions: fp32 (CPU and GPU), int8 (CPU), fp16 (GPU)",
        "eval: yes",
        "score: export it first",
    ):
        assert line in found.split("\n"), found
    assert "model.safetensors" not in hub.resolved("org/nli")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize(
    ("files", "facts", "line"),
    [
        (
            tiny.hub_files(id2label=...),
            {"outputs": None, "classifier": True},
            "eval: its config has no label names: give --labels, in the order of its outputs",
        ),
        (
            tiny.hub_files(architectures=["BertModel"]),
            {"outputs": None, "classifier": False},
            "export: it has no classifier: train it first",
        ),
        (
            tiny.hub_files(architectures=["BertModel"])
            | {"modules.json": b'[{"type": "sentence_transformers.models.Pooling"}]'},
            {"bi_encoder": True, "classifier": False},
            "eval: it is a bi-encoder of sentence-transformers",
        ),
        (
            tiny.hub_files(id2label={"0": "LABEL_0"}),
            {"outputs": {"names": ["score"], "problem_type": "regression", "activation": "sigmoid"}},
            "outputs: one score, sigmoid",
        ),
        (
            tiny.hub_files(id2label={"0": "LABEL_0", "1": "LABEL_1"}),
            {"outputs": None},
            "outputs: its config has no label names: give --labels, in the order of its outputs",
        ),
        (
            tiny.hub_files(problem_type="multi_label_classification"),
            {},
            "outputs: entailment, neutral, contradiction; independent of each other, each by its sigmoid",
        ),
        (tiny.hub_files(architectures=...), {"classifier": None}, "family: bert (its config names no class)"),
        (tiny.hub_files(architectures=..., id2label=...), {"classifier": None}, "train: yes"),
        (tiny.hub_files(torch_dtype="float16"), {"parameters": 5120}, "eval: yes"),
    ],
    ids=[
        "no labels",
        "no classifier",
        "bi-encoder",
        "score",
        "placeholders",
        "multi-label",
        "no class",
        "encoder",
        "float16",
    ],
)
def test_what_is_missing_is_said(hub: StandIn, files: dict[str, bytes], facts: dict[str, Any], line: str) -> None:
    hub.add_model("org/it", files)
    found = about_model.about_model("org/it")
    assert {key: found[key] for key in facts} == facts
    assert line in text(found)
    unnamed = "train: its config has no label names: give labels in the run file, in the order of its outputs"
    assert (unnamed if "give --labels" in line else "train: yes") in text(found)


def test_what_cannot_run_has_the_message_of_fetch(hub: StandIn) -> None:
    hub.add_model("facebook/bart-large-mnli", tiny.hub_files(model_type="bart"))
    hub.add_model("org/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": b""})
    for name in ("facebook/bart-large-mnli", "org/lora", "org/nothing", "org/lora@v9"):
        with pytest.raises(InputError) as of_doctor:
            about_model.about_model(name)
        with pytest.raises(InputError) as of_fetch:
            fetch(name, parse_config=folder_config.parse)
        assert str(of_doctor.value) == str(of_fetch.value)
    hub.files["/api/models/org/busy"] = hub.files["/api/models/org/lora"]
    hub.files["/api/models/org/busy"].always = 500
    with pytest.raises(RunError, match=r"cannot be reached.*; give the same command.* bertnli doctor --model FOLDER"):
        about_model.about_model("org/busy")


def test_a_fetched_model_is_not_asked_for(hub: StandIn) -> None:
    hub.add_model("org/nli", tiny.hub_files())
    folder = fetch("org/nli", parse_config=folder_config.parse)
    asked = len(hub.requests)
    by_name, by_path = about_model.about_model("org/nli"), about_model.about_model(str(folder))
    assert by_name["revision"] == by_path["revision"] is not None
    assert by_name["weights_here"] and "not fetched" not in text(by_name)
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("size", "precisions", "said"),
    [
        (1_100_000_000, ["fp16"], "precisions: fp16 (GPU); in fp32 it is too large for one ONNX file"),
        (3_000_000_000, [], "precisions: none, it is too large for one ONNX file"),
    ],
)
def test_large_weights_in_shards_fit_an_onnx_file_in_fp16_or_not_at_all(
    hub: StandIn, size: int, precisions: list[str], said: str
) -> None:
    files = tiny.hub_files()
    del files["model.safetensors"]
    shards = ["a.safetensors", "b.safetensors"]
    files |= {"model.safetensors.index.json": json.dumps({"weight_map": dict(enumerate(shards))}).encode()}
    hub.add_model("org/large", files | dict.fromkeys(shards, b""), sizes=dict.fromkeys(shards, size))
    facts = about_model.about_model("org/large")
    assert facts["precisions"] == precisions and facts["weights_bytes"] > 2 * size
    assert said in text(facts)
    assert bool(facts["can"]["export"]) == (not precisions)


def test_paths(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, body in tiny.hub_files().items():
        (folder / name).write_bytes(body)
    facts = about_model.about_model(str(folder))
    assert facts["revision"] is None and facts["weights_here"]
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        about_model.about_model(str(folder))
    with pytest.raises(InputError, match="a file"):
        about_model.about_model(str(folder / "vocab.txt"))
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="bertnli doctor --bundle"):
        about_model.about_model(str(folder))


def test_a_name_of_d2l_is_told_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTNLI_CACHE", str(tmp_path))
    assert "family: d2l (the d2l book" in text(about_model.about_model("bert.small"))


def test_the_command_ends_with_2_where_a_model_cannot_run(command: Any, tmp_path: Path) -> None:
    for name, body in tiny.hub_files(model_type="bart").items():
        (tmp_path / name).write_bytes(body)
    done = command("doctor", "--model", tmp_path, "--json")
    assert done.returncode == 2 and "'bart': BART" in done.stderr
    (tmp_path / "config.json").write_bytes(tiny.hub_files()["config.json"])
    done = command("doctor", "--model", tmp_path, "--json")
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and found["model"]["family"] == "bert" and found["cores"]


def test_the_list_has_the_families_that_run(command: Any) -> None:
    shown = command("fetch", "--list").stdout
    listed = json.loads(command("fetch", "--list", "--json").stdout)["families"]
    assert [row["family"] for row in listed] == list(FAMILIES)
    for row in listed:
        assert f"{', '.join(row['model_types']):<18} {row['about']}" in shown
