"""Reads a run file: strict YAML, `--set` on top, and errors that name the file, the key and the nearest known key."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from bertnli.common.errors import InputError
from bertnli.run.config import RunConfig


class _StrictLoader(yaml.SafeLoader):
    """YAML's own rule, which PyYAML does not enforce: a key stands once in a map."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict)) or key in seen:
                line = key_node.start_mark.line + 1
                what = "a list or map as a key" if isinstance(key, (list, dict)) else f"the key {key!r} a second time"
                raise yaml.YAMLError(f"line {line}: {what}")
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_run(path: str | Path, sets: Sequence[str] = ()) -> RunConfig:
    """The run file at `path` with `--set KEY=VALUE` overrides (dotted keys, YAML values) laid over it.

    Raises InputError for anything wrong with the file, a key, a value or an override.
    """
    where = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"run file {where}: {error}", expected="a readable YAML file in UTF-8") from None
    content = _parse(text, where)
    if not isinstance(content, dict):
        raise InputError(
            f"run file {where}", found=type(content).__name__, expected="a map of keys (model: …, data: …)"
        )
    for assignment in sets:
        _override(content, assignment)
    return validate_run(content, where)


def validate_run(content: Mapping[str, Any], where: str) -> RunConfig:
    """A RunConfig from plain Python values; `where` names their origin in an InputError."""
    try:
        return RunConfig.model_validate(dict(content))
    except ValidationError as error:
        raise InputError(f"run file {where}: " + "; ".join(_explain(problem) for problem in error.errors())) from None


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    # PyYAML lets through what it trips over: odd timestamps and integers (ValueError), deep nesting, unhashable keys.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: not a YAML file that can be read: {reason}", do="mend it there") from None


def _override(content: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise InputError("--set", found=repr(assignment), expected="KEY=VALUE, such as data.max_train_pairs=8000")
    *parents, last = key.strip().split(".")
    section: dict[str, Any] = content
    for parent in parents:
        below = section.get(parent)
        if not isinstance(below, dict):
            below = section[parent] = {}
        section = below
    section[last] = _parse(text, f"--set {key}")


def _explain(problem: Any) -> str:
    """One of pydantic's complaints, in this project's words."""
    path = [str(part) for part in problem["loc"]]
    # pydantic names the member of a union it tried (`data.eval.Holdout.holdout`); a person has written no such key.
    key = ".".join(part for part in path if part not in ("str", "Holdout"))
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _known_keys(RunConfig), n=1, cutoff=0.5)
        return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else "")
    if problem["type"] == "missing":
        return f"key {key} is missing"
    if problem["type"] == "value_error":
        return f"{key + ': ' if key else ''}{problem['ctx']['error']}"
    found = repr(problem["input"])
    return f"key {key}: found {found if len(found) < 80 else found[:77] + '…'}; {problem['msg'].lower()}"


def _known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        members = typing.get_args(field.annotation) if isinstance(field.annotation, types.UnionType) else ()
        for member in (field.annotation, *members):
            if isinstance(member, type) and issubclass(member, BaseModel):
                keys += _known_keys(member, f"{prefix}{name}.")
    return keys
