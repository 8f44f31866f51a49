"""Reads a run file: strict YAML, `--set` on top, and one error that names every mistake in it."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from bertnli.common.encodings import read_text
from bertnli.common.errors import InputError
from bertnli.data.columns import Columns
from bertnli.data.labels import check_names
from bertnli.run import deepspeed_config, deepspeed_file, foreign_keys, strict_yaml
from bertnli.run.config import RunConfig
from bertnli.run.data_config import ColumnsApart, File, LabelNamesApart
from bertnli.run.deepspeed_translation import Translation, clashes, fill, told_lines, translate
from bertnli.run.loss_config import unfit_keys
from bertnli.run.mistakes import Contradiction, refuse
from bertnli.run.overrides import lay_over
from bertnli.run.section import read_exponent

_REQUIRED = ("model", "output", "data", "data.train")
_SECTIONS = ("data", "checkpoint")
_TAG = re.compile("<.*>")  # the name of a form that a key's value can have (data_config.py); not in the file
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")  # pydantic's names for an unknown key
_FILES: tuple[File, ...] = ("train", "eval")
_OWN = "x-"  # begins the keys that hold what the file itself merges: `x-base: &base {…}`, `<<: *base`
_OWN_WORDS = ("truth_value", "no_home", "nul", "label", "form")  # our own errors, of section.py and others
_PLACE = re.compile(r"\.\d+(?=\.|$)")  # in a list: the 1 of `data.train.1.weight`
_NO_MAP = ("model_type", "dataclass_type", "dict_type")


class LoadedRun(NamedTuple):
    """A run file as it was read. deepspeed_file: the file that it names, if it does; its content is in `config`. notes:
    what that content sets. by_ranks: whether global_batch_size follows from the number of ranks."""

    config: RunConfig
    deepspeed_file: str | None = None
    notes: tuple[str, ...] = ()
    by_ranks: bool = False


def load_run(path: str | Path, sets: Sequence[str] = ()) -> RunConfig:
    """The run file at `path` with `--set KEY=VALUE` overrides (overrides.py) laid over it.

    Raises one InputError that lists all that is wrong with the file, its keys and values, and the overrides.
    """
    return read_run(path, sets).config


def read_run(path: str | Path, sets: Sequence[str] = (), ranks: int | None = None) -> LoadedRun:
    """As `load_run`, for a job of `ranks` ranks; None if their number is not known yet."""
    where = f"run file {path}"
    mistakes: list[InputError] = []
    content: dict[str, Any] | None = None
    with _added_to(mistakes):
        content = _read(Path(path), where, mistakes)
    laid_over = {} if content is None else content
    file = _open_deepspeed(laid_over, mistakes)
    for assignment in sets:
        with _added_to(mistakes):
            lay_over(laid_over, assignment, mistakes)
            replaced = assignment.partition("=")[0].strip() == "deepspeed"
            file = _open_deepspeed(laid_over, mistakes) or (None if replaced else file)
    if content is None:
        refuse(mistakes, where)
    return _validated(content or {}, where, mistakes, ranks, file)


def validate_run(content: Mapping[str, Any], where: str) -> RunConfig:
    """A RunConfig from plain Python values; `where` names their origin in the InputError that lists all mistakes."""
    mistakes: list[InputError] = []
    content = dict(content)
    file = _open_deepspeed(content, mistakes)
    return _validated(content, f"run file {where}", mistakes, None, file).config


def _open_deepspeed(content: dict[str, Any], mistakes: list[InputError]) -> str | None:
    """Put the content of a DeepSpeed file where a run file's content names it. Returns the name, if there is one."""
    name = content.get("deepspeed")
    if not isinstance(name, str):
        return None
    content["deepspeed"] = {}
    with _added_to(mistakes):
        content["deepspeed"] = deepspeed_file.read(name)
    return name


@contextmanager
def _added_to(mistakes: list[InputError]) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        mistakes.append(error)


def _read(path: Path, where: str, mistakes: list[InputError]) -> dict[str, Any]:
    if path.exists() and not path.is_dir() and not path.is_file():
        raise InputError(f"{where} is a pipe, but every rank reads it", do="write it to a file first")
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: {error}", expected="a readable YAML file in UTF-8") from None
    content = strict_yaml.read(text, where, mistakes)
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise InputError(where, found=found, expected="a map of keys (model: …, data: …)")
    return {key: value for key, value in content.items() if not str(key).startswith(_OWN)}


def _validated(
    content: Mapping[str, Any], where: str, mistakes: list[InputError], ranks: int | None, file: str | None
) -> LoadedRun:
    """The run of `content`. file: from which its `deepspeed` is. Raises InputError if there are `mistakes` already, or
    if it finds others."""
    wrong: set[str] = set()
    own = _with_text_keys(content)
    found, filled = Translation(), dict[str, Any]()
    if isinstance(own.get("deepspeed"), dict):
        found = translate(read_exponent(own["deepspeed"]), ranks, own.get("zero_stage"))
        filled = fill(own, found.told)
    content = {**own, **filled, **({"deepspeed": found.rest} if isinstance(own.get("deepspeed"), dict) else {})}
    try:
        config = RunConfig.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
        meant = {key for problem in problems if problem["type"] in _UNKNOWN for key in _meant(_key(problem))}
        mistakes += [
            InputError(f"{where}: {_explain(problem, {key: found.told[key].by for key in filled})}")
            for problem in problems
            if problem["type"] != "missing" or not any(f"{key}.".startswith(f"{_key(problem)}.") for key in meant)
        ]
        wrong = {_owner(problem) for problem in problems} | meant
        config = RunConfig.model_validate(_without(content, wrong))
    of_deepspeed = where if file is None else f"{where}: {file}"
    mistakes += [InputError(f"{of_deepspeed}: {error}") for error in found.mistakes]
    for place, contradictions in (
        (where, _contradictions(config)),
        (of_deepspeed, clashes(own, config, found.told)),
        (of_deepspeed, deepspeed_config.contradictions(config)),
    ):
        mistakes += [
            InputError(f"{place}: {contradiction.error}")
            for contradiction in contradictions
            if not wrong.intersection(contradiction.keys)  # it may be gone once that key is right
        ]
    refuse(mistakes, where)
    notes = told_lines(file or "deepspeed", filled, found.unused)
    return LoadedRun(config, file, tuple(notes), found.by_ranks and "global_batch_size" in filled)


def _with_text_keys(given: Any) -> Any:
    """YAML's other keys, such as numbers, as text, so that they are reported as unknown keys. Not those of labels."""
    if isinstance(given, list):
        return [_with_text_keys(one) for one in given]
    if not isinstance(given, Mapping):
        return given
    return {str(key): value if key == "label_names" else _with_text_keys(value) for key, value in given.items()}


def _contradictions(config: RunConfig) -> Iterator[Contradiction]:
    if (config.epochs is None) == (config.max_steps is None):
        yield Contradiction(("epochs", "max_steps"), InputError("give epochs or max_steps, one of them"))
    if config.warmup is not None and config.warmup_steps is not None:
        yield Contradiction(("warmup", "warmup_steps"), InputError("give warmup or warmup_steps, one of them"))
    elif config.max_steps is not None:
        try:
            config.check_warmup(config.max_steps)
        except InputError as error:
            yield Contradiction(("warmup_steps", "max_steps"), error)
    if config.problem_type == "regression" and config.labels is not None:
        clash = InputError("problem_type: regression does not go with labels", do="remove one of the two keys")
        yield Contradiction(("problem_type", "labels"), clash)
    if config.problem_type is not None:
        for key, meant in unfit_keys(config.loss, config.teacher, config.metric_for_best, config.problem_type):
            clash = InputError(
                f"{key} does not go with problem_type: {config.problem_type}",
                do=f"remove it, or set problem_type: {meant}",
            )
            yield Contradiction(("problem_type", "loss", "teacher", "metric_for_best"), clash)
    if config.loss.soft is not None and config.loss.class_weights is not None:
        clash = InputError(
            "loss.class_weights does not go with loss.soft: a pair with soft labels is of several classes",
            do="remove one of the two",
        )
        yield Contradiction(("loss",), clash)
    if config.teacher is not None and config.loss.soft is not None:
        clash = InputError("teacher does not go with loss.soft: both are soft labels", do="remove one of the two")
        yield Contradiction(("loss", "teacher"), clash)
    if config.teacher is not None and config.teacher.mix == 1:
        for key in {"class_weights", "label_smoothing"}.intersection(config.loss.set_keys()):
            do = f"remove loss.{key}, or set teacher.mix below 1"
            clash = InputError(f"loss.{key} has no effect with teacher.mix: 1, which leaves gold labels out", do=do)
            yield Contradiction(("loss", "teacher"), clash)
    if config.metric_for_best is not None and not (config.keep_best or config.early_stopping):
        do = "set one of them, or remove metric_for_best"
        clash = InputError("metric_for_best is for keep_best and early_stopping, and neither is set", do=do)
        yield Contradiction(("metric_for_best", "keep_best", "early_stopping"), clash)
    if config.labels is not None:
        try:
            check_names(config.labels, "labels")
        except InputError as error:
            yield Contradiction((), error)
    if config.compile and config.zero_stage == 3:
        clash = InputError(
            "compile: auto does not go with zero_stage: 3, which replaces a block's weights while it runs",
            do="set zero_stage: 2, or remove compile",
        )
        yield Contradiction(("compile", "zero_stage"), clash)
    for key in ("eval_every_steps", "keep_best", "early_stopping"):
        if getattr(config, key) and config.data.eval is None:
            do = "set data.eval: {holdout: 2000}, or a name or path"
            yield Contradiction(("data", "data.eval"), InputError(f"{key} needs data.eval", do=do))
    for key, given in (("columns", config.data.columns), ("label_names", config.data.label_names)):
        apart = isinstance(given, (ColumnsApart, LabelNamesApart)) and given.eval not in (Columns(), {})
        if apart and not config.data.sources("eval"):
            do = f"set data.eval to a name or path, or give data.{key} without train: and eval:"
            yield Contradiction(("data", "data.eval"), InputError(f"data.{key}.eval needs a file in data.eval", do=do))
    for file in _FILES:
        seen: list[Any] = []
        for source in config.data.sources(file):
            if source.reading in seen:
                do = "give it once" + ", with weight: 2" * (file == "train")
                clash = InputError(f"{source.key}: {source.name} a second time", do=do)
                yield Contradiction(("data", f"data.{file}"), clash)
            seen.append(source.reading)


def _without(content: Mapping[str, Any], wrong: set[str]) -> dict[str, Any]:
    """`content` with the `wrong` keys at their defaults, so that other mistakes can be found as well."""
    right: dict[str, Any] = {"model": "-", "output": "-", "data": {}}  # keys without a default
    for name, value in content.items():
        if name in _SECTIONS and isinstance(value, dict):
            right[name] = {key: inner for key, inner in value.items() if f"{name}.{key}" not in wrong}
        elif name not in wrong:
            right[name] = value
    right["data"].setdefault("train", "-")
    return right


def _path(problem: Any) -> list[str]:
    """The parts of the key that one of pydantic's errors is about."""
    return [str(part) for part in problem["loc"] if not _TAG.fullmatch(str(part))]


def _key(problem: Any) -> str:
    return ".".join(_path(problem))


def _owner(problem: Any) -> str:
    """The key of RunConfig, or of a section of it, that the error is about: `labels` for `labels.1`."""
    path = _path(problem)
    return ".".join(path[: 2 if path[0] in _SECTIONS else 1])


def _nearest(key: str) -> str:
    """The known key that is most like an unknown one; empty if no key is like it. It has the same places in lists."""
    plain = _PLACE.sub("", key)
    others = [known for known in _known_keys(RunConfig) if not plain.startswith(f"{known}.")]
    near = next(iter(difflib.get_close_matches(plain, others, n=1, cutoff=0.5)), "")
    section, _, name = near.rpartition(".")
    above = key.rpartition(".")[0]
    return f"{above}.{name}" if plain != key and section == _PLACE.sub("", above) else near


def _meant(key: str) -> list[str]:
    """The keys that an unknown one may stand for."""
    foreign = _foreign(key)
    return [_nearest(key)] if foreign is None else foreign_keys.keys(foreign)


def _foreign(key: str) -> foreign_keys.Here | None:
    """What serves for an unknown key that another program has; None for others, and for one of ours with a slip."""
    if difflib.get_close_matches(key, _known_keys(RunConfig), n=1, cutoff=0.95):
        return None
    return foreign_keys.find(key.rpartition(".")[2])


def _explain(problem: Any, told_by: Mapping[str, str] = MappingProxyType({})) -> str:
    """One of pydantic's errors as a message for the user. told_by: DeepSpeed's keys that filled the run file's."""
    key = _key(problem)
    if problem["type"] in _UNKNOWN:
        if "." in str(problem["loc"][-1]) and key in _known_keys(RunConfig):
            section, _, name = key.rpartition(".")
            return f"unknown key {key!r}, as its name has a dot; write {section}: {{{name}: …}}"
        if (foreign := _foreign(key)) is not None:
            return f"unknown key {key}; {foreign_keys.advice(foreign, problem['input'])}"
        if _PLACE.search(key) and key.endswith(".holdout"):
            return f"unknown key {key}: rows are held out of all of data.train, so data.eval is {{holdout: N}} alone"
        near = _nearest(key)
        if isinstance(problem["input"], Mapping) and near not in (*_SECTIONS, "deepspeed") and "." not in key:
            return f"unknown key {key}; if it is only there to be merged, call it {_OWN}{key}"
        return f"unknown key {key}" + (f"; did you mean {near}?" if near else "")
    if problem["type"] == "missing":
        return f"key {key} is missing"
    found = "null" if problem["input"] is None else repr(problem["input"])
    name = f"deepspeed.{told_by[_owner(problem)]}" if _owner(problem) in told_by else f"key {key}"
    return f"{name}: found {found if len(found) < 80 else found[:77] + '…'}; {_expected(problem)}"


def _expected(problem: Any) -> str:
    kind, given = problem["type"], problem["input"]
    if given is None and ":" in _path(problem)[-1]:
        return "a key and its value are apart only with a blank after the colon"
    if given is None:
        other = "" if _key(problem) in _REQUIRED else ", or remove the key"
        return "YAML reads ~ and no value as null; write a value" + other
    if _key(problem) == "data.eval" and kind == "string_type":
        return "input should be a name or path, or {holdout: N}"
    if kind in _NO_MAP:
        return "input should be a map of keys" + (", or a path" if _key(problem) == "deepspeed" else "")
    if kind == "tuple_type":
        return "input should be a list: [one, another]"
    if kind == "too_long":
        return f"input should be a list of {problem['ctx']['max_length']}"
    if kind == "string_type" and isinstance(given, (int, float)):
        return "input should be text: put it in quotes"
    if kind == "string_type":
        return "input should be one text" + (", not a list" if isinstance(given, list) else "")
    if kind == "string_too_short":
        return "input should be text that is not empty"
    return str(problem["msg"] if kind in _OWN_WORDS else problem["msg"].lower())


def _known_keys(section: Any, prefix: str = "") -> list[str]:
    """The dotted keys of a section (a pydantic model or a dataclass); [] for any other type."""
    keys = []
    for name, kind in typing.get_type_hints(section).items() if _is_section(section) else ():
        keys.append(prefix + name)
        for member in _members(kind):
            keys += [key for key in _known_keys(member, f"{prefix}{name}.") if key not in keys]
    return keys


def _members(kind: Any) -> Iterator[Any]:
    """The types that a value of this type can have, and those of its values if it is a list."""
    yield kind
    for member in typing.get_args(kind):
        yield from _members(member)


def _is_section(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel))
