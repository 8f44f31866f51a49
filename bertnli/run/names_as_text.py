"""Names of labels and columns in a run file are text as written: YAML reads `yes` as True, `1.0` and `0` as numbers."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

ANY = "*"
"""A place in a list, in a path."""
_OF_DATA = [(), *[(file, *place) for file in ("train", "eval") for place in ((), (ANY,))]]
_PLACES = (
    ("labels",),
    ("loss", "class_weights"),
    ("loss", "pos_weight"),
    *[("data", *part, name) for part in _OF_DATA for name in ("label_names", "columns")],
)
_TAG = "tag:yaml.org,2002:"
_NO_TEXT = {_TAG + name for name in ("bool", "int", "float", "timestamp")}


def keep_names_as_text(node: yaml.Node | None, path: Sequence[str] = ()) -> None:
    """Make the names below `node` text, keys and values alike, before YAML gives them values.

    path: the run file's key that has the node, with ANY for a place in a list; () for the whole file.
    """
    if any(tuple(path[: len(place)]) == place for place in _PLACES):
        _as_text(node)
    elif isinstance(node, yaml.MappingNode) and any(place[: len(path)] == tuple(path) for place in _PLACES):
        for key, value in node.value:
            if key.tag == _TAG + "merge":  # `<<`: the keys of other maps
                for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    keep_names_as_text(one, path)
            elif isinstance(key, yaml.ScalarNode):
                keep_names_as_text(value, [*path, key.value])
    elif isinstance(node, yaml.SequenceNode) and any(place[: len(path)] == tuple(path) for place in _PLACES):
        for each in node.value:
            keep_names_as_text(each, [*path, ANY])


def _as_text(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.ScalarNode) and node.tag in _NO_TEXT:
        node.tag = _TAG + "str"
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _as_text(each)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _as_text(key)
            _as_text(value)
