"""Reads models from files and writes them: folders in HF's form, and the d2l book's folders and zips."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from bertnli.common import temperature as temperatures
from bertnli.common.errors import InputError, RunError
from bertnli.data import labels as label_orders
from bertnli.data import output_config
from bertnli.data.outputs import Outputs, ProblemType
from bertnli.data.tokenizer import DEFAULT_LENGTH, PairTokenizer
from bertnli.families import folder_config
from bertnli.families.config import ModelConfig
from bertnli.families.d2l import D2L_ARCHITECTURES
from bertnli.fetch import known_folders
from bertnli.fetch.cache import commit_of
from bertnli.model import keymaps, tensor_files, weight_files
from bertnli.model.classifier import PairClassifier
from bertnli.model.keymaps import from_foreign, to_foreign
from bertnli.model.model_files import Files, open_files, read_json


@dataclass(frozen=True)
class Pretrained:
    """A model as it is in a file or folder.

    state: our parameter names to fp32 tensors; a head that is not in the file is missing.
    sha256: of the weights file; what is made from the model records it.
    notes: how the files were read, where a user may have meant something else; for the user to see.
    temperature: the logits are divided by it before the softmax or sigmoid (calibrate.py). It belongs to these
    weights, not to a model that is trained from them.
    revision: the commit on the model hub that the weights are from, if they were fetched from there.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    tokenizer: PairTokenizer
    sha256: str
    temperature: float = 1.0
    notes: tuple[str, ...] = ()
    revision: str | None = None

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
    new_classifier: bool = False,
    problem_type: ProblemType | None = None,
    max_length: int | None = None,
    truncation: str | None = None,
    hypothesis_only: bool | None = None,
) -> Pretrained:
    """The model at `path`: an HF folder, a folder `bertnli train` left, or a d2l folder or zip.

    arch: `bert.small` or `bert.base`, for d2l weights. labels: names in the order of the model's outputs, if its files
    have none or placeholders. new_classifier: `labels` of another number take the place of the model's classifier, as a
    start for training. problem_type: a classifier with another meaning is left out, for the same reason. max_length,
    truncation, hypothesis_only: default: the model's own. Raises InputError for anything missing, damaged, unsafe (a
    pickle that would run code), not finite or of another architecture.
    """
    files = open_files(path)
    if path.is_dir():
        known_folders.check(path)
    settings = {"max_length": max_length, "truncation": truncation, "hypothesis_only": hypothesis_only}
    if "config.json" in files:
        if arch is not None:
            found = f"{path}/config.json, which has the sizes"
            raise InputError(f"--arch {arch}", found=found, do="remove --arch (in a run file: arch)")
        return _load_hf(path, files, labels, new_classifier, problem_type, settings)
    if "vocab.json" in files:
        return _load_d2l(path, files, arch, labels, new_classifier, problem_type, settings)
    raise InputError(
        f"{path}: not a model",
        found=", ".join(sorted(files)[:8]) or "nothing that belongs to one",
        expected="config.json with model.safetensors (HF), or vocab.json with pretrained.params (d2l)",
    )


def missing_options(path: Path) -> set[str]:
    """Which of `load`'s `arch` and `labels` the files at `path` do not specify.

    d2l weights as the book has them do not contain the number of heads; many classifiers' labels are LABEL_0, ….
    """
    files = open_files(path)
    if "config.json" in files:
        where = f"{path}/config.json"
        content = read_json(files, "config.json", path)
        if isinstance(content, dict) and output_config.count(content, where) == 1:  # a score has no labels
            return set()
        return {"labels"} if label_orders.unnamed(content, where) else set()
    return {"arch"} if "vocab.json" in files else set()


def save(model: PairClassifier, tokenizer: PairTokenizer, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write config.json, model.safetensors (fp32) and the tokenizer's files; transformers loads all but d2l's.

    extra: more entries for the `bertnli` section of config.json. Raises RunError if it cannot be written.
    """
    config = model.config
    state = {name: tensor.float().cpu() for name, tensor in model.state_dict().items()}
    content = folder_config.folder_config(config, tokenizer)
    content["bertnli"] |= extra or {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tensor_files.save(to_foreign(state, config), folder / "model.safetensors")
        tokenizer.save(folder)
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"model folder {folder}: cannot be written: {error}", do="make room, or choose another"
        ) from None


def _load_hf(
    path: Path,
    files: Files,
    labels: Sequence[str] | None,
    new_classifier: bool,
    problem_type: ProblemType | None,
    settings: Mapping[str, Any],
) -> Pretrained:
    where = f"{path}/config.json"
    content = read_json(files, "config.json", path)
    parsed = folder_config.parse(content, where)
    tokenizer = PairTokenizer.from_folder(path, **settings)  # before the weights, which are large
    weights = weight_files.read_hf(files, path)
    family = parsed.family
    tensors = keymaps.plain_names(weights.tensors)
    count = keymaps.outputs(tensors, family)
    others = {name: read_json(files, name, path) for name in output_config.OTHER_FILES if name in files}

    def own() -> output_config.Meaning:
        return output_config.meaning(content, count or output_config.count(content, where), where, others, str(path))

    replaced = _replaced(count, labels if new_classifier else None, problem_type, lambda: own().problem_type)
    tensors = keymaps.without_classifier(tensors, family) if replaced else tensors
    notes = [*weights.notes, *replaced]
    if keymaps.has_classifier(tensors, family):
        outputs, remarks = output_config.read(content, where, others, str(path), labels=labels, outputs=count)
        notes += remarks
        if settings["max_length"] is None:
            notes += output_config.length_note(others, str(path), tokenizer.max_length)
    else:  # without a classifier the labels in config.json mean nothing
        new = label_orders.D2L_ORDER if family == "d2l" else label_orders.SNLI_ORDER
        outputs = Outputs(label_orders.check_names(labels or new, "--labels"))
        if replaced and labels and own().problem_type == "multi_label_classification":
            # As the model's own classifier; problem_type may say otherwise.
            outputs = Outputs(outputs.names, "multi_label_classification", "sigmoid")
    config = parsed.to_ours(outputs)
    state = from_foreign(tensors, config, weights.where, do="check that the weights belong to this config.json")
    has_meaning = outputs.activation != "identity"
    temperature = 1.0 if replaced else temperatures.of_config(content, where, has_meaning=has_meaning)
    revision = commit_of(path, weights.sha256)
    return Pretrained(config, state, tokenizer, weights.sha256, temperature, (*notes, *tokenizer.notes), revision)


def _load_d2l(
    path: Path,
    files: Files,
    arch: str | None,
    labels: Sequence[str] | None,
    new_classifier: bool,
    problem_type: ProblemType | None,
    settings: Mapping[str, Any],
) -> Pretrained:
    if arch is None:
        raise InputError(
            f"{path}: d2l weights do not contain the number of heads",
            expected="the architecture's name",
            do=f"give --arch (arch: in a run file): {' or '.join(D2L_ARCHITECTURES)}",
        )
    if arch not in D2L_ARCHITECTURES:
        raise InputError("--arch", found=arch, expected=" or ".join(D2L_ARCHITECTURES))
    vocab = read_json(files, "vocab.json", path)
    if not isinstance(vocab, list):
        raise InputError(f"{path}/vocab.json", found=type(vocab).__name__, expected="a list of words, each at its id")
    weights = weight_files.read_d2l(files, path)
    tensors = keymaps.plain_names(weights.tensors)
    count = keymaps.outputs(tensors, "d2l")
    new_labels = labels if new_classifier else None
    replaced = _replaced(count, new_labels, problem_type, lambda: "single_label_classification")
    tensors = keymaps.without_classifier(tensors, "d2l") if replaced else tensors
    config = D2L_ARCHITECTURES[arch]
    positions = tensors.get("encoder.pos_embedding")
    config = replace(
        config,
        labels=label_orders.check_names(labels or config.labels, "--labels"),
        vocab_size=len(vocab),
        max_positions=positions.shape[1] if positions is not None and positions.dim() == 3 else config.max_positions,
    )
    state = from_foreign(
        tensors, config, weights.where, do=f"check --arch {arch}, and that vocab.json belongs to the weights"
    )
    tokenizer = PairTokenizer.from_d2l_vocab(
        vocab,
        max_length=settings["max_length"] or min(DEFAULT_LENGTH, config.max_positions),
        truncation=settings["truncation"] or "d2l",
        hypothesis_only=bool(settings["hypothesis_only"]),
        max_positions=config.max_positions,
    )
    return Pretrained(config, state, tokenizer, weights.sha256, notes=replaced)


def _replaced(
    count: int | None,
    new_labels: Sequence[str] | None,
    wanted: ProblemType | None,
    own: Callable[[], ProblemType],
) -> tuple[str, ...]:
    """A note if the model's own classifier is left out.

    It is if it is not for the problem type `wanted` (None: any) but for `own`, or if its `count` outputs are not as
    many as the new labels.
    """
    if count is None:
        return ()
    if wanted is not None and (found := own()) != wanted:
        return (f"the model's classifier is for problem_type: {found}, and not {wanted}: it is left out",)
    if new_labels is None or count == len(new_labels):
        return ()
    number = "1 output" if count == 1 else f"{count} outputs"
    return (f"the model's classifier has {number}: a new one takes its place, for {', '.join(new_labels)}",)
