"""Any pair classifier of BERT's architecture that others made computes what it computes in transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from bertnli_export.build import export_bundle
from bertnli_export.bundle import Bundle
from bertnli_export.scorer import Scorer
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from bertnli.common.errors import InputError
from bertnli.evaluation.metrics import softmax
from bertnli.model import pretrained
from bertnli.model.predictor import TorchPredictor
from tests.support import tiny

NLI = ["entailment", "neutral", "contradiction"]
PAIRS = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(30)]
PAIRS += [("THE CHILDREN Run", "über é"), ("a " * 200, "b " * 9), ("Two dogs", "two DOGS"), ("two dogs", "two dogs")]


def made_by_transformers(folder: Path, *, labels: list[str] | None = None, outputs: int = 3, **config: object) -> Path:
    """What `save_pretrained` leaves of a random BertForSequenceClassification and its cased or uncased tokenizer.

    labels: None leaves transformers' own LABEL_0, ….
    """
    folder.mkdir()
    vocabulary = [*tiny.word_pieces(), *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    names = {"id2label": dict(enumerate(labels))} if labels else {"num_labels": outputs}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=128,
            initializer_range=0.3,  # far enough apart for labels to differ
            **names,
            **config,
        )
        transformers.BertForSequenceClassification(shape).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 128})
    )
    return folder


def cased(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "model_max_length": 128}))


def otherwise(folder: Path) -> None:
    """No token types, another maximum length, and beginnings are cut off."""
    said = {"tokenizer_class": "DistilBertTokenizer", "truncation_side": "left", "model_max_length": 60}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def pickled(folder: Path) -> None:
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("made", "change", "given", "labels"),
    [
        ({"labels": ["contradiction", "neutral", "entailment"]}, None, None, "contradiction neutral entailment"),
        ({"labels": ["not_entailment", "entailment"]}, None, None, "not_entailment entailment"),
        ({"labels": ["a", "b", "c", "d"], "hidden_act": "relu"}, None, None, "a b c d"),
        ({}, None, ["yes", "maybe", "no"], "yes maybe no"),
        ({"labels": ["no", "yes"]}, cased, None, "no yes"),
        ({"labels": ["no", "yes"]}, pickled, None, "no yes"),
        ({"labels": ["a", "b", "c"]}, otherwise, None, "a b c"),
    ],
    ids=["mnli order", "two labels", "four labels, relu", "LABEL_0", "cased vocab.txt", "pickle", "another tokenizer"],
)
def test_logits_are_those_of_transformers(made, change, given, labels, tmp_path) -> None:
    folder = made_by_transformers(tmp_path / "model", **made)
    if change is not None:
        change(folder)
    source = pretrained.load(folder, labels=given)
    assert source.config.labels == tuple(labels.split())
    logits = TorchPredictor(source.build(), source.tokenizer, "cpu").logits(*zip(*PAIRS, strict=True))
    np.testing.assert_allclose(softmax(logits), softmax(of_transformers(folder)), atol=1e-5)
    truncated = source.tokenizer.encode(*zip(*PAIRS, strict=True)).truncated
    assert truncated.tolist() == [len(pair[0]) > 300 for pair in PAIRS]
    assert np.allclose(logits[-1], logits[-2], atol=1e-5) is (change is not cased), "they differ in case alone"


@pytest.mark.parametrize("change", [cased, otherwise])
def test_a_bundles_scores_are_those_of_transformers(change, tmp_path) -> None:
    folder = made_by_transformers(tmp_path / "model", labels=["contradiction", "neutral", "entailment"])
    change(folder)
    export_bundle(pretrained.load(folder), tmp_path / "bundle")
    scores = Scorer(tmp_path / "bundle", "cpu").score(PAIRS)
    assert all(list(score.probabilities) == ["contradiction", "neutral", "entailment"] for score in scores)
    found = [list(score.probabilities.values()) for score in scores]
    np.testing.assert_allclose(found, softmax(of_transformers(folder)), atol=1e-5)
    assert [score.truncated for score in scores] == [len(pair[0]) > 300 for pair in PAIRS]
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert (manifest.lower_case, manifest.max_length) == ((False, 128) if change is cased else (True, 60))


def of_transformers(folder: Path) -> NDArray[np.float32]:
    """The logits of PAIRS, with transformers' own model and tokenizer."""
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()
    assert len(set(logits.argmax(axis=1))) > 1, "one label for all: nothing is compared"
    return logits


# --- what is refused, with the reason and a way out


def settings(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def of(architecture: str) -> Callable[[Path], None]:
    """The config.json that transformers writes for another architecture."""

    def change(folder: Path) -> None:
        transformers.AutoConfig.for_model(architecture).save_pretrained(folder)

    return change


def sharded(single: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / f"{single}.index.json").write_text("{}")

    return change


def in_place(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def as_float8(folder: Path) -> None:
    file = folder / "model.safetensors"
    small = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(file).items()}
    save_file(small, file)


@pytest.mark.parametrize(
    ("made", "change", "named"),
    [
        ({}, None, ["LABEL_0, LABEL_1, LABEL_2", "--labels"]),
        ({"outputs": 2}, None, ["id2label is missing", "--labels"]),
        ({"problem_type": "regression"}, None, ["problem_type", "regression, with 3 outputs", "one output"]),
        ({"problem_type": "multi_label_classification"}, None, ["placeholders", "LABEL_0, LABEL_1", "--labels"]),
        (
            {},
            of("longformer"),
            ["model_type", "'longformer'", "one that runs: bert", "of equal use that runs, such as"],
        ),
        ({}, of("bart"), ["model_type", "'bart'", "one that runs: bert", "of equal use that runs, such as"]),
        ({}, of("deberta"), ["model_type", "'deberta'", "one that runs: bert", "of equal use that runs, such as"]),
        ({}, settings(position_embedding_type="relative_key"), ["'relative_key'", "'absolute'", "learned positions"]),
        ({}, settings(is_decoder=True), ["is_decoder", "True", "an encoder"]),
        ({}, settings(add_cross_attention=True), ["add_cross_attention", "True", "an encoder"]),
        ({}, settings(hidden_act="silu"), ["hidden_act", "'silu'", "gelu"]),
        (
            {},
            sharded("model.safetensors"),
            ["model.safetensors.index.json: not an index", "weight_map"],
        ),
        (
            {},
            sharded("pytorch_model.bin"),
            ["pytorch_model.bin.index.json: not an index", "weight_map"],
        ),
        (
            {"labels": NLI},
            as_float8,
            ["quantised or not floating-point: ", "(torch.float8_e4m3fn)", "was quantised from"],
        ),
        ({}, settings(quantization_config={"load_in_8bit": True}), ["quantization_config", "quantised from"]),
        ({}, settings(id2label={"0": 0, "1": 1, "2": 2}), ["id2label", "remove the key", "--labels"]),
        ({}, settings(model_type=None), ["model_type"]),
        ({}, in_place("model.safetensors", os.mkfifo), ["model.safetensors; found a named pipe"]),
        ({}, in_place("config.json", os.mkfifo), ["config.json; found a named pipe"]),
        ({}, in_place("config.json", lambda path: path.write_text("{}", "utf-16")), ["iconv -f UTF-16 -t UTF-8 <"]),
    ],
    ids=[
        *(
            "LABEL_0",
            "LABEL_0 of two",
            "regression",
            "multi-label",
            "longformer",
            "bart",
            "deberta",
        ),
        *("relative positions", "decoder", "cross-attention", "activation", "sharded", "sharded pickle"),
        *("float8", "quantised", "numbers as names", "no model_type", "pipe", "pipe for config", "UTF-16"),
    ],
)
def test_what_cannot_be_scored_is_refused(made, change, named, tmp_path) -> None:
    folder = made_by_transformers(tmp_path / "model", **made)
    if change is not None:
        change(folder)
    with pytest.raises(InputError) as error:
        pretrained.load(folder)
    for part in named:
        assert part in str(error.value)
    assert str(folder) in str(error.value)


# --- what has two readings, or is only written unusually


def test_labels_in_another_order_in_label2id_are_said(tmp_path) -> None:
    folder = made_by_transformers(tmp_path / "model", labels=NLI)
    assert not [note for note in pretrained.load(folder).notes if "label2id" in note]
    settings(label2id={"contradiction": 0, "neutral": 1, "entailment": 2})(folder)
    model = pretrained.load(folder)
    assert model.config.labels == tuple(NLI)
    (note,) = [note for note in model.notes if "label2id" in note]
    assert "taken as entailment, neutral, contradiction" in note
    assert "another order: 0 contradiction, 1 neutral, 2 entailment" in note


def test_a_byte_order_mark_before_config_json_is_no_fault(tmp_path) -> None:
    folder = made_by_transformers(tmp_path / "model", labels=NLI)
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes())
    assert pretrained.load(folder).config.labels == tuple(NLI)
