"""Small random models and sentence pairs, made without a network, for every test that needs some.

The folders have exactly the form of the real ones: HF's BERT (config.json, model.safetensors, tokenizer.json,
tokenizer_config.json, vocab.txt) and the d2l book's (vocab.json and pretrained.params or classifier.params).
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bertnli.common.locks import held

RUN = "BERTNLI_TEST_RUN"
"""Names this run of the tests, in its environment: its worker processes share one bundle."""

SNLI_LABELS = ("entailment", "neutral", "contradiction")

_WHO = ["A man", "Two dogs", "The children", "A blond-haired woman", "Some tourists", "An old couple", "Three boys"]
_DO = ["run", "are sleeping", "play football", "wait for a train", "eat ice cream", "look at a map", "sing loudly"]
_WHERE = ["on a beach", "in the street", "near a river", "at the market", "under an umbrella", "behind a red car"]
_END = ["", " while it rains", ", smiling at the camera", " with their friends' bags"]


def snli_rows(n: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows as in SNLI's own .jsonl, without the full parses; now and then the gold label is `-`."""
    draw = random.Random(seed)
    rows = []
    for number in range(n):
        sentences = [
            f"{draw.choice(_WHO)} {draw.choice(_DO)} {draw.choice(_WHERE)}{draw.choice(_END)}." for _ in range(2)
        ]
        if number % 3:
            sentences[1] = f"{draw.choice(_WHO)} {draw.choice(_DO)}."
        rows.append(
            {
                "pairID": f"{number}.jpg#0",
                "gold_label": "-" if draw.random() < 0.02 else draw.choice(SNLI_LABELS),
                "sentence1": sentences[0],
                "sentence2": sentences[1],
                "sentence1_binary_parse": _binary_parse(sentences[0]),
                "sentence2_binary_parse": _binary_parse(sentences[1]),
            }
        )
    return rows


def _words(sentence: str) -> list[str]:
    return re.findall(r"[\w-]+|'\w*|[.,]", sentence)


def _binary_parse(sentence: str) -> str:
    first, *rest = _words(sentence)
    for word in rest:
        first = f"( {first} {word} )"
    return first


def _all_words() -> list[str]:
    return sorted({word.lower() for text in (*_WHO, *_DO, *_WHERE, *_END, ".,") for word in _words(text)})


def word_pieces() -> list[str]:
    """A WordPiece vocabulary: whole words of `snli_rows`, and every ASCII character alone and as a continuation."""
    characters = sorted({chr(code) for code in range(33, 127)} - {chr(code) for code in range(65, 91)})
    words = [word for word in _all_words() if word.isalpha() and len(word) > 1]
    pieces = characters + [f"##{c}" for c in characters if c.isalnum()] + words
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]


def hub_files(**config: Any) -> dict[str, bytes]:
    """The files of a BERT on the model hub, by their names; its weights are none that could be loaded.

    config: keys of config.json to change; a value of ... takes one away.
    """
    vocabulary = word_pieces()
    sizes = {"vocab_size": len(vocabulary), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    keys = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "intermediate_size": 64, **sizes}
    keys |= {"max_position_embeddings": 128, "id2label": dict(enumerate(SNLI_LABELS))} | config
    return {
        "config.json": json.dumps({key: value for key, value in keys.items() if value is not ...}).encode(),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 100}).encode(),
        "vocab.txt": "\n".join(vocabulary).encode(),
        "README.md": b"---\nlicense: mit\n---\n",
        "model.safetensors": bytes(range(256)) * 40,
    }


def hf_folder(
    path: Path,
    *,
    labels: Sequence[str] | None = SNLI_LABELS,
    seed: int = 0,
    hidden_size: int = 32,
    num_layers: int = 2,
    num_heads: int = 4,
    intermediate_size: int = 64,
    max_positions: int = 64,
    max_length: int | None = 48,
    config: dict[str, Any] | None = None,
) -> Path:
    """A BERT classifier as transformers would save it, its logits spread over a few units; returns `path`.

    labels: None leaves the classifier out (an encoder alone). max_length: written as our training writes it; None
    makes it a folder that bertnli has never seen. config: more entries for config.json.
    """
    import safetensors.torch
    import torch

    from bertnli.families.config import ModelConfig
    from bertnli.model import pretrained
    from bertnli.model.classifier import PairClassifier

    vocabulary = word_pieces()
    names = tuple(labels or SNLI_LABELS)
    shape = ModelConfig(
        labels=names,
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        intermediate_size=intermediate_size,
        max_positions=max_positions,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _spread(PairClassifier(shape))
    tensors = pretrained.to_foreign(model.state_dict(), shape)
    if labels is None:
        tensors = {
            name.removeprefix("bert."): tensor for name, tensor in tensors.items() if not name.startswith("classifier.")
        }
    path.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    content: dict[str, Any] = {
        "architectures": ["BertModel" if labels is None else "BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": len(vocabulary),
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": max_positions,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": 0,
    }
    if labels is not None:
        content["id2label"] = {str(index): name for index, name in enumerate(labels)}
        content["label2id"] = {name: index for index, name in enumerate(labels)}
    if max_length is not None:
        content["bertnli"] = {"truncation": "longest_first", "max_length": max_length, "reads_parse": False}
    _write_json(path / "config.json", content | (config or {}))
    _write_word_piece(path, vocabulary, max_positions)
    return path


def d2l_folder(
    path: Path, *, arch: str = "bert.small", classifier: bool = False, words: Sequence[str] = (), seed: int = 0
) -> Path:
    """A d2l model folder: vocab.json and `pretrained.params`, or the book reader's fine-tuned `classifier.params`.

    words: more entries for the vocabulary, behind those of `snli_rows`. The sizes are `arch`'s own. Returns `path`.
    """
    import torch

    from bertnli.families.d2l import D2L_ARCHITECTURES
    from bertnli.model import pretrained
    from bertnli.model.classifier import PairClassifier

    vocabulary = list(dict.fromkeys(["<unk>", "<pad>", "<mask>", "<cls>", "<sep>", *_all_words(), *words]))
    shape = replace(D2L_ARCHITECTURES[arch], vocab_size=len(vocabulary))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _spread(PairClassifier(shape))
        hidden = shape.hidden_size
        tensors = pretrained.to_foreign(model.state_dict(), shape)
        if not classifier:
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("output.")}
            tensors |= {
                "mlm.mlp.0.weight": torch.randn(hidden, hidden),
                "mlm.mlp.0.bias": torch.zeros(hidden),
                "mlm.mlp.2.weight": torch.ones(hidden),
                "mlm.mlp.2.bias": torch.zeros(hidden),
                "mlm.mlp.3.weight": torch.randn(len(vocabulary), hidden),
                "mlm.mlp.3.bias": torch.zeros(len(vocabulary)),
                "nsp.output.weight": torch.randn(2, hidden),
                "nsp.output.bias": torch.zeros(2),
            }
    path.mkdir(parents=True, exist_ok=True)
    _write_json(path / "vocab.json", vocabulary)
    torch.save(tensors, path / ("classifier.params" if classifier else "pretrained.params"))
    return path


@cache
def bundle() -> Path:
    """One exported bundle of `hf_folder()`, made once in a run of the tests and there to read, not to change.

    It is made in a process of its own: the one that asks may have replaced parts of what exports, for a test.
    """
    folder = Path(tempfile.gettempdir(), f"tiny-bundle-{os.environ[RUN]}")
    with held(folder.with_suffix(".lock"), "waiting for the tiny bundle"):
        if not (folder / "bundle").is_dir():
            command = [sys.executable, "-m", __name__, str(folder)]
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
    return folder / "bundle"


def begin_run() -> Callable[[], None]:
    """Name this run of the tests. Returns what removes its bundle in the end.

    A run within another one, as a test starts it, has the other's name and bundle, and removes nothing.
    """
    if RUN in os.environ:
        return lambda: None
    os.environ[RUN] = uuid.uuid4().hex[:8]
    return _remove_bundle


def _remove_bundle() -> None:
    folder = Path(tempfile.gettempdir(), f"tiny-bundle-{os.environ[RUN]}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".lock").unlink(missing_ok=True)


def _export(folder: Path) -> None:
    from bertnli_export.build import export_bundle

    from bertnli.model import pretrained

    export_bundle(pretrained.load(hf_folder(folder / "model")), folder / "bundle")


def _spread(model: Any) -> Any:
    """Larger weights than a fresh model has and a centred classifier, so that the label depends on the text."""
    import torch

    from bertnli.model.attention import Padded

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=2 / module.in_features**0.5)
            torch.nn.init.zeros_(module.bias)
    ids = torch.randint(5, model.config.vocab_size, (64, 20))
    ids[:, 0] = 2
    with torch.no_grad():
        logits = model.eval()(ids, (torch.arange(20) > 12).long().expand_as(ids), Padded(torch.ones_like(ids)))
        model.classifier.bias.copy_(-logits.mean(0))
    return model


def _write_word_piece(path: Path, vocabulary: Sequence[str], model_max_length: int) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    ids = {piece: number for number, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    _write_json(
        path / "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": model_max_length},
    )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _export(Path(sys.argv[1]))
