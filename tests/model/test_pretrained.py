"""Model folders and archives: every key accounted for, everything wrong one clear error, nothing in them run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bertnli.common.errors import InputError, RunError
from bertnli.data.labels import D2L_ORDER, SNLI_ORDER
from bertnli.families.config import ModelConfig
from bertnli.families.d2l import D2L_ARCHITECTURES
from bertnli.model import pretrained, tensor_files
from bertnli.model.attention import Padded
from bertnli.model.classifier import PairClassifier
from bertnli.model.predictor import TorchPredictor
from bertnli.model.pretrained import Pretrained
from tests.conftest import ROOT
from tests.support import tiny

REFERENCE = ROOT / "tests" / "reference"
PREMISES = ["A man run on a beach.", "Two dogs play football behind a red car.", "The children eat ice cream."]
HYPOTHESES = ["A man sing loudly.", "An old couple are sleeping.", "Three boys eat ice cream near a river."]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HF classifier in hf/, a bare encoder in encoder/, the book's d2l files in book/; tests work on copies."""
    root = tmp_path_factory.mktemp("made")
    tiny.hf_folder(root / "hf")
    tiny.hf_folder(root / "encoder", labels=None)
    tiny.d2l_folder(root / "book")
    tiny.d2l_folder(root / "reader", classifier=True)
    return root


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(made / name, tmp_path / name))


def weights_of(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def write_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(copies, folder / "model.safetensors")


def d2l_weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "pretrained.params", weights_only=True)


def change_config(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        pretrained.load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def same_state(one: Pretrained, other: Pretrained) -> bool:
    return one.state.keys() == other.state.keys() and all(torch.equal(t, other.state[n]) for n, t in one.state.items())


def logits(model: PairClassifier) -> Tensor:
    torch.manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, (4, 9))
    with torch.no_grad():
        return model.eval()(ids, (torch.arange(9) > 4).long().expand(4, 9), Padded(torch.ones_like(ids)))


# --- HF folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture", ["BertForSequenceClassification", "BertModel", "BertForPreTraining", "BertForMaskedLM"]
)
def test_what_transformers_saves_loads(architecture: str, copy: Any) -> None:
    folder = copy("hf")
    torch.manual_seed(0)
    sizes = transformers.BertConfig(
        vocab_size=len(tiny.word_pieces()),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=20,
        hidden_act="gelu_new",
        layer_norm_eps=1e-6,
        classifier_dropout=0.3,
        id2label={0: "contradiction", 1: "neutral", 2: "entailment"},
        label2id={"contradiction": 0, "neutral": 1, "entailment": 2},
    )
    theirs = getattr(transformers, architecture)(sizes).eval()
    theirs.save_pretrained(folder)
    source = pretrained.load(folder)
    assert source.config == ModelConfig(
        labels=("contradiction", "neutral", "entailment") if source.has_classifier else SNLI_ORDER,
        vocab_size=len(tiny.word_pieces()),
        hidden_size=24,
        num_layers=2,
        num_heads=3,
        intermediate_size=40,
        max_positions=20,
        activation="gelu_new",
        layer_norm_eps=1e-6,
        classifier_dropout=0.3,
    )
    assert source.has_classifier == (architecture == "BertForSequenceClassification")
    assert source.tokenizer.max_length == 20
    torch.manual_seed(1)
    model = source.build().eval()
    ids = torch.randint(5, 30, (3, 8))
    inputs = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        found = model(ids, torch.zeros_like(ids), Padded(torch.ones_like(ids)))
        if source.has_classifier:
            expected = theirs(**inputs).logits
        else:
            first = getattr(theirs, "bert", theirs)(**inputs).last_hidden_state[:, 0]
            expected = model.classifier(model.pooler(first).tanh())
            if architecture != "BertForMaskedLM":
                assert torch.equal(model.pooler.weight, getattr(theirs, "bert", theirs).pooler.dense.weight)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def old_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t for n, t in tensors.items()}
    return renamed | {
        "bert.embeddings.position_ids": torch.arange(64)[None],
        "cls.seq_relationship.bias": torch.ones(2),
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors,
        old_names,
        lambda tensors: tensors | {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"]},
        lambda tensors: {n.removeprefix("bert."): t for n, t in old_names(tensors).items()},
        lambda tensors: {f"_orig_mod.{n}": t for n, t in tensors.items()},
        lambda tensors: {n.replace("bert.encoder.", "bert.encoder._orig_mod."): t for n, t in tensors.items()},
        lambda tensors: {f"module._orig_mod.{n}": t for n, t in tensors.items()},
        lambda tensors: tensors | {"bert.embeddings.token_type_ids": torch.zeros(1, 64, dtype=torch.long)},
        lambda tensors: tensors | {"fit_dense.weight": torch.ones(8, 32), "fit_denses.3.bias": torch.ones(8)},
    ],
    ids=[
        *("as it is", "gamma, beta, buffers and heads", "tied weights", "without the prefix", "torch.compile"),
        *("part of it compiled", "DistributedDataParallel", "another buffer", "TinyBERT's"),
    ],
)
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_other_names_for_the_same_weights(change: Any, file: str, copy: Any) -> None:
    folder = copy("hf")
    before = pretrained.load(folder)
    tensors = change(weights_of(folder))
    (folder / "model.safetensors").unlink()
    if file == "model.safetensors":
        write_weights(folder, tensors)
    else:
        torch.save(tensors, folder / file)
    assert same_state(pretrained.load(folder), before)


def split(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """The weights in two files with an index, as transformers splits large ones."""
    stem, suffix = name.split(".")
    placed = {key: f"{stem}-0000{at % 2 + 1}-of-00002.{suffix}" for at, key in enumerate(sorted(tensors))}
    for shard in set(placed.values()):
        part = {key: tensors[key] for key in tensors if placed[key] == shard}
        if suffix == "safetensors":
            safetensors.torch.save_file(part, folder / shard)
        else:
            torch.save(part, folder / shard)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


FORMS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@pytest.mark.parametrize("first", range(4))
def test_the_weights_are_those_that_transformers_loads(first: int, copy: Any) -> None:
    """Each form holds other weights; the others beside it are named, because they may be older."""
    folder = copy("hf")
    tensors = weights_of(folder)
    (folder / "model.safetensors").unlink()
    for number, form in enumerate(FORMS[first:], first):
        marked = tensors | {"classifier.bias": torch.full((3,), float(number))}
        if form.endswith(".index.json"):
            split(folder, form.removesuffix(".index.json"), marked)
        elif form == "model.safetensors":
            write_weights(folder, marked)
        else:
            torch.save(marked, folder / form)
    source = pretrained.load(folder)
    theirs = transformers.BertForSequenceClassification.from_pretrained(folder)
    assert theirs.classifier.bias.tolist() == source.state["classifier.bias"].tolist() == [float(first)] * 3
    assert len(source.sha256) == 64
    [note] = source.notes if FORMS[first + 1 :] else ["".join(source.notes)]
    assert all(form in note for form in FORMS[first:]) or not FORMS[first + 1 :]
    assert f"{FORMS[first]} is read" in note or not note


def test_weights_in_several_files_that_do_not_fit_together(copy: Any, made: Path) -> None:
    folder = copy("hf")
    tensors = weights_of(folder)
    (folder / "model.safetensors").unlink()
    split(folder, "model.safetensors", tensors)
    whole = pretrained.load(folder)
    assert same_state(whole, pretrained.load(made / "hf"))
    index = folder / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    one, two = sorted(set(placed.values()))
    for changed, message in (
        ({**placed, "more": one}, "keys that its files do not have; found more"),
        ({**placed, "more": "../hf/model.safetensors"}, "files that it names are missing; found no ../hf/model"),
        ({}, "not an index"),
        ([one], "not an index"),
    ):
        index.write_text(json.dumps({"weight_map": changed}))
        assert f"{index}: {message}" in refused(folder)
    index.write_text(json.dumps({"weight_map": placed}))
    safetensors.torch.save_file({KEY: tensors[KEY]}, folder / "extra.safetensors")
    index.write_text(json.dumps({"weight_map": placed | {KEY: "extra.safetensors"}}))
    assert f"key {KEY}; found the same key in another" in refused(folder)
    index.write_text(json.dumps({"weight_map": placed}))
    (folder / two).write_bytes((folder / two).read_bytes()[:-9])
    assert f"{two}: damaged" in refused(folder)
    (folder / two).unlink()
    assert f"files that it names are missing; found no {two}" in refused(folder)


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["hf", "encoder", "book"])
def test_weights_that_are_not_finite_are_refused(wild: float, name: str, copy: Any) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        key = next(key for key in tensors if key.endswith((KEY.removeprefix("bert."), "blks.0.attention.W_k.weight")))
        tensors[key].view(-1)[5] = wild
        return tensors

    folder = copy(name)
    weights(change)(folder)
    message = refused(folder, arch="bert.small" if name == "book" else None)
    assert "weights that are not finite; found NaN or infinity in " in message


def test_what_zero_3_leaves_on_one_rank_is_named(copy: Any) -> None:
    folder = copy("hf")
    weights(lambda t: {key: torch.empty(0) if "encoder" in key else tensor for key, tensor in t.items()})(folder)
    message = refused(folder)
    assert "ZeRO-3" in message and "32 such tensors" in message and "deepspeed.utils.zero_to_fp32" in message


def test_labels_of_another_number_start_a_new_classifier(copy: Any) -> None:
    """Three labels to two: for training alone, and said."""
    folder = copy("hf")
    source = pretrained.load(folder, labels=["no", "yes"], new_classifier=True)
    assert source.config.labels == ("no", "yes")
    assert not source.has_classifier
    assert "the model's classifier has 3 outputs: a new one takes its place, for no, yes" in source.notes
    assert source.build().classifier.weight.shape[0] == 2
    trained = pretrained.load(folder, labels=list(SNLI_ORDER), new_classifier=True)
    assert trained.has_classifier and same_state(trained, pretrained.load(folder))
    assert "--labels; found 2 names; expected 3, the number of its outputs" in refused(folder, labels=["no", "yes"])
    assert "the model's own names in its own order" in refused(folder, labels=["a", "b", "c"], new_classifier=True)
    reader = copy("reader")
    source = pretrained.load(reader, arch="bert.small", labels=["no", "yes"], new_classifier=True)
    assert not source.has_classifier and len(source.notes) == 1


@pytest.mark.parametrize(
    ("id2label", "more"),
    [
        ({"0": "LABEL_0", "1": "LABEL_1"}, {"num_labels": 3}),
        ({"0": "no", "1": "yes", "2": "yes"}, {}),
        ({"0": "no", "1": " ", "2": "yes"}, {}),
        (..., {}),
    ],
    ids=["two placeholders for three outputs", "a name twice", "a blank name", "no names"],
)
def test_three_labels_name_the_outputs_whatever_unusable_names_the_config_has(
    id2label: Any, more: dict[str, Any], copy: Any
) -> None:
    folder = copy("hf")
    change_config(folder, id2label=id2label, **more)
    assert "--labels" in refused(folder)
    assert pretrained.load(folder, labels=["a", "b", "c"]).config.labels == ("a", "b", "c")
    assert "labels" in pretrained.missing_options(folder)
    assert "found 2 names; expected 3" in refused(folder, labels=["a", "b"])


def test_names_for_other_outputs_than_there_are(copy: Any) -> None:
    folder = copy("hf")
    change_config(folder, id2label={"0": "no", "1": "yes"})
    assert "key id2label; found no, yes; expected 3 names" in refused(folder)


def test_the_tokenizer_is_refused_before_the_weights_are_read(copy: Any) -> None:
    folder = copy("hf")
    change_config(folder, tokenizer_class="BertJapaneseTokenizer", bertnli=...)
    (folder / "tokenizer_config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert "'BertJapaneseTokenizer'" in refused(folder)


def test_safetensors_come_before_a_pickle(copy: Any) -> None:
    folder = copy("hf")
    before = pretrained.load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"junk")
    assert pretrained.load(folder).sha256 == before.sha256
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    assert "model.safetensors" in refused(folder), "a folder in its place is not passed over"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_fp32(dtype: torch.dtype, copy: Any) -> None:
    folder = copy("hf")
    tensors = {name: tensor.to(dtype) for name, tensor in weights_of(folder).items()}
    write_weights(folder, tensors)
    state = pretrained.load(folder).state
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert torch.equal(state["classifier.weight"], tensors["classifier.weight"].float())
    assert {parameter.dtype for parameter in pretrained.load(folder).build().parameters()} == {torch.float32}


def test_an_encoder_alone(copy: Any) -> None:
    folder = copy("encoder")
    source = pretrained.load(folder)
    assert not source.has_classifier
    assert source.config.labels == SNLI_ORDER
    assert pretrained.load(folder, labels=["no", "yes"]).config.labels == ("no", "yes")
    assert "LABEL_0" in refused(folder, labels=["LABEL_0", "LABEL_1"])
    change_config(folder, id2label={"0": "LABEL_0", "1": "LABEL_1"})
    assert pretrained.load(folder).config.labels == SNLI_ORDER, "names of outputs that are not there mean nothing"


def test_dropouts_that_config_json_leaves_out(copy: Any) -> None:
    """As transformers: the classifier's is the hidden layers', the others 0.1."""
    folder = copy("hf")
    change_config(folder, hidden_dropout_prob=0.25, classifier_dropout=None, attention_probs_dropout_prob=...)
    config = pretrained.load(folder).config
    assert (config.hidden_dropout, config.embedding_dropout, config.classifier_dropout) == (0.25, 0.25, 0.25)
    assert config.attention_dropout == 0.1


def test_placeholder_labels_are_named_and_real_ones_kept(copy: Any) -> None:
    folder = copy("hf")
    own = ["contradiction", "neutral", "entailment"]
    change_config(folder, id2label={str(index): f"LABEL_{index}" for index in range(3)})
    assert pretrained.load(folder, labels=own).config.labels == tuple(own)
    change_config(folder, id2label={str(index): name for index, name in enumerate(own)})
    assert pretrained.load(folder, labels=own).config.labels == tuple(own)
    message = refused(folder, labels=list(SNLI_ORDER))
    assert "contradiction,neutral,entailment" in message
    assert "entailment,neutral,contradiction" in message


# --- What is damaged or does not belong together is refused ----------------------------------------------------------

KEY = "bert.encoder.layer.1.attention.self.key.weight"
WORDS = "bert.embeddings.word_embeddings.weight"
PLACES, QUERY = "encoder.pos_embedding", "encoder.blks.0.attention.W_q.bias"
LABELS = {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
Tensors = dict[str, Tensor]
Damage = Callable[[Path], object]


def roberta(tensors: Tensors) -> Tensors:
    names = {name.replace("bert.", "roberta.", 1): tensor for name, tensor in tensors.items()}
    for kind in ("weight", "bias"):
        names[f"classifier.dense.{kind}"] = names.pop(f"roberta.pooler.dense.{kind}")
        names[f"classifier.out_proj.{kind}"] = names.pop(f"classifier.{kind}")
    return names


def without(word: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if word not in name}


WEIGHTS: list[tuple[Callable[[Tensors], Tensors], list[str]]] = [
    (without(KEY), [f"missing: {KEY}"]),
    (without("classifier.bias"), ["missing: classifier.bias"]),
    (without("pooler"), ["missing: bert.pooler.dense.weight"]),
    (without("LayerNorm"), ["embeddings.LayerNorm.weight", "and 7 more"]),
    (lambda t: t | {"qa_outputs.weight": torch.ones(2, 32)}, ["unknown: qa_outputs.weight"]),
    (lambda t: t | {"bert.encoder.layer.2.output.dense.bias": torch.ones(32)}, ["unknown: bert.encoder.layer.2.out"]),
    (lambda t: t | {"bert.embeddings.LayerNorm.gamma": torch.ones(32)}, ["unknown: bert.embeddings.LayerNorm.gamma"]),
    (lambda t: t | {KEY: torch.ones(32, 31)}, [f"misshapen: {KEY} (32, 31) instead of (32, 32)"]),
    (lambda t: t | {KEY: t[KEY].reshape(1, 32, 32)}, [f"misshapen: {KEY} (1, 32, 32)"]),
    (lambda t: t | {KEY: t[KEY].char()}, ["not floating-point", f"{KEY} (torch.int8)"]),
    (lambda t: t | {"classifier.weight": torch.ones(3, 31)}, ["classifier.weight (3, 31) instead of (3, 32)"]),
    (lambda t: t | {"bert.embeddings.token_type": torch.zeros(1, 64)}, ["unknown: bert.embeddings.token_type"]),
    (roberta, ["unknown: classifier.dense.bias", "missing: embeddings.word_embeddings.weight"]),
    (lambda t: {f"net.{n}": v for n, v in t.items()}, ["unknown: net.bert.", "missing: "]),
    (lambda t: t | {f"_orig_mod.{KEY}": t[KEY]}, [f"unknown: _orig_mod.{KEY}"]),
    (lambda t: {}, ["missing: embeddings.word_embeddings.weight"]),
]
D2L_WEIGHTS: list[tuple[Callable[[Tensors], Tensors], list[str]]] = [
    (without("hidden.0.bias"), ["missing: hidden.0.bias"]),
    (without(PLACES), [f"missing: {PLACES}"]),
    (lambda t: t | {PLACES: t[PLACES][0]}, [f"misshapen: {PLACES}"]),
    (lambda t: t | {PLACES: torch.ones(2, 512, 256)}, [f"misshapen: {PLACES}"]),
    (lambda t: t | {"decoder.weight": torch.ones(1)}, ["unknown: decoder.weight"]),
    (lambda t: t | {QUERY: torch.ones(255)}, [f"{QUERY} (255,) instead of (256,)"]),
]
CONFIGS: list[tuple[dict[str, Any], list[str]]] = [
    ({"model_type": "longformer"}, ["key model_type", "'longformer'"]),
    ({"model_type": ...}, ["key model_type is missing"]),
    ({"hidden_size": ...}, ["key hidden_size is missing"]),
    ({"num_attention_heads": ...}, ["key num_attention_heads is missing"]),
    ({"vocab_size": ...}, ["key vocab_size is missing"]),
    ({"hidden_size": "32"}, ["key hidden_size", "'32'", "a valid integer"]),
    ({"hidden_size": 32.5}, ["key hidden_size", "32.5"]),
    ({"num_hidden_layers": True}, ["key num_hidden_layers", "True"]),
    ({"num_hidden_layers": 0}, ["key num_hidden_layers", "0"]),
    ({"num_hidden_layers": 10**12}, ["key num_hidden_layers", "1000000000000"]),
    ({"hidden_size": -32}, ["key hidden_size"]),
    ({"num_attention_heads": 5}, ["key hidden_size", "32", "multiple of num_attention_heads", "5"]),
    ({"hidden_act": "silu"}, ["key hidden_act", "'silu'", "gelu"]),
    ({"hidden_act": None}, ["key hidden_act", "None"]),
    ({"layer_norm_eps": "small"}, ["key layer_norm_eps"]),
    ({"layer_norm_eps": float("inf")}, ["key layer_norm_eps", "inf"]),
    ({"layer_norm_eps": float("nan")}, ["key layer_norm_eps", "nan"]),
    ({"hidden_dropout_prob": 1.5}, ["key hidden_dropout_prob", "1.5"]),
    ({"type_vocab_size": 1}, ["key type_vocab_size"]),
    ({"architectures": ["BertForTokenClassification"]}, ["key architectures", "'BertForTokenClassification'"]),
    ({"architectures": ["BertForQuestionAnswering"]}, ["key architectures", "a sequence classifier or an encoder"]),
    ({"architectures": ["BertForMultipleChoice"]}, ["key architectures", "BertForSequenceClassification"]),
    ({"auto_map": {"AutoModelForSequenceClassification": "mine.Net"}}, ["key auto_map", "mine.Net", "runs no code"]),
    ({"transformers_weights": "other.safetensors"}, ["key transformers_weights", "other.safetensors"]),
    ({"position_embedding_type": "relative_key"}, ["key position_embedding_type", "'relative_key'"]),
    ({"is_decoder": True}, ["key is_decoder", "True"]),
    ({"problem_type": "regression"}, ["key problem_type", "regression, with 3 outputs", "one output"]),
    ({"problem_type": "ranking"}, ["key problem_type", "'ranking'", "multi_label_classification"]),
    (
        {"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}},
        ["key sentence_transformers", "Tanh"],
    ),
    ({"num_labels": 1, "id2label": {"0": "LABEL_0"}}, ["key id2label", "'LABEL_0'", "two or more"]),
    ({"id2label": ...}, ["key id2label is missing", "--labels"]),
    ({"id2label": {"0": "a", "1": "b", "3": "c"}}, ["key id2label", "indices 0, 1, 3"]),
    ({"id2label": LABELS}, ["key id2label", "LABEL_0", "--labels"]),
    ({"bertnli": {"max_length": 4000}}, ["key bertnli", "4000"]),
]
NO_CONFIG = [b"", b"[]", b"[1, 2]", b"null", b"3", b'"bert"', b"{", b"{}", b"\xff", b"[" * 100_000]
NO_VOCABULARY = [b"{}", b"3", b"[1, 2]", b'["<unk>", "<pad>"]', b"[", b"", b'["\\ud800"]', b'["<unk>", null]']
NO_STATE_DICT: list[Callable[[Tensors], object]] = [
    lambda t: [torch.ones(2)],
    lambda t: torch.ones(2),
    lambda t: {"state_dict": {"classifier.bias": torch.ones(3)}, "epoch": 3},
    lambda t: {0: torch.ones(2)},
]


def weights(change: Callable[[Tensors], Tensors]) -> Damage:
    def damage(folder: Path) -> None:
        if (folder / "vocab.json").exists():
            torch.save(change(d2l_weights(folder)), folder / "pretrained.params")
        else:
            write_weights(folder, change(weights_of(folder)))

    return damage


def pickled(change: Callable[[Tensors], object] = lambda t: t) -> Damage:
    """pytorch_model.bin in place of the safetensors."""

    def damage(folder: Path) -> None:
        torch.save(change(weights_of(folder)), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    return damage


def config(**changes: Any) -> Damage:
    return lambda folder: change_config(folder, **changes)


def file(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def cut_short(name: str, part: slice) -> Damage:
    def damage(folder: Path) -> None:
        if name == "pytorch_model.bin":
            pickled()(folder)
        (folder / name).write_bytes((folder / name).read_bytes()[part])

    return damage


def gone(*names: str, then: Damage = lambda folder: None) -> Damage:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()
        then(folder)

    return damage


def more_words(folder: Path) -> None:
    words = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps([*words, "more"]))


def few_words(folder: Path) -> None:
    write_weights(folder, weights_of(folder) | {WORDS: weights_of(folder)[WORDS][:50]})
    change_config(folder, vocab_size=50)


HF_UNFIT, D2L_UNFIT = "model.safetensors: keys that do not fit", "pretrained.params: keys that do not fit"
# Which folder, what is done to a copy of it, and the message: how it goes on after the folder's name, and other parts.
REFUSED: list[tuple[str, Damage, list[str]]] = [
    *(("hf", weights(change), [HF_UNFIT, *named]) for change, named in WEIGHTS),
    *(("book", weights(change), [D2L_UNFIT, *named]) for change, named in D2L_WEIGHTS),
    *(("hf", config(**changes), [f"config.json: {named[0]}", *named[1:]]) for changes, named in CONFIGS),
    *(("hf", file("config.json", content), ["config.json"]) for content in NO_CONFIG),
    *(("book", file("vocab.json", content), ["", "vocab"]) for content in NO_VOCABULARY),
    *(("hf", pickled(change), ["pytorch_model.bin", "a state dict: names to tensors"]) for change in NO_STATE_DICT),
    *(
        ("hf", cut_short(name, slice(*part)), [f"{name}: damaged", " bytes"])
        for name in ("model.safetensors", "pytorch_model.bin")
        for part in [(0,), (1,), (7,), (500,), (-1,), (0, None, 2)]
    ),
    *(
        ("hf", file("model.safetensors", content), ["model.safetensors: damaged", f"{len(content)} bytes"])
        for content in (b"x", b"\0" * 100, b"not a file")
    ),
    ("hf", pickled(lambda t: t | {KEY: t[KEY].to("meta")}), [f"pytorch_model.bin: key {KEY}"]),
    ("hf", pickled(lambda t: t | {KEY: t[KEY].to_sparse()}), [f"pytorch_model.bin: key {KEY}"]),
    ("hf", config(num_hidden_layers=3), [HF_UNFIT, "missing: bert.encoder.layer.2."]),
    ("hf", config(vocab_size=2**24), [HF_UNFIT, f"misshapen: {WORDS}"]),
    ("hf", few_words, ["", "below 50"]),
    ("hf", gone("tokenizer.json", "vocab.txt"), ["", "no tokenizer"]),
    ("hf", gone("model.safetensors"), [": no weights", "expected model.safetensors or pytorch_model.bin"]),
    ("hf", gone("config.json", then=lambda folder: (folder / "config.json").mkdir()), ["config.json"]),
    (
        "hf",
        gone("model.safetensors", then=file("model.safetensors.index.json", b"{}")),
        ["model.safetensors.index.json: not an index", "weight_map"],
    ),
    ("book", more_words, [D2L_UNFIT, "encoder.token_embedding.weight (", "vocab.json"]),
    ("book", weights(lambda t: t | {PLACES: torch.ones(1, 4, 256)}), ["", "max_length"]),
]


@pytest.mark.parametrize(
    ("name", "damage", "named"), REFUSED, ids=[f"{name}, {'; '.join(named)}" for name, _, named in REFUSED]
)
def test_what_is_damaged_or_does_not_fit_is_refused(name: str, damage: Damage, named: list[str], copy: Any) -> None:
    folder = copy(name)
    damage(folder)
    message = refused(folder, arch="bert.small" if name == "book" else None)
    start, *parts = named
    assert not start or f"{folder}{'' if start.startswith(':') else '/'}{start}" in message
    for part in parts:
        assert part in message


def test_paths_that_are_no_model(copy: Any, tmp_path: Path) -> None:
    assert "nothing there" in refused(tmp_path / "nowhere")
    assert "nothing there" in refused(tmp_path / "nowhere.zip")
    (tmp_path / "file").write_text("text")
    assert f"{tmp_path}/file; found a file" in refused(tmp_path / "file")
    assert f"give its folder: {copy('encoder')}" in refused(tmp_path / "encoder" / "config.json")
    shutil.rmtree(tmp_path / "encoder")
    assert str(tmp_path / ("x" * 300)) in refused(tmp_path / ("x" * 300))
    (tmp_path / "empty").mkdir()
    assert "expected config.json with model.safetensors" in refused(tmp_path / "empty")
    assert "remove --arch" in refused(copy("hf"), arch="bert.small")
    assert "max_length" in refused(copy("encoder"), max_length=65)


# --- Weights that would run code ------------------------------------------------------------------------------------


class Bomb:
    """Unpickled by plain pickle, this makes a folder."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("how", ["torch", "torch before 1.6", "pickle"])
@pytest.mark.parametrize("where", ["hf", "book"])
def test_a_pickle_that_would_run_code_is_refused(how: str, where: str, copy: Any, tmp_path: Path) -> None:
    folder, marker = copy(where), tmp_path / "marker"
    content = {"classifier.weight": Bomb(marker), "classifier.bias": torch.ones(3)}
    (folder / "model.safetensors").unlink(missing_ok=True)
    file = folder / ("pytorch_model.bin" if where == "hf" else "pretrained.params")
    if how == "pickle":
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "torch")
    arch = "bert.small" if where == "book" else None
    message = refused(folder, arch=arch)
    assert str(file) in message
    assert "weights_only" not in message, "torch's own advice is to switch its guard off"
    if how != "pickle":
        assert "refused" in message
        assert "posix.mkdir" in message
    assert not marker.exists()
    torch.load(file, weights_only=False) if how != "pickle" else pickle.loads(file.read_bytes())
    assert marker.exists(), "the file was really armed"


def test_the_program_that_wrote_a_legacy_file_does_not_matter(copy: Any) -> None:
    folder = copy("hf")
    before = pretrained.load(folder)
    torch.save(weights_of(folder), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (folder / "model.safetensors").unlink()
    assert same_state(pretrained.load(folder), before)


# --- Saving ----------------------------------------------------------------------------------------------------------


def saved(source: Pretrained, folder: Path) -> Pretrained:
    pretrained.save(source.build(), source.tokenizer, folder, extra={"base_model": "made up"})
    return pretrained.load(folder)


def test_a_saved_model_loads_as_it_was(made: Path, tmp_path: Path) -> None:
    before = pretrained.load(made / "hf", max_length=40, truncation="proportional")
    before = replace(before, config=replace(before.config, labels=("ja", "nein", "vielleicht (é)"), hidden_dropout=0.2))
    before = replace(before, config=replace(before.config, embedding_dropout=0.2, classifier_dropout=0.05))
    after = saved(before, tmp_path / "new" / "model")
    assert after.config == before.config
    assert same_state(after, before)
    assert after.tokenizer.settings == before.tokenizer.settings
    assert after.tokenizer.fingerprint == before.tokenizer.fingerprint
    assert sorted(path.name for path in (tmp_path / "new" / "model").iterdir()) == [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    ]
    content = json.loads((tmp_path / "new" / "model" / "config.json").read_text())
    assert content["bertnli"]["base_model"] == "made up"
    again = saved(after, tmp_path / "again")
    assert again.sha256 == after.sha256


def test_a_half_precision_model_is_saved_in_fp32(made: Path, tmp_path: Path) -> None:
    source = pretrained.load(made / "hf")
    pretrained.save(source.build().bfloat16(), source.tokenizer, tmp_path / "model")
    assert {tensor.dtype for tensor in weights_of(tmp_path / "model").values()} == {torch.float32}


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_saved_files_have_the_permissions_of_any_new_file(umask: int, made: Path, tmp_path: Path) -> None:
    source = pretrained.load(made / "hf")
    before = os.umask(umask)
    try:
        pretrained.save(source.build(), source.tokenizer, tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_tensorfiles_keep_what_they_are_given(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3), "b": torch.ones(2, 2).half()}
    tensor_files.save(tensors, tmp_path / "x.safetensors")
    found = tensor_files.parse((tmp_path / "x.safetensors").read_bytes(), "x.safetensors")
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_a_folder_that_cannot_be_written(made: Path, tmp_path: Path) -> None:
    source = pretrained.load(made / "hf")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/model"):
        pretrained.save(source.build(), source.tokenizer, tmp_path / "file" / "model")


def test_a_saved_folder_opens_in_transformers_and_sentence_transformers(made: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    source = pretrained.load(made / "hf")
    source = replace(source, config=replace(source.config, labels=("contradiction", "neutral", "entailment")))
    folder = tmp_path / "model"
    pretrained.save(source.build(), source.tokenizer, folder)
    rows = tiny.snli_rows(20)
    premises = [*PREMISES, *(row["sentence1"] for row in rows), "A man " * 60]  # the last is truncated
    hypotheses = [*HYPOTHESES, *(row["sentence2"] for row in rows), "Two dogs run. " * 20]
    expected = torch.from_numpy(TorchPredictor(source.build(), source.tokenizer, "cpu").logits(premises, hypotheses))

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, problems = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(problems.values()), problems
    batch = tokenizer(premises, hypotheses, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**batch).logits, expected, atol=1e-4, rtol=0)
    assert model.config.id2label == dict(enumerate(source.config.labels))
    assert model.config.label2id == {name: index for index, name in enumerate(source.config.labels)}

    encoder = CrossEncoder(str(folder), device="cpu")
    scores = encoder.predict(list(zip(premises, hypotheses, strict=True)), show_progress_bar=False)
    torch.testing.assert_close(torch.from_numpy(scores), expected, atol=1e-4, rtol=0)
    assert encoder.config.id2label == dict(enumerate(source.config.labels))


def test_build_draws_a_new_classifier_from_the_seed(made: Path) -> None:
    for source in (pretrained.load(made / "encoder"), pretrained.load(made / "book", arch="bert.small")):
        torch.manual_seed(1)
        one = source.build()
        torch.manual_seed(1)
        same = source.build()
        other = source.build()
        assert torch.equal(one.classifier.weight, same.classifier.weight)
        assert not torch.equal(one.classifier.weight, other.classifier.weight)
        assert torch.equal(one.pooler.weight, other.pooler.weight)
    whole = pretrained.load(made / "hf")
    assert torch.equal(whole.build().classifier.weight, whole.state["classifier.weight"])
    quiet = whole.build(whole.config.with_dropout(0.0))
    assert torch.equal(quiet.classifier.weight, whole.state["classifier.weight"])
    other_labels = whole.build(replace(whole.config, labels=("no", "maybe", "yes")))
    assert not torch.equal(other_labels.classifier.weight, whole.state["classifier.weight"])
    with torch.no_grad():
        quiet.classifier.weight.zero_()
    assert whole.state["classifier.weight"].any(), "a model does not share memory with what it was built from"


# --- d2l -------------------------------------------------------------------------------------------------------------


def zipped(folder: Path, archive: Path, inner: str = "bert.small.torch/", **more: bytes) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in folder.iterdir():
            file.writestr(inner + path.name, path.read_bytes())
        for name, content in more.items():
            file.writestr(name, content)
    return archive


def test_d2l_folder_and_zip_are_the_same_model(made: Path, tmp_path: Path) -> None:
    folder = pretrained.load(made / "book", arch="bert.small")
    assert not folder.has_classifier
    assert folder.config.labels == D2L_ORDER
    assert folder.tokenizer.settings.truncation == "d2l"
    assert folder.tokenizer.settings.reads_parse
    junk = {"__MACOSX/bert.small.torch/._vocab.json": b"\0\5", "__MACOSX/vocab.json": b"junk", "README": b"hello"}
    for archive in (
        zipped(made / "book", tmp_path / "book.zip", **junk),
        zipped(made / "book", tmp_path / "flat.zip", inner=""),
        zipped(made / "book", tmp_path / "no suffix"),
        zipped(made / "book", tmp_path / "tricks.zip", inner="../../../../tmp/x/"),
        zipped(made / "book", tmp_path / "absolute.zip", inner="/"),
    ):
        source = pretrained.load(archive, arch="bert.small")
        assert pretrained.missing_options(archive) == {"arch"}
        assert same_state(source, folder)
        assert source.config == folder.config
        assert source.sha256 == folder.sha256
        assert source.tokenizer.fingerprint == folder.tokenizer.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("absolute.zip", "book.zip", "flat.zip", "no suffix", "tricks.zip")
    ], "nothing was unpacked"


@pytest.mark.parametrize("name", ["tiny", "odd"])
@pytest.mark.parametrize("file", ["classifier.params", "pretrained.params"])
def test_d2ls_own_weights(name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference tensors of make_d2l.py, as the files of the book and of its reader."""
    tensors = safetensors.torch.load_file(REFERENCE / f"d2l_{name}.safetensors")
    with safetensors.safe_open(REFERENCE / f"d2l_{name}.safetensors", "pt") as opened:
        sizes = json.loads(opened.metadata()["sizes"])
    shape = {key: sizes[key] for key in ("hidden_size", "intermediate_size", "num_heads", "num_layers")}
    monkeypatch.setitem(D2L_ARCHITECTURES, "bert.small", replace(D2L_ARCHITECTURES["bert.small"], **shape))
    prefix = file.removesuffix("params")
    state = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    assert len(state) == (13 if prefix == "pretrained." else 7) + 16 * sizes["num_layers"]
    torch.save(state, tmp_path / file)
    special = ["<unk>", "<pad>", "<mask>", "<cls>", "<sep>"]
    words = [*special, *(f"w{number}" for number in range(sizes["vocab_size"] - len(special)))]
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    source = pretrained.load(tmp_path, arch="bert.small", max_length=sizes["max_positions"])
    assert source.config.max_positions == sizes["max_positions"]
    model = source.build().eval()
    if not source.has_classifier:
        kinds = {kind: tensors[f"classifier.output.{kind}"] for kind in ("weight", "bias")}
        model.classifier.load_state_dict(kinds)
    mask = torch.arange(tensors["ids"].shape[1]) < tensors["valid_lens"][:, None]
    with torch.no_grad():
        found = model(tensors["ids"], tensors["segments"], Padded(mask))
    torch.testing.assert_close(found, tensors["logits"], atol=1e-5, rtol=0)


def test_the_readers_own_classifier_comes_before_the_books_encoder(copy: Any) -> None:
    folder = copy("reader")
    alone = pretrained.load(folder, arch="bert.small")
    assert alone.has_classifier
    tiny.d2l_folder(folder, seed=1)  # pretrained.params beside it
    both = pretrained.load(folder, arch="bert.small")
    assert same_state(both, alone)
    assert both.sha256 == alone.sha256
    assert pretrained.load(folder, arch="bert.small", labels=["a", "b", "c"]).config.labels == ("a", "b", "c")
    message = refused(folder, arch="bert.small", labels=["a", "b"])
    assert f"{folder}/classifier.params" in message
    assert "output.weight (3, 256) instead of (2, 256)" in message


def test_d2l_needs_its_architecture(made: Path, copy: Any) -> None:
    message = refused(made / "book")
    assert "--arch" in message
    assert "bert.small or bert.base" in message
    assert "bert.tiny" in refused(made / "book", arch="bert.tiny")
    for name, file in (("book", "pretrained.params"), ("reader", "classifier.params")):
        message = refused(made / name, arch="bert.base")
        assert f"{made}/{name}/{file}" in message
        assert "encoder.blks.2.attention.W_q.weight" in message
        assert "check --arch bert.base" in message
    assert pretrained.missing_options(made / "book") == {"arch"}
    assert pretrained.missing_options(made / "hf") == set()


def test_d2l_positions_come_from_the_file(copy: Any) -> None:
    folder = copy("book")
    tensors = d2l_weights(folder)
    torch.save(tensors | {"encoder.pos_embedding": torch.ones(1, 30, 256)}, folder / "pretrained.params")
    source = pretrained.load(folder, arch="bert.small")
    assert source.config.max_positions == 30
    assert source.tokenizer.max_length == 30
    assert "30 or less" in refused(folder, arch="bert.small", max_length=31)


def test_a_trained_d2l_model_needs_no_arch(made: Path, tmp_path: Path) -> None:
    before = pretrained.load(made / "reader", arch="bert.small")
    after = saved(before, tmp_path / "model")
    assert pretrained.missing_options(tmp_path / "model") == set()
    assert after.config == before.config
    assert after.config.num_heads == 4
    assert same_state(after, before)
    assert after.tokenizer.settings == before.tokenizer.settings
    assert torch.equal(logits(after.build()), logits(before.build()))
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    assert content["model_type"] == "d2l-bert", "and not one that transformers would open as something else"
    assert content["num_attention_heads"] == 4
    change_config(tmp_path / "model", num_attention_heads=3)
    assert "key hidden_size" in refused(tmp_path / "model")


def test_zips_that_are_no_model(made: Path, tmp_path: Path) -> None:
    assert "bert.small" in refused(zipped(made / "book", tmp_path / "book.zip"))
    path = zipped(made / "book", tmp_path / "twice.zip", **{"other/vocab.json": b"[]"})
    assert "several vocab.json" in refused(path, arch="bert.small")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "not a model" in refused(tmp_path / "empty.zip", arch="bert.small")
    with zipfile.ZipFile(tmp_path / "words.zip", "w") as archive:
        archive.write(made / "book" / "vocab.json", "vocab.json")
    assert "no weights" in refused(tmp_path / "words.zip", arch="bert.small")
    whole = (tmp_path / "book.zip").read_bytes()
    for size in (10, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.zip").write_bytes(whole[:size])
        assert "cut.zip" in refused(tmp_path / "cut.zip", arch="bert.small")


def with_declared_size(archive: Path, size: int) -> None:
    """Change the unpacked size that a zip's entries declare, in both of its tables."""
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = content.find(signature)
        while at >= 0:
            struct.pack_into("<I", content, at + offset, size)
            at = content.find(signature, at + 4)
    archive.write_bytes(content)


def test_a_zip_bomb_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vocab.json", b" " * (2**26 + 1))
        archive.writestr("pretrained.params", b"")
    assert f"{2**26 + 1:,} bytes unpacked" in refused(bomb, arch="bert.small")

    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vocab.json", b" " * 10**7)
    with_declared_size(bomb, 1000)  # a lie
    asked: list[int] = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: asked.append(n) or read(self, n))
    assert "vocab.json" in refused(bomb, arch="bert.small")
    assert asked == [1001], "it is never asked for more than it states"

    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("vocab.json", b" " * 100)
    assert "compression method 14" in refused(bomb, arch="bert.small")


def test_an_encrypted_zip(made: Path, tmp_path: Path) -> None:
    path = zipped(made / "book", tmp_path / "book.zip")
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(signature, at + 4)
    path.write_bytes(content)
    assert "book.zip" in refused(path, arch="bert.small")


# --- Anything at all -------------------------------------------------------------------------------------------------
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
CONFIG_KEYS = [
    *("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("max_position_embeddings", "type_vocab_size", "hidden_act", "layer_norm_eps", "hidden_dropout_prob", "id2label"),
    *("classifier_dropout", "initializer_range", "position_embedding_type", "is_decoder", "problem_type", "bertnli"),
    *("num_labels", "sentence_transformers", "sbert_ce_default_activation_function"),
]


def loads_or_is_refused(path: Path, arch: str | None = None) -> None:
    with contextlib.suppress(InputError):
        assert isinstance(pretrained.load(path, arch=arch), Pretrained)


@pytest.fixture
def hf(copy: Any) -> Path:
    return copy("hf")


@pytest.fixture
def book(copy: Any) -> Path:
    """The book's files with the smallest weights that its loader looks at."""
    return copy("book")


@given(value=json_values)
def test_any_json_as_config(value: Any, hf: Path) -> None:
    (hf / "config.json").write_text(json.dumps(value))
    loads_or_is_refused(hf)


@given(changes=st.dictionaries(st.sampled_from(CONFIG_KEYS), json_values, min_size=1, max_size=2), data=st.data())
def test_any_value_of_a_key_of_config(changes: dict[str, Any], data: st.DataObject, hf: Path, made: Path) -> None:
    shutil.copy(made / "hf" / "config.json", hf)
    change_config(hf, **changes)
    loads_or_is_refused(hf)


def mangled(content: bytes, data: st.DataObject) -> bytes:
    """Some bytes of a good file changed, or its end cut off."""
    draw = random.Random(data.draw(st.integers(0, 2**32)))
    result = bytearray(content)
    near = data.draw(st.sampled_from([100, 2000, len(content)]))  # the start of a file is where its structure is
    for _ in range(data.draw(st.integers(1, 8))):
        place = draw.randrange(min(near, len(result)))
        result[place if draw.random() < 0.5 else -1 - place] = draw.choice([0, 255, draw.randrange(256)])
    return bytes(result[: draw.randrange(len(result))] if draw.random() < 0.2 else result)


@given(content=st.binary(max_size=200), data=st.data())
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, about odd pickles
def test_any_bytes_as_weights(file: str, content: bytes, data: st.DataObject, hf: Path, made: Path) -> None:
    good = io.BytesIO()
    torch.save(weights_of(made / "hf"), good)
    whole = {
        "model.safetensors": (made / "hf" / "model.safetensors").read_bytes(),
        "pytorch_model.bin": good.getvalue(),
    }
    (hf / "model.safetensors").unlink(missing_ok=True)
    for damaged in (content, mangled(whole[file], data)):
        (hf / file).write_bytes(damaged)
        loads_or_is_refused(hf)


@given(content=st.binary(max_size=100) | json_values | st.lists(st.text(max_size=5), max_size=9), data=st.data())
def test_any_bytes_as_vocabulary(content: Any, data: st.DataObject, book: Path, made: Path) -> None:
    written = content if isinstance(content, bytes) else json.dumps(content).encode()
    for damaged in (written, mangled((made / "book" / "vocab.json").read_bytes(), data)):
        (book / "vocab.json").write_bytes(damaged)
        loads_or_is_refused(book, arch="bert.small")


@given(content=st.binary(max_size=200), data=st.data())
def test_any_bytes_as_zip(content: bytes, data: st.DataObject, made: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.zip"
    if not whole.exists():
        folder = tmp_path / "small"
        folder.mkdir()
        shutil.copy(made / "book" / "vocab.json", folder)
        torch.save({"nsp.output.bias": torch.ones(2)}, folder / "pretrained.params")
        zipped(folder, whole)
    for damaged in (content, b"PK\5\6" + content, mangled(whole.read_bytes(), data)):
        (tmp_path / "damaged.zip").write_bytes(damaged)
        loads_or_is_refused(tmp_path / "damaged.zip", arch="bert.small")
