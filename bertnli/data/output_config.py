"""The outputs in a model's config.json, which transformers and sentence-transformers' CrossEncoder read.

Where the two read it differently, it is read so that the numbers are CrossEncoder's, and a note or an error says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from bertnli.common.errors import InputError
from bertnli.data import labels as label_orders
from bertnli.data.outputs import SCORE, Activation, Outputs, ProblemType

SECTION, KEY, OLD_KEY = "sentence_transformers", "activation_fn", "sbert_ce_default_activation_function"
"""Where sentence-transformers writes the activation into config.json, from version 4 on and before."""

MODULES, SETTINGS, LENGTH = OTHER_FILES = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
"""The other files of a CrossEncoder's folder, from version 6 on."""

_CLASS = re.compile(r"torch\.nn(?:\.modules\.\w+)?\.(Identity|Sigmoid|Softmax)")
_PATHS: dict[Activation, str] = {
    "identity": "torch.nn.modules.linear.Identity",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}


class Meaning(NamedTuple):
    """What the outputs mean. notes: for the user, where they may be meant otherwise."""

    problem_type: ProblemType
    activation: Activation
    notes: tuple[str, ...] = ()


def meaning(
    config: Mapping[str, Any], count: int, where: str, files: Mapping[str, Any] | None = None, folder: str = ""
) -> Meaning:
    """What the `count` outputs of a classifier mean.

    config: the content of `where`. files: the contents of MODULES and SETTINGS in `folder`, of those that there are.
    Raises InputError for an activation or a problem type that is not known, and for two that contradict each other.
    """
    problem = config.get("problem_type")
    if problem is not None and problem not in get_args(ProblemType):
        expected = f"{', '.join(get_args(ProblemType))} or null"
        raise InputError(f"{where}: key problem_type", found=repr(problem)[:80], expected=expected)
    place, name = _activation(config, where, files or {}, folder)
    if count == 1:
        return _of_one(problem, place, name, where)
    return _of_several(problem, place, name, count, where)


def count(config: Mapping[str, Any], where: str) -> int:
    """How many outputs a classifier with this config.json has in transformers. Raises InputError if it does not say."""
    names, number = config.get("id2label"), config.get("num_labels")
    if isinstance(names, Mapping):
        return len(names)
    if number is None:
        return 2
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(f"{where}: key num_labels", found=repr(number)[:80], expected="a number of labels")
    return number


def read(
    config: Mapping[str, Any],
    where: str,
    files: Mapping[str, Any],
    folder: str,
    *,
    labels: Sequence[str] | None = None,
    outputs: int | None = None,
) -> tuple[Outputs, tuple[str, ...]]:
    """The outputs of a classifier, and notes of how that was read.

    config, where, files, folder: as for `meaning`. labels: names that the user gave. outputs: how many its weights
    have, if they are known. Raises InputError as `meaning` and `labels.from_config` do.
    """
    number = outputs or count(config, where)
    problem_type, activation, notes = meaning(config, number, where, files, folder)
    if problem_type == "regression":
        return Outputs(check_score(config, where, labels), problem_type, activation), notes
    names = label_orders.from_config(config, where, labels, number)
    return Outputs(names, problem_type, activation), (*notes, *label_orders.other_order(config, names, where))


def length_note(files: Mapping[str, Any], folder: str, max_length: int) -> tuple[str, ...]:
    """A note if CrossEncoder reads another number of tokens of a pair than `max_length`, which is transformers'."""
    content = files.get(LENGTH)
    length = content.get("max_seq_length") if isinstance(content, Mapping) and _is_cross_encoders(files) else None
    if not isinstance(length, int) or length == max_length:
        return ()
    return (f"{folder}/{LENGTH}: CrossEncoder reads up to {length} tokens of a pair; so does --max-length {length}",)


def lacks_names(config: Mapping[str, Any], where: str) -> bool:
    """Whether the user has to name the outputs (--labels). Raises InputError for a damaged `id2label`."""
    return count(config, where) > 1 and label_orders.unnamed(config, where)


def check_score(config: Mapping[str, Any], where: str, labels: Sequence[str] | None) -> tuple[str]:
    """The name of the output of a model that has one. Raises InputError if `labels` (--labels) are given, and if
    id2label has more names."""
    if labels is not None:
        raise InputError(
            "--labels",
            found=",".join(labels),
            expected="none: the model has one output, a score",
            do="omit --labels (in a run file: labels)",
        )
    names = config.get("id2label")
    if isinstance(names, Mapping) and len(names) != 1:
        raise InputError(
            f"{where}: key id2label",
            found=", ".join(map(str, names.values()))[:80],
            expected="one name, as the classifier has one output",
            do="check that the weights belong to this config.json",
        )
    return (SCORE,)


def entries(outputs: Outputs) -> dict[str, Any]:
    """The keys of config.json with which transformers' pipeline and CrossEncoder give what we give.

    Of one of several labels they do so without a key: the pipeline gives probabilities, CrossEncoder the logits.
    """
    names: Sequence[str] = outputs.names
    found: dict[str, Any] = {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }
    if outputs.problem_type == "single_label_classification":
        return found
    # With `regression` in its config, a pipeline would not take a score's sigmoid.
    if (outputs.problem_type, outputs.activation) != ("regression", "sigmoid"):
        found["problem_type"] = outputs.problem_type
    return found | {SECTION: {KEY: _PATHS[outputs.activation]}}


def _of_one(problem: str | None, place: str, name: str | None, where: str) -> Meaning:
    if name == "Softmax":
        raise InputError(
            place,
            found="Softmax, which is always 1 for one output",
            expected="Sigmoid or Identity",
            do="write there which of these two the model was trained with",
        )
    if name is not None:
        return Meaning("regression", "identity" if name == "Identity" else "sigmoid")
    if problem != "regression":
        return Meaning("regression", "sigmoid")
    note = f"{where}: problem_type is regression, so the score is the model's output as it is, as in transformers"
    return Meaning("regression", "identity", (f"{note}. CrossEncoder takes its sigmoid",))


def _of_several(problem: str | None, place: str, name: str | None, count: int, where: str) -> Meaning:
    if problem == "regression":
        raise InputError(
            f"{where}: key problem_type",
            found=f"regression, with {count} outputs",
            expected="one output, or labels",
            do="choose a model with one output, or with labels",
        )
    meant = {"Sigmoid": "multi_label_classification", "Softmax": "single_label_classification"}.get(name or "")
    if problem is not None and meant not in (None, problem):
        raise InputError(
            place,
            found=f"{name}, and problem_type {problem}",
            expected="two that belong together",
            do=f"remove the wrong one of the two keys: {name} means {meant}",
        )
    if meant == "multi_label_classification" or problem == "multi_label_classification":
        note = ""
        if problem is None:
            note = f"{place}: Sigmoid, so the {count} labels are taken as independent of each other"
        elif name == "Identity":
            note = f"{where}: the labels are independent, so their probabilities are sigmoids, as in transformers. "
            note += "CrossEncoder gives the logits"
        return Meaning("multi_label_classification", "sigmoid", (note,) if note else ())
    return Meaning("single_label_classification", "softmax")


def _activation(config: Mapping[str, Any], where: str, files: Mapping[str, Any], folder: str) -> tuple[str, str | None]:
    """Where CrossEncoder finds the activation, and the name of its class; None if it takes its default."""
    if _is_cross_encoders(files):
        settings = files[SETTINGS]
        _check_modules(files[MODULES], f"{folder}/{MODULES}")
        _check_prompt(settings, f"{folder}/{SETTINGS}")
        if settings.get(KEY) is not None:
            place = f"{folder}/{SETTINGS}: key {KEY}"
            return place, _known(settings[KEY], place)
    section = config.get(SECTION)
    if isinstance(section, Mapping) and KEY in section:
        place, path = f"{where}: key {SECTION}.{KEY}", section[KEY]
    else:
        place, path = f"{where}: key {OLD_KEY}", config.get(OLD_KEY)
    return place, None if path is None else _known(path, place)


def _is_cross_encoders(files: Mapping[str, Any]) -> bool:
    settings = files.get(SETTINGS)
    return MODULES in files and isinstance(settings, Mapping) and settings.get("model_type") == "CrossEncoder"


def _known(path: object, place: str) -> str:
    found = _CLASS.fullmatch(path) if isinstance(path, str) else None
    if found is None:
        raise InputError(
            place,
            found=repr(path)[:120],
            expected="torch.nn's Identity, Sigmoid or Softmax",
            do="choose another model, or one of these three, if it is what the model was trained with",
        )
    return found[1]


def _check_modules(modules: object, where: str) -> None:
    """Raise InputError if a CrossEncoder is more than a transformer with a classifier."""
    entries = modules if isinstance(modules, list) else [modules]
    kinds = [str(entry.get("type")) if isinstance(entry, Mapping) else repr(entry)[:40] for entry in entries]
    if len(kinds) != 1 or not kinds[0].endswith(".Transformer"):
        raise InputError(
            where,
            found=", ".join(kinds)[:200],
            expected="a Transformer alone",
            do="choose a model whose classifier belongs to its transformer",
        )


def _check_prompt(settings: Mapping[str, Any], where: str) -> None:
    """Raise InputError if CrossEncoder puts a text before the pairs."""
    prompts, name = settings.get("prompts"), settings.get("default_prompt_name")
    if name is not None and isinstance(prompts, Mapping) and prompts.get(name):
        raise InputError(
            f"{where}: key default_prompt_name",
            found=f"{name!r}, a prompt that CrossEncoder adds to each pair: {prompts[name]!r}"[:160],
            do="choose a model without a prompt",
        )
