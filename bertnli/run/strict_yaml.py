"""YAML as a run file has it. What PyYAML accepts in silence and nobody means is a mistake, with its line.

Merge keys (`<<: *anchor`) are taken as YAML 1.1 defines them: a key of the map itself comes before a merged one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from bertnli.common.errors import InputError
from bertnli.run.names_as_text import keep_names_as_text

_SCALARS = tuple(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))
_MERGE, _NUMBERS = "tag:yaml.org,2002:merge", ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# YAML 1.1 reads 010 as 8 and 5:30 as 330.
_MAX_NODES = 100_000  # aliases in aliases can make a short text endless
_SURPRISING = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-9.]+)+)")


class _Loader(yaml.SafeLoader):
    """Maps, lists and scalars alone. A date stays text; a set, whose order is random, is refused as an unknown tag."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as PyYAML declares it
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (*_SCALARS, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", None)
    }


def read(text: str, where: str, mistakes: list[InputError], path: Sequence[str] = ()) -> Any:
    """The content of `text`, as `parse` has it. What can be read and is not meant, such as a key given twice, is added
    to `mistakes`. Raises InputError for what cannot be read; `where` begins each message."""
    try:
        content, found = parse(text, path)
    # PyYAML does not catch all of its own errors: odd integers (ValueError), deep nesting, odd keys, `!!bool maybe`.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, RecursionError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: not a YAML file that can be read: {reason}", do="fix it there") from None
    mistakes += [InputError(f"{where}: {mistake}") for mistake in found]
    return content


def parse(text: str, path: Sequence[str] = ()) -> tuple[Any, list[str]]:
    """The content of a YAML document, and the mistakes in it, each with what to do. Of a key given twice the first one
    counts. Each alias is a copy, so that `--set` changes one place alone. path: the run file's key that has this
    content; () for a whole run file.

    Raises yaml.YAMLError, or one of the errors that PyYAML lets through, for text that cannot be read at all.
    """
    loader = _Loader(text)
    document = loader.get_single_node()
    if document is None:
        return None, []
    if _size(document, {}) > _MAX_NODES:
        raise yaml.YAMLError(f"with its aliases it has more than {_MAX_NODES:,} values")
    keep_names_as_text(document, path)
    mistakes: list[str] = []
    _check(loader, document, mistakes, checked=set())
    return _copied(loader.construct_document(document)), mistakes


def _copied(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _copied(value) for key, value in content.items()}
    return [_copied(value) for value in content] if isinstance(content, list) else content


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of nodes in this one, each alias counted as what it stands for. sizes: those found before, by id."""
    if id(node) not in sizes:
        sizes[id(node)] = 0  # while it is counted
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = (each for part in parts for each in (part if isinstance(part, tuple) else (part,)))
        sizes[id(node)] = 1 + sum(_size(each, sizes) for each in inner)
    elif sizes[id(node)] == 0:
        raise yaml.YAMLError(f"line {_line(node)}: an alias inside its own anchor")
    return sizes[id(node)]


def _check(loader: _Loader, node: yaml.Node, mistakes: list[str], checked: set[int]) -> None:
    """Add the mistakes in a node and below it. Before construction: merging changes the nodes.

    checked: the nodes that were seen before, by id, as an alias is the same node.
    """
    if id(node) in checked:
        return
    checked.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMBERS and node.style is None and _SURPRISING.fullmatch(node.value):
            read = loader.construct_object(node)
            other = "in quotes if it is text" if ":" in node.value else "without the 0 in front"
            do = f"write {read}, or write it {other}"
            mistakes.append(f"line {_line(node)}: YAML reads {node.value} as {read}; {do}")
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check(loader, item, mistakes, checked)
    elif isinstance(node, yaml.MappingNode):
        node.value = _without_doubled(loader, node, mistakes)
        for key, value in node.value:
            _check(loader, key, mistakes, checked)
            _check(loader, value, mistakes, checked)


def _without_doubled(loader: _Loader, node: yaml.MappingNode, mistakes: list[str]) -> list[tuple[yaml.Node, yaml.Node]]:
    first: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.YAMLError(f"line {_line(key_node)}: a list or map as a key")
        merges = key_node.tag == _MERGE
        key = (_MERGE,) if merges else loader.construct_object(key_node)
        if key in first:
            do = "merge several maps with <<: [*one, *other]" if merges else "remove one of the two"
            mistakes.append(f"line {_line(key_node)}: the key {'<<' if merges else repr(key)} a second time; {do}")
        first.setdefault(key, (key_node, value_node))
    return list(first.values())


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
