"""`--set KEY=VALUE`: a value laid over a run file's content. A number in KEY is a place in a list, from 0."""

from __future__ import annotations

from typing import Any

from bertnli.common.errors import InputError
from bertnli.common.printable import shortened
from bertnli.run import strict_yaml
from bertnli.run.data_source import TrainingSet
from bertnli.run.loss_config import loss_in_short, teacher_in_short
from bertnli.run.names_as_text import ANY

_SHORT = {"loss": loss_in_short, "teacher": teacher_in_short}  # keys whose text is short for a map
_OF_A_SET = TrainingSet.model_fields.keys() - {"path", "name"}
_NAMED_BY_USERS = {"label_names", "class_weights", "pos_weight"}  # maps whose keys may be numbers


def lay_over(content: dict[str, Any], assignment: str, mistakes: list[InputError]) -> None:
    """Put the value of `KEY=VALUE` into `content`, a run file's. VALUE is YAML; what is not meant in it is added to
    `mistakes`. A map that is not there yet is made, and a text in its place goes, unless it is short for a map.

    Raises InputError for another form, for a VALUE that cannot be read, and for a KEY that does not fit the lists and
    the names in `content`.
    """
    key, equals, text = assignment.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise InputError("--set", found=repr(assignment), expected="KEY=VALUE, such as data.max_train_pairs=8000")
    place: dict[str, Any] | list[Any] = content
    places: list[str] = []  # as `path`, with ANY for a place in a list
    for depth, name in enumerate(path):
        at: Any = _place_in(place, path, depth) if isinstance(place, list) else name
        places.append(ANY if isinstance(place, list) else name)
        if depth == len(path) - 1:
            place[at] = strict_yaml.read(text, f"--set {key}", mistakes, places)
            return
        below = place[at] if isinstance(place, list) else place.get(at)
        if not isinstance(below, list):
            _check_no_list(below, path, depth)
        if not isinstance(below, (dict, list)):
            below = place[at] = _as_map(below, path, depth)
        place = below


def _number(part: str) -> int | None:
    return int(part) if part.isascii() and part.isdigit() else None


def _place_in(place: list[Any], path: list[str], depth: int) -> int:
    """The place in a list that the part `depth` of `path` names."""
    number, above = _number(path[depth]), ".".join(path[:depth])
    if number is None or number >= len(place):
        expected = f"a place from 0 to {len(place) - 1} in it, such as {above}.0" if place else None
        found = f"{above}, a list of {len(place)}" if place else f"{above}, an empty list"
        do = f"to change its length, set all of {above}"
        raise InputError(f"--set {'.'.join(path)}", found=found, expected=expected, do=do)
    return number


def _check_no_list(value: Any, path: list[str], depth: int) -> None:
    """Raise if `value`, which is no list and which the key path[: depth + 1] has, is to have a numbered place."""
    key = ".".join(path[: depth + 1])
    if _number(path[depth + 1]) is None or _NAMED_BY_USERS.intersection(path[: depth + 1]):
        return
    if isinstance(value, dict):
        found = f"{key}, a map with {', '.join(map(str, value)) or 'nothing in it'}"
        raise InputError(f"--set {'.'.join(path)}", found=found, expected="a list, as only its places have numbers")
    found = f"no list {key} in the run file" if value is None else f"{key}: {shortened(str(value), 60)}"
    raise InputError(f"--set {'.'.join(path)}", found=found, expected="a list", do=f"give all of it: --set {key}=…")


def _as_map(value: Any, path: list[str], depth: int) -> dict[str, Any]:
    """The map that takes the place of `value`, which is none, and which the key path[: depth + 1] has."""
    key, inner = ".".join(path[: depth + 1]), path[depth + 1]
    if isinstance(value, str) and key in _SHORT:
        return dict(_SHORT[key](value))
    of_data = path[0] == "data" and path[1:2] in (["train"], ["eval"]) and depth in (1, 2)
    if isinstance(value, str) and of_data and inner in _OF_A_SET:  # its text would be lost
        given = shortened(value, 60)
        raise InputError(
            f"--set {'.'.join(path)}",
            found=f"{key}: {given}, a text without keys",
            do=f"give all of it: --set '{key}={{path: {given}, {inner}: …}}', or with name: in place of path:",
        )
    return {}
