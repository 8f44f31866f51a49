"""Every family computes what transformers' own classes compute: logits, gradients, places of dropout, and files.

`ROWS` is the table, with a row for each model_type. How a row is added: its model_type; `configurations`, each a map of
config.json's keys over `SIZES` that is one case; and where the family needs it: `names` (its own keys for those of
`SIZES`), `drawn` (strategies for more keys of the property test, or instead of those in `DRAWN`), `dropouts` (a
different probability for each place), and `draws_alike` (False: transformers draws dropout for more than we compute).
A row without token types says `type_vocab_size: 1` among its configurations, or has a config class without that key.
All tests below then run for it. The models are tiny and random, and the tokenizer is BERT's for all of them; tests/data
compares the families' own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertTokenizer

from bertnli.common.errors import InputError
from bertnli.data.outputs import Outputs
from bertnli.data.positions import usable_positions
from bertnli.evaluation.activations import activate
from bertnli.families import folder_config
from bertnli.families.table import BY_MODEL_TYPE
from bertnli.model import pretrained
from bertnli.model.classifier import PairClassifier
from bertnli.model.dropout import Dropout
from bertnli.model.keymaps import from_foreign, to_foreign
from bertnli.model.predictor import TorchPredictor
from tests.support import tiny
from tests.support.batch_layouts import ALL, batch, padded
from tests.support.whole_block import WholeBlock

VOCABULARY = ["[UNK]", "[PAD]", *(piece for piece in tiny.word_pieces() if piece not in ("[UNK]", "[PAD]"))]
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 1,  # as the vocabulary has it, and MPNet always
    "id2label": {0: "contradiction", 1: "neutral", 2: "entailment"},
}
LENGTH = 48  # of a tokenised pair
DRAWN: dict[str, SearchStrategy[Any]] = {
    "num_hidden_layers": st.integers(1, 3),
    "intermediate_size": st.integers(1, 40),
    "vocab_size": st.integers(len(VOCABULARY), len(VOCABULARY) + 20),
    "hidden_act": st.sampled_from(["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"]),
    "layer_norm_eps": st.sampled_from([1e-12, 1e-7, 1e-5]),
    "num_labels": st.integers(2, 5),
}
PAIRS = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(20)]
PAIRS += [("THE CHILDREN Run", "über é"), ("a " * 90, "b " * 9), ("Two dogs", "two DOGS")]
PAIRS += [("Two [PAD] dogs [PAD]", "[PAD] two [PAD] [PAD] dogs"), ("", "two dogs")]


@dataclass(frozen=True)
class Row:
    model_type: str
    configurations: tuple[dict[str, Any], ...]
    names: Mapping[str, str] = field(default_factory=dict)
    drawn: Mapping[str, SearchStrategy[Any]] = field(default_factory=dict)
    dropouts: Mapping[str, float] = field(
        default_factory=lambda: {
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.2,
            "classifier_dropout": 0.3,
        }
    )
    draws_alike: bool = True

    def config(self, **changes: Any) -> Any:
        """transformers' configuration."""
        if "num_labels" in changes:
            changes["id2label"] = {number: f"label {number}" for number in range(changes.pop("num_labels"))}
        changes["label2id"] = {name: number for number, name in (SIZES | changes)["id2label"].items()}
        keys = {self.names.get(key, key): value for key, value in (SIZES | changes).items()}
        return AutoConfig.for_model(self.model_type, **keys)


ROBERTA = (
    {"type_vocab_size": 1},
    {"type_vocab_size": 2, "hidden_act": "gelu_new", "num_attention_heads": 3, "num_hidden_layers": 3},
    {"type_vocab_size": 1, "hidden_size": 35, "num_attention_heads": 5, "layer_norm_eps": 1e-5, "num_labels": 2},
    {"type_vocab_size": 1, "pad_token_id": 0, "vocab_size": len(VOCABULARY) + 7, "num_labels": 4},
)
BIASES = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)  # ModernBERT's
V2 = {"relative_attention": True, "position_buckets": -1, "pos_att_type": ["c2p", "p2c"], "share_att_key": True}
V3 = V2 | {
    "position_buckets": 8,
    "max_relative_positions": 64,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
ROWS = (
    Row(
        "bert",
        (
            {},
            {"hidden_act": "gelu_new", "num_attention_heads": 3, "layer_norm_eps": 1e-5, "num_hidden_layers": 3},
            {"hidden_act": "relu", "num_attention_heads": 1, "layer_norm_eps": 1e-3, "num_labels": 2},
            {"hidden_act": "gelu_pytorch_tanh", "hidden_size": 35, "num_attention_heads": 5, "type_vocab_size": 3},
            {"num_hidden_layers": 1, "num_attention_heads": 24, "intermediate_size": 7, "num_labels": 5},
            {"vocab_size": len(VOCABULARY) + 7, "type_vocab_size": 1},
        ),
        drawn={"type_vocab_size": st.integers(1, 4)},
    ),
    Row("roberta", ROBERTA, drawn={"type_vocab_size": st.integers(1, 2), "pad_token_id": st.integers(0, 3)}),
    Row("xlm-roberta", ROBERTA[::2], drawn={"type_vocab_size": st.just(1)}),
    Row(
        "deberta-v2",
        (
            V3 | {"position_buckets": 8, "max_relative_positions": 64},
            V3 | {"position_buckets": 16, "max_relative_positions": 24, "hidden_size": 35, "num_attention_heads": 5},
            V3 | {"pos_att_type": ["c2p"], "share_att_key": False, "norm_rel_ebd": "none", "pooler_hidden_act": "tanh"},
            V3 | {"pos_att_type": ["p2c"], "hidden_act": "gelu_new", "num_labels": 2, "position_buckets": 5},
            V2 | {"max_relative_positions": 12, "type_vocab_size": 2, "share_att_key": False},
            V2 | {"max_relative_positions": 64, "num_attention_heads": 1, "num_hidden_layers": 3},
            V3 | {"conv_kernel_size": 3, "conv_act": "gelu", "num_hidden_layers": 3},
            V3 | {"conv_kernel_size": 5},
        ),
        names={"classifier_dropout": "cls_dropout"},
        drawn={
            "relative_attention": st.just(True),
            "position_buckets": st.sampled_from([-1, 2, 5, 16]),
            "max_relative_positions": st.sampled_from([-1, 12, 30]),
            "pos_att_type": st.sampled_from(["c2p", "p2c", "c2p|p2c", ["p2c", "c2p"]]),
            "share_att_key": st.booleans(),
            "position_biased_input": st.booleans(),
            "norm_rel_ebd": st.sampled_from(["none", "layer_norm"]),
            "type_vocab_size": st.integers(0, 2),
        },
        draws_alike=False,  # it draws for the table of all distances; test_deberta.py has the places of its dropout
    ),
    Row("camembert", ROBERTA[::2], drawn={"type_vocab_size": st.just(1)}),
    Row(
        "mpnet",
        (
            {},
            {"num_attention_heads": 3, "hidden_act": "relu", "layer_norm_eps": 1e-3, "num_hidden_layers": 1},
            {"hidden_size": 35, "num_attention_heads": 5, "max_position_embeddings": 300, "num_labels": 2},
        ),
        dropouts={"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.0},  # its attention draws differently
    ),
    Row(
        "albert",
        (
            {"embedding_size": 10, "num_hidden_groups": 2},  # the last block has weights of its own
            {"embedding_size": 24, "hidden_act": "gelu", "num_hidden_layers": 5, "type_vocab_size": 1, "num_labels": 2},
            {"embedding_size": 30, "num_hidden_layers": 18, "num_hidden_groups": 14, "layer_norm_eps": 1e-3},
            {"embedding_size": 7, "num_hidden_layers": 4, "vocab_size": len(VOCABULARY) + 7},
        ),
        drawn={
            "num_hidden_layers": st.integers(3, 5),
            "num_hidden_groups": st.integers(1, 3),
            "embedding_size": st.integers(8, 40),
            "type_vocab_size": st.integers(1, 3),
        },
        dropouts={
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.2,
            "classifier_dropout_prob": 0.3,
        },
    ),
    Row(
        "distilbert",
        (
            {},
            {"hidden_act": "relu", "hidden_size": 35, "num_attention_heads": 5, "num_labels": 2},
            {"sinusoidal_pos_embds": True, "vocab_size": len(VOCABULARY) + 7, "num_labels": 4},
        ),
        names={"intermediate_size": "hidden_dim", "hidden_act": "activation"},
        drawn={"layer_norm_eps": st.just(1e-12)},  # it has no other
        dropouts={"dropout": 0.1, "attention_dropout": 0.2, "seq_classif_dropout": 0.3},
    ),
    Row(
        "electra",
        (
            {"embedding_size": 16},
            {"embedding_size": 24, "num_labels": 2, "hidden_act": "gelu_new"},
            {"embedding_size": 35, "hidden_size": 35, "num_attention_heads": 5, "type_vocab_size": 1},
            {"embedding_size": 50, "vocab_size": len(VOCABULARY) + 7, "layer_norm_eps": 1e-5, "num_labels": 4},
        ),
        drawn={"embedding_size": st.integers(16, 40), "type_vocab_size": st.integers(1, 3)},
    ),
    Row(
        "ernie",
        (
            {"use_task_id": True, "type_vocab_size": 4},
            {"use_task_id": False, "hidden_act": "relu", "num_labels": 2},
            {"use_task_id": True, "task_type_vocab_size": 16, "hidden_size": 35, "num_attention_heads": 5},
        ),
        drawn={"use_task_id": st.booleans(), "task_type_vocab_size": st.integers(1, 4)},
    ),
    Row(
        "modernbert",
        (
            {"num_hidden_layers": 4, "local_attention": 8},
            {"classifier_pooling": "mean", "local_attention": 20},
            {
                **BIASES,
                "hidden_size": 40,
                "global_attn_every_n_layers": 2,
                "num_hidden_layers": 3,
                "local_attention": 4,
            },
            {"global_attn_every_n_layers": 1, "classifier_activation": "relu", "hidden_act": "gelu_pytorch_tanh"},
            {"layer_types": ["sliding_attention", "full_attention"], "local_attention": 2, "num_labels": 2},
            {
                "num_hidden_layers": 1,
                "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 9.0}},
            },
            {**BIASES, "classifier_pooling": "mean", "vocab_size": len(VOCABULARY) + 7, "local_attention": 6},
        ),
        names={"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"},
        drawn={
            **dict.fromkeys(BIASES, st.booleans()),
            "hidden_size": st.sampled_from([24, 48]),  # its heads must be even
            "classifier_pooling": st.sampled_from(["cls", "mean"]),
            "local_attention": st.integers(1, 100),
            "global_attn_every_n_layers": st.integers(1, 4),
        },
        dropouts={
            "embedding_dropout": 0.1,
            "attention_dropout": 0.2,
            "mlp_dropout": 0.3,
            "classifier_dropout": 0.4,
        },
    ),
)

EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
EACH_CONFIGURATION = pytest.mark.parametrize(
    ("row", "changes"),
    [pytest.param(row, changes, id=f"{row.model_type}-{changes}") for row in ROWS for changes in row.configurations],
)


def theirs_of(config: Any, auto: Any = AutoModelForSequenceClassification) -> Any:
    """A random model of transformers' own class, all of whose weights matter."""
    torch.manual_seed(0)
    return lively(auto.from_config(config))


def lively(model: nn.Module) -> Any:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
            else:
                nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.2)
    return model.eval()


def ours_of(theirs: Any) -> PairClassifier:
    """Ours with its weights, by what its config.json would say."""
    content = json.loads(theirs.config.to_json_string())
    labels = tuple(theirs.config.id2label.values())
    config = folder_config.parse(content, "config.json").to_ours(Outputs(labels))
    ours = PairClassifier(config)
    ours.load_state_dict(from_foreign(theirs.state_dict(), config, "transformers", do=""))
    return ours.eval()


def inputs_of(theirs: Any, lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch with noise as ids, but of other ids than padding's."""
    ids, segments, mask = batch(lengths, len(VOCABULARY), types=getattr(theirs.config, "type_vocab_size", 0) or 1)
    return ids.masked_fill(ids == theirs.config.pad_token_id, 5), segments, mask


def call(theirs: Any, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
    types = {"token_type_ids": segments} if segments.any() else {}
    return theirs(input_ids=ids, attention_mask=mask.long(), **types).logits


def gradients(logits: Tensor, model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1], reduction="sum").backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_equal(
    theirs: Any,
    lengths: list[int],
    layouts: tuple[Callable[..., Tensor], ...] = ALL,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Logits within 1e-5 and the gradient of every parameter within 1e-4, in each layout.

    Where numbers are above 1, of the largest: a sum of many large terms is only as exact as the terms.
    """
    ours, inputs = ours_of(theirs).to(dtype), inputs_of(theirs, lengths)
    theirs = theirs.to(dtype)
    expected = call(theirs, *inputs)
    expected_gradients = gradients(expected, theirs)
    largest = max(1.0, *(gradient.abs().max().item() for gradient in expected_gradients.values()))
    for layout in layouts:
        logits = layout(ours, *inputs)
        torch.testing.assert_close(logits, expected, atol=1e-5 * max(1.0, expected.abs().max().item()), rtol=0)
        found = to_foreign(gradients(logits, ours), ours.config)
        assert found.keys() == expected_gradients.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-4 * largest, rtol=0, msg=name)


@EACH_CONFIGURATION
def test_logits_and_gradients_are_those_of_transformers(row: Row, changes: dict[str, Any]) -> None:
    check_equal(theirs_of(row.config(**changes)), [9, 3, 16, 5, 5, 12, 4, 40])


@EACH_ROW
def test_a_padding_token_inside_a_text_is_counted_as_transformers_counts_it(row: Row) -> None:
    theirs = theirs_of(row.config(**row.configurations[-1]))
    ours = ours_of(theirs)
    ids, segments, mask = inputs_of(theirs, [9, 3, 16, 5, 5, 12, 4, 40])
    for pair, token in ((0, 1), (0, 4), (0, 5), (2, 15), (3, 2), (6, 1), (7, 20), (7, 22)):
        ids[pair, token] = theirs.config.pad_token_id
    with torch.no_grad():
        expected = call(theirs, ids, segments, mask)
        for layout in ALL:
            torch.testing.assert_close(layout(ours, ids, segments, mask), expected, atol=1e-5, rtol=0)


@EACH_ROW
@given(data=st.data())
def test_any_configuration_is_computed_as_transformers_computes_it(row: Row, data: st.DataObject) -> None:
    heads = data.draw(st.integers(1, 4), label="heads")
    head_sizes = st.integers(max(5, 16 // heads), 19)  # a norm over fewer channels enlarges what rounding differs by
    keys = DRAWN | {"hidden_size": head_sizes.map(lambda size: heads * size)} | dict(row.drawn)
    changes = {key: data.draw(strategy, label=key) for key, strategy in keys.items()}
    lengths = data.draw(st.lists(st.integers(3, LENGTH), min_size=1, max_size=6), label="lengths")
    # In fp32 some drawn weights enlarge what rounding differs by to more than a fault would cost with others.
    check_equal(theirs_of(row.config(num_attention_heads=heads, **changes)), lengths, ALL[:2], torch.float64)


@EACH_ROW
def test_the_tokenizer_knows_as_many_positions_as_the_model_has(row: Row) -> None:
    content = json.loads(row.config(**row.configurations[-1]).to_json_string())
    model = folder_config.parse(content, "config.json").to_ours(Outputs(("a", "b")))
    assert usable_positions(content) == model.max_positions


@pytest.mark.parametrize("row", [row for row in ROWS if row.draws_alike], ids=lambda row: row.model_type)
def test_dropout_acts_where_transformers_has_it(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both draw the same masks in the same order, so in training too the logits are the same; the last block is made
    to draw for tokens that it leaves out otherwise."""
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p, training, inplace: Dropout(p).train(training)(x))
    theirs = theirs_of(row.config(**row.configurations[0], **row.dropouts)).train()
    ours = ours_of(theirs).train()
    ours.blocks[-1] = WholeBlock(ours.blocks[-1])
    inputs = inputs_of(theirs, [9, 3, 16, 5, 5, 12, 4])
    torch.manual_seed(3)
    expected = call(theirs, *inputs)
    torch.manual_seed(3)
    torch.testing.assert_close(padded(ours, *inputs), expected, atol=1e-5, rtol=0)


# --- Their files, and ours -------------------------------------------------------------------------------------------


def save(theirs: Any, folder: Path, form: str = "float32") -> Path:
    """The folder of a model as transformers leaves it; `form`: the weights' dtype, or pickled."""
    if form == "pickled":
        theirs.save_pretrained(folder)
        torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    else:
        theirs.to(getattr(torch, form)).save_pretrained(folder)
        theirs.float()
    names = ["input_ids", "attention_mask"]
    if getattr(theirs.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    stated = {"tokenizer_class": "BertTokenizer", "model_max_length": LENGTH, "model_input_names": names}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    if theirs.config.model_type == "modernbert":  # transformers has no tokenizer of its own for it
        BertTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
        special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
        own = {**stated, **special, "tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(own))
    return folder


def of_transformers(folder: Path) -> np.ndarray:
    """The logits of PAIRS, with transformers' own model and tokenizer, and all weights found."""
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs).logits.numpy()


def of_eval(source: pretrained.Pretrained) -> np.ndarray:
    return TorchPredictor(source.build(), source.tokenizer, "cpu").logits(*zip(*PAIRS, strict=True))


@pytest.mark.parametrize("form", ["float16", "bfloat16", "pickled"])
@EACH_ROW
def test_a_folder_has_the_logits_that_it_has_in_transformers(row: Row, form: str, tmp_path: Path) -> None:
    folder = save(theirs_of(row.config(**row.configurations[-1])), tmp_path / "model", form)
    expected = of_transformers(folder)
    assert np.ptp(expected, axis=0).min() > 0.1, "the logits must depend on the text"
    np.testing.assert_allclose(of_eval(pretrained.load(folder)), expected, atol=1e-5)


@EACH_ROW
def test_scores_and_independent_labels_are_cross_encoders(row: Row, tmp_path: Path) -> None:
    """Whatever the family's head is. test_foreign_outputs.py has the ways in which files say what outputs mean."""
    for outputs, activation in ((1, "linear.Identity"), (3, "activation.Sigmoid")):
        key = {"sentence_transformers": {"activation_fn": f"torch.nn.modules.{activation}"}}
        theirs = theirs_of(row.config(**{**row.configurations[-1], "num_labels": outputs}, **key))
        folder, ours = tmp_path / f"{outputs} {activation}", tmp_path / f"ours {outputs} {activation}"
        source = pretrained.load(save(theirs, folder))
        pretrained.save(source.build(), source.tokenizer, ours)
        expected = CrossEncoder(str(folder), device="cpu").predict(PAIRS)
        found = activate(of_eval(source), source.config.output_activation)
        np.testing.assert_allclose(found.squeeze(), expected, atol=1e-5)
        np.testing.assert_allclose(CrossEncoder(str(ours), device="cpu").predict(PAIRS), expected, atol=1e-5)


@EACH_CONFIGURATION
def test_what_we_write_opens_in_transformers_with_the_same_logits(row: Row, changes: Any, tmp_path: Path) -> None:
    theirs = theirs_of(row.config(**changes, **row.dropouts))
    source = pretrained.load(save(theirs, tmp_path / "model"))
    assert source.config.labels == tuple(theirs.config.id2label.values())
    pretrained.save(source.build(), source.tokenizer, tmp_path / "ours")
    expected = of_transformers(tmp_path / "model")
    np.testing.assert_allclose(of_transformers(tmp_path / "ours"), expected, atol=1e-6)
    np.testing.assert_allclose(of_eval(pretrained.load(tmp_path / "ours")), expected, atol=1e-5)
    encoder = CrossEncoder(str(tmp_path / "ours"), device="cpu")
    np.testing.assert_allclose(encoder.predict(PAIRS), expected, atol=1e-5)
    written = AutoConfig.from_pretrained(tmp_path / "ours").to_dict()
    differing = {key for key, value in theirs.config.to_dict().items() if written[key] != value}
    # The table of positions is in the file, so it need not be made of sines.
    assert differing <= {"_name_or_path", "transformers_version", "sinusoidal_pos_embds"}


@pytest.mark.parametrize(
    ("model_type", "prefix", "keys"),
    [
        ("bert", "bert.", ["cls.predictions.decoder.bias", "cls.seq_relationship.weight"]),
        ("roberta", "roberta.", ["lm_head.decoder.bias", "lm_head.layer_norm.weight", "roberta.pooler.dense.bias"]),
        ("camembert", "roberta.", ["lm_head.decoder.weight"]),
        ("distilbert", "distilbert.", ["vocab_projector.bias", "vocab_layer_norm.weight", "vocab_transform.bias"]),
        ("electra", "electra.", ["generator_lm_head.bias", "discriminator_predictions.dense.weight"]),
        ("ernie", "ernie.", ["cls.predictions.transform.LayerNorm.bias"]),
    ],
)
def test_what_files_of_earlier_versions_have_besides_is_left_out(
    model_type: str, prefix: str, keys: list[str], tmp_path: Path
) -> None:
    """Buffers, and what a fine-tuned model kept from its pretraining; any other key is an error that names it."""
    row = next(row for row in ROWS if row.model_type == model_type)
    folder = save(theirs_of(row.config(**row.configurations[0])), tmp_path / "model")
    file, expected = folder / "model.safetensors", of_transformers(folder)
    more = {key: torch.ones(3) for key in keys} | {f"{prefix}embeddings.position_ids": torch.arange(64)[None]}
    save_file(load_file(file) | more, file, {"format": "pt"})
    np.testing.assert_allclose(of_eval(pretrained.load(folder)), expected, atol=1e-5)
    save_file(load_file(file) | {f"{prefix}encoder.surplus": torch.ones(3)}, file, {"format": "pt"})
    with pytest.raises(InputError, match=f"unknown: {prefix}encoder.surplus"):
        pretrained.load(folder)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "electra", "ernie", "mpnet"])
def test_a_pair_may_have_as_many_tokens_as_there_are_positions(model_type: str, tmp_path: Path) -> None:
    """RoBERTa and MPNet do not use the first rows of their table of positions."""
    row = next(row for row in ROWS if row.model_type == model_type)
    folder = save(theirs_of(row.config(**row.configurations[0])), tmp_path / "model")
    file = folder / "tokenizer_config.json"
    without = {key: value for key, value in json.loads(file.read_text()).items() if key != "model_max_length"}
    file.write_text(json.dumps(without))
    source = pretrained.load(folder)
    unused = SIZES["pad_token_id"] + 1 if model_type in ("roberta", "mpnet") else 0
    assert source.tokenizer.max_length == source.config.max_positions == SIZES["max_position_embeddings"] - unused
    file.write_text(json.dumps(without | {"model_max_length": source.tokenizer.max_length}))
    np.testing.assert_allclose(of_eval(source), of_transformers(folder), atol=1e-5)  # one of PAIRS is longer


@pytest.mark.parametrize(
    ("model_type", "change", "message"),
    [
        (
            "distilbert",
            {"dim": None},
            "key dim is missing; expected the config.json of a distilbert model",
        ),
        ("distilbert", {"n_heads": 5}, "key dim; found 24; expected a multiple of n_heads, which is 5"),
        (
            "electra",
            {"num_attention_heads": 5},
            "key hidden_size; found 24; expected a multiple of num_attention_heads",
        ),
        (
            "roberta",
            {"pad_token_id": 60},
            "key pad_token_id; found 60; expected below max_position_embeddings, which",
        ),
        ("roberta", {"architectures": ["RobertaForTokenClassification"]}, "of RobertaForSequenceClassification, or"),
        ("ernie", {"use_task_id": "yes"}, "key use_task_id; found 'yes'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(model_type: str, change: dict[str, Any], message: str) -> None:
    row = next(row for row in ROWS if row.model_type == model_type)
    content = json.loads(row.config(**row.configurations[0]).to_json_string()) | change
    content = {key: value for key, value in content.items() if value is not None}
    with pytest.raises(InputError, match=re.escape(message)):
        folder_config.parse(content, "config.json")


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra"])
def test_a_tokenizer_with_types_that_the_model_lacks_is_refused_and_the_advice_works(
    model_type: str, tmp_path: Path
) -> None:
    row = next(row for row in ROWS if row.model_type == model_type)
    folder = save(theirs_of(row.config(type_vocab_size=1)), tmp_path / "model")
    file = folder / "tokenizer_config.json"
    stated = json.loads(file.read_text())
    del stated["model_input_names"]
    file.write_text(json.dumps(stated))
    with pytest.raises(InputError, match="key type_vocab_size; found 1, and a tokenizer") as error:
        pretrained.load(folder)
    (advice,) = re.findall(r'add ("model_input_names": \[.+\]) to tokenizer_config.json', str(error.value))
    file.write_text(json.dumps(stated | json.loads(f"{{{advice}}}")))
    np.testing.assert_allclose(of_eval(pretrained.load(folder)), of_transformers(folder), atol=1e-5)


@EACH_ROW
def test_encoders_are_read_whatever_they_were_pretrained_for(row: Row, tmp_path: Path) -> None:
    """All weights but the heads; what belongs to the tasks of the pretraining is left out."""
    config = row.config(**row.configurations[0])
    whole = theirs_of(config)
    expected = ours_of(whole).state_dict()
    family = BY_MODEL_TYPE[row.model_type]
    classes = [getattr(transformers, name) for name in family.encoders if hasattr(transformers, name)]
    assert len(classes) > 1
    for number, kind in enumerate(classes):
        model = lively(kind(config))
        encoder = getattr(model, model.base_model_prefix, model)  # a bare encoder has no prefix
        encoder.load_state_dict(whole.base_model.state_dict(), strict=False)
        source = pretrained.load(save(model, tmp_path / str(number)))
        assert not source.has_classifier
        heads = tuple(f"{head}." for head in family.heads)
        encoder_names = [name for name in expected if not name.startswith(heads)]
        assert set(encoder_names) <= source.state.keys()
        assert all(torch.equal(source.state[name], expected[name]) for name in encoder_names), kind.__name__
