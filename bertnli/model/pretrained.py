"""Reads models from files and writes them: HF's BERT folders, and the d2l book's folders and zips."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from bertnli.common import temperature as temperatures
from bertnli.common.errors import InputError, RunError
from bertnli.data import labels as label_orders
from bertnli.data.tokenizer import DEFAULT_LENGTH, PairTokenizer
from bertnli.model import tensor_files
from bertnli.model.classifier import ACTIVATIONS, D2L_ARCHITECTURES, ModelConfig, PairClassifier
from bertnli.model.keymaps import from_foreign, has_classifier, to_foreign

Truncation = Literal["longest_first", "d2l", "proportional"]

_HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_D2L_WEIGHTS = ("classifier.params", "pretrained.params")  # the reader's own fine-tuned model before the book's


@dataclass(frozen=True)
class Pretrained:
    """A model as it is in a file or folder.

    state: our parameter names to fp32 tensors; a head that is not in the file is missing.
    sha256: of the weights file; what is made from the model records it.
    temperature: the logits are divided by it before the softmax (calibrate.py). It belongs to these weights, not to a
    model that is trained from them.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    tokenizer: PairTokenizer
    sha256: str
    temperature: float = 1.0

    @property
    def has_classifier(self) -> bool:
        return "classifier.weight" in self.state

    def without_weights(self) -> Pretrained:
        """The same without the weights, which a built model has its own copy of."""
        return replace(self, state={})

    def build(self, config: ModelConfig | None = None) -> PairClassifier:
        """The model with these weights, in fp32 on the CPU. `config` may have other dropouts, or other labels.

        A classifier that is missing or has other labels is initialised from torch's global generator, and so is a
        missing pooler (BertForMaskedLM's): seed it first.
        """
        model = PairClassifier(config or self.config)
        kept = {
            name: tensor
            for name, tensor in self.state.items()
            if not (name.startswith("classifier.") and model.config.labels != self.config.labels)
        }
        model.load_state_dict(model.state_dict() | kept)
        return model


def load(
    path: Path,
    *,
    arch: str | None = None,
    labels: Sequence[str] | None = None,
    max_length: int | None = None,
    truncation: Truncation | None = None,
    hypothesis_only: bool | None = None,
) -> Pretrained:
    """The model at `path`: an HF folder, a folder `bertnli train` left, or a d2l folder or zip.

    arch: `bert.small` or `bert.base`, for d2l weights. labels: names in the order of the model's outputs, if its files
    have none or placeholders. max_length, truncation, hypothesis_only: default: the model's own. Raises InputError for
    anything missing, damaged, unsafe (a pickle that would run code) or of another architecture.
    """
    files = _files(path)
    if "config.json" in files:
        return _load_folder(path, files, arch, labels, max_length, truncation, hypothesis_only)
    if "vocab.json" in files:
        return _load_d2l(path, files, arch, labels, max_length, truncation, hypothesis_only)
    raise InputError(
        f"{path}: not a model",
        found=", ".join(sorted(files)[:8]) or "nothing that belongs to one",
        expected="config.json with model.safetensors (HF), or vocab.json with pretrained.params (d2l)",
    )


def missing_options(path: Path) -> set[str]:
    """Which of `load`'s `arch` and `labels` the files at `path` do not specify.

    d2l weights as the book has them do not contain the number of heads; many classifiers' labels are LABEL_0, ….
    """
    files = _files(path)
    if "config.json" in files:
        where = f"{path}/config.json"
        return {"labels"} if label_orders.unnamed(_read_json(files, "config.json", path), where) else set()
    return {"arch"} if "vocab.json" in files else set()


def save(model: PairClassifier, tokenizer: PairTokenizer, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write config.json, model.safetensors (fp32) and the tokenizer's files; transformers loads the `bert` family's.

    extra: more entries for the `bertnli` section of config.json. Raises RunError if it cannot be written.
    """
    config = model.config
    state = {name: tensor.float().cpu() for name, tensor in model.state_dict().items()}
    content = folder_config(config, tokenizer)
    content["bertnli"] |= extra or {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tensor_files.save(to_foreign(state, config), folder / "model.safetensors")
        tokenizer.save(folder)
        _write_json(folder / "config.json", content)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"model folder {folder}: cannot be written: {error}", do="make room, or choose another"
        ) from None


def folder_config(config: ModelConfig, tokenizer: PairTokenizer) -> dict[str, Any]:
    """config.json of a model folder or a bundle: HF's keys, and ours under `bertnli`."""
    return {
        "architectures": ["BertForSequenceClassification" if config.family == "bert" else "BERTClassifier"],
        "model_type": "bert" if config.family == "bert" else "d2l-bert",
        **{field.alias or ours: getattr(config, ours) for ours, field in _Sizes.model_fields.items()},
        "pad_token_id": tokenizer.pad_id,
        "torch_dtype": "float32",
        "id2label": {str(index): name for index, name in enumerate(config.labels)},
        "label2id": {name: index for index, name in enumerate(config.labels)},
        "bertnli": asdict(tokenizer.settings),
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# --- HF-style folders ------------------------------------------------------------------------------------------------


class _Sizes(BaseModel):
    """ModelConfig's fields in config.json, with the names and defaults of transformers' BertConfig.

    Sizes have no default, because they are facts about the weights: a wrong number of heads would load without error.
    The upper bounds are far above any model, so that a damaged file does not make us build a huge one.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())

    vocab_size: int = Field(gt=0, le=2**24)
    hidden_size: int = Field(gt=0, le=2**16)
    num_layers: int = Field(alias="num_hidden_layers", gt=0, le=2**9)
    num_heads: int = Field(alias="num_attention_heads", gt=0)
    intermediate_size: int = Field(gt=0, le=2**20)
    max_positions: int = Field(alias="max_position_embeddings", gt=4, le=2**20)
    type_vocab_size: int = Field(2, ge=2, le=2**10)
    activation: Literal[tuple(ACTIVATIONS)] = Field("gelu", alias="hidden_act")  # type: ignore[valid-type]
    layer_norm_eps: float = Field(1e-12, gt=0)
    hidden_dropout: float = Field(0.1, alias="hidden_dropout_prob", ge=0, lt=1)
    attention_dropout: float = Field(0.1, alias="attention_probs_dropout_prob", ge=0, lt=1)
    classifier_dropout: float | None = Field(None, ge=0, lt=1)  # None: hidden_dropout
    initializer_range: float | None = Field(0.02, gt=0)


class _FolderConfig(_Sizes):
    """config.json as it is read: the sizes, and keys that must have BERT's values, or the sizes are not enough."""

    model_type: Literal["bert", "d2l-bert"]
    position_embedding_type: Literal["absolute"] = "absolute"
    problem_type: Literal["single_label_classification", None] = None
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False

    def to_ours(self, labels: tuple[str, ...]) -> ModelConfig:
        sizes = {name: getattr(self, name) for name in _Sizes.model_fields}
        if self.classifier_dropout is None:
            sizes["classifier_dropout"] = self.hidden_dropout
        if self.model_type == "d2l-bert":
            return ModelConfig(family="d2l", labels=labels, embedding_norm=False, embedding_dropout=0.0, **sizes)
        return ModelConfig(labels=labels, embedding_dropout=self.hidden_dropout, **sizes)


def _load_folder(
    path: Path,
    files: _Files,
    arch: str | None,
    labels: Sequence[str] | None,
    max_length: int | None,
    truncation: Truncation | None,
    hypothesis_only: bool | None,
) -> Pretrained:
    where = f"{path}/config.json"
    if arch is not None:
        raise InputError(
            f"--arch {arch}", found=f"{where}, which has the sizes", do="remove --arch (in a run file: arch)"
        )
    content = _read_json(files, "config.json", path)
    parsed = _parse_config(content, where)
    index = next((f"{name}.index.json" for name in _HF_WEIGHTS if f"{name}.index.json" in files), None)
    if index is not None and not files.keys() & set(_HF_WEIGHTS):
        raise InputError(
            f"{path}/{index}: weights in several files",
            expected=" or ".join(f"one {name}" for name in _HF_WEIGHTS),
            do="write them as one: model.save_pretrained(folder, max_shard_size='100GB') in transformers",
        )
    weights, tensors, sha256 = _read_weights(files, _HF_WEIGHTS, path)
    family = "bert" if parsed.model_type == "bert" else "d2l"
    if has_classifier(tensors, family):
        names = label_orders.from_config(content, where, labels)
    else:  # without a classifier the labels in config.json mean nothing
        new = label_orders.SNLI_ORDER if family == "bert" else label_orders.D2L_ORDER
        names = label_orders.check_names(labels or new, "--labels")
    config = parsed.to_ours(names)
    state = from_foreign(tensors, config, weights, do="check that the weights belong to this config.json")
    tokenizer = PairTokenizer.from_folder(
        path, max_length=max_length, truncation=truncation, hypothesis_only=hypothesis_only
    )
    return Pretrained(config, state, tokenizer, sha256, temperatures.of_config(content, where))


_UNSUPPORTED = {  # key of config.json: what to do about a value that other models have and ours do not
    "model_type": "bertnli runs only BERT (BertForSequenceClassification); choose a checkpoint of that architecture",
    "position_embedding_type": "choose a checkpoint with BERT's own learned positions",
    "is_decoder": "choose a checkpoint that is an encoder, as BERT is",
    "add_cross_attention": "choose a checkpoint that is an encoder, as BERT is",
    "problem_type": "choose a classifier that gives a pair one of several labels",
}


def _parse_config(content: Any, where: str) -> _FolderConfig:
    try:
        parsed = _FolderConfig.model_validate(content)
    except ValidationError as error:
        # Another architecture has other keys, so a wrong model_type is reported before them.
        problem = min(error.errors(), key=lambda one: one["loc"] != ("model_type",))
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "missing":
            raise InputError(f"{where}: key {key} is missing", expected="the config.json of a BERT model") from None
        raise InputError(
            f"{where}: key {key}" if key else where,
            found=repr(problem["input"])[:80],
            expected=problem["msg"].removeprefix("Input should be ") if key else "a map with the keys of a BERT model",
            do=_UNSUPPORTED.get(key),
        ) from None
    if parsed.hidden_size % parsed.num_heads:
        raise InputError(
            f"{where}: key hidden_size",
            found=str(parsed.hidden_size),
            expected=f"a multiple of num_attention_heads, which is {parsed.num_heads}",
        )
    return parsed


# --- d2l -------------------------------------------------------------------------------------------------------------


def _load_d2l(
    path: Path,
    files: _Files,
    arch: str | None,
    labels: Sequence[str] | None,
    max_length: int | None,
    truncation: Truncation | None,
    hypothesis_only: bool | None,
) -> Pretrained:
    if arch is None:
        raise InputError(
            f"{path}: d2l weights do not contain the number of heads",
            expected="the architecture's name",
            do=f"give --arch (arch: in a run file): {' or '.join(D2L_ARCHITECTURES)}",
        )
    if arch not in D2L_ARCHITECTURES:
        raise InputError("--arch", found=arch, expected=" or ".join(D2L_ARCHITECTURES))
    vocab = _read_json(files, "vocab.json", path)
    if not isinstance(vocab, list):
        raise InputError(f"{path}/vocab.json", found=type(vocab).__name__, expected="a list of words, each at its id")
    weights, tensors, sha256 = _read_weights(files, _D2L_WEIGHTS, path)
    config = D2L_ARCHITECTURES[arch]
    positions = tensors.get("encoder.pos_embedding")
    config = replace(
        config,
        labels=label_orders.check_names(labels or config.labels, "--labels"),
        vocab_size=len(vocab),
        max_positions=positions.shape[1] if positions is not None and positions.dim() == 3 else config.max_positions,
    )
    state = from_foreign(
        tensors, config, weights, do=f"check --arch {arch}, and that vocab.json belongs to the weights"
    )
    tokenizer = PairTokenizer.from_d2l_vocab(
        vocab,
        max_length=max_length or min(DEFAULT_LENGTH, config.max_positions),
        truncation=truncation or "d2l",
        hypothesis_only=bool(hypothesis_only),
        max_positions=config.max_positions,
    )
    return Pretrained(config, state, tokenizer, sha256)


# --- Files -----------------------------------------------------------------------------------------------------------

_Files = dict[str, Callable[[], bytes]]  # a model's files: name -> a function that reads it

# Limits in bytes for an unpacked member of a zip: a small zip can contain a disk full of zeros.
_LARGEST_VOCABULARY = 2**26
_LARGEST_WEIGHTS = 2**32


def _files(path: Path) -> _Files:
    """The files of a folder, or the d2l files in a zip, in any folder inside it (the book's zip has one)."""
    try:
        if path.is_dir():
            return {entry.name: entry.read_bytes for entry in path.iterdir()}
        kind = "a zip" if zipfile.is_zipfile(path) else "a file" if path.exists() else "nothing there"
        members = _members(path) if kind == "a zip" else []
    except Exception as error:  # for a damaged archive zipfile raises errors of many types
        raise InputError(f"model {path}: cannot be read: {error}", expected="a folder or a d2l zip") from None
    if kind != "a zip":
        raise InputError(f"model {path}", found=kind, expected="a folder or a d2l zip")
    files: _Files = {}
    for member in members:
        name = PurePosixPath(member.filename).name
        if name in files:
            raise InputError(f"{path}: several {name}", expected="the files of one model")
        files[name] = partial(_read_member, path, member)
    return files


def _members(archive_path: Path) -> list[zipfile.ZipInfo]:
    """The zip's members that belong to a d2l model; macOS adds others in `__MACOSX`."""
    with zipfile.ZipFile(archive_path) as archive:
        return [
            member
            for member in archive.infolist()
            if PurePosixPath(member.filename).name in ("vocab.json", *_D2L_WEIGHTS)
            and "__MACOSX" not in PurePosixPath(member.filename).parts
        ]


def _read_member(path: Path, member: zipfile.ZipInfo) -> bytes:
    """The unpacked bytes, in memory: no file is written, so the paths in the archive do no harm."""
    where = f"{path}/{member.filename}"
    most = _LARGEST_VOCABULARY if where.endswith(".json") else _LARGEST_WEIGHTS
    if member.file_size > most:
        raise InputError(where, found=f"{member.file_size:,} bytes unpacked", expected=f"{most:,} at most")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(where, found=f"compression method {member.compress_type}", expected="stored or deflated")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            return file.read(member.file_size + 1)  # a limit even if the archive states a wrong size
    except Exception as error:  # as in _files
        raise InputError(f"{where}: cannot be read: {error}", do="fetch it again") from None


def _read(files: _Files, name: str, path: Path) -> bytes:
    try:
        return files[name]()
    except OSError as error:
        raise InputError(f"{path}/{name}: cannot be read: {error.strerror or error}", do="make it readable") from None


def _read_json(files: _Files, name: str, path: Path) -> Any:
    content = _read(files, name, path)
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}/{name}: {error}", expected="a JSON file") from None


def _read_weights(files: _Files, names: Sequence[str], path: Path) -> tuple[str, dict[str, Tensor], str]:
    """Of the first of `names` that exists: its path, its tensors, and the file's SHA-256."""
    name = next((name for name in names if name in files), None)
    if name is None:
        raise InputError(f"{path}: no weights", found=", ".join(sorted(files)[:8]), expected=" or ".join(names))
    content = _read(files, name, path)
    where = f"{path}/{name}"
    return where, tensor_files.parse(content, where), hashlib.sha256(content).hexdigest()
