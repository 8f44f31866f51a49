"""Fetches the rows of a data set on the model hub: the Parquet files of one split, as one file.

Where they are is what the data set's card says under `configs`, if these are Parquet files. Otherwise they are on the
branch on which the hub keeps every public data set as Parquet, `refs/convert/parquet`, as CONFIG/SPLIT/0000.parquet.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bertnli.common.errors import first_line
from bertnli.common.progress import megabytes, say
from bertnli.data.class_names import column_of_other_classes
from bertnli.data.columns import listed
from bertnli.fetch.entry import HubAnswerError, HubDataSet
from bertnli.fetch.hub_repository import Repository, repository

_CONVERTED = "refs/convert/parquet"
_FORMS = "hf:org/name:split or hf:org/name:config:split"

Splits = Mapping[str, Mapping[str, list[str]]]
"""Config -> split -> its Parquet files, in the order of their rows."""


def download_rows(source: HubDataSet, target: Path) -> str:
    """Download the rows of a split into the Parquet file `target`. Returns the commit that they are from.

    Raises HubAnswerError for a config or a split that the data set does not have, other SourceErrors if the hub does
    not give the files, OSError if they cannot be written.
    """
    found = repository(source)
    splits = _on_card(found)
    if not splits and source.revision is None:
        with suppress(HubAnswerError):  # no such branch
            converted = repository(replace(source, revision=_CONVERTED))
            splits, found = _converted(converted.files), replace(converted, card=found.card)
    if not splits:
        raise HubAnswerError("no Parquet files that its card names", "download the file, and give its path")
    names = _of_split(source, splits, _default(found))
    size = found.size(names)
    files = f"{len(names)} Parquet file{'s' * (len(names) > 1)}{f', {megabytes(size)}' if size else ''}"
    say(f"{source.name}: fetching {files}, from the model hub")
    with tempfile.TemporaryDirectory(dir=target.parent) as parts:
        found.get(names, Path(parts))
        _join([Path(parts, name) for name in names], target)
    return found.commit


def _on_card(found: Repository) -> Splits:
    """By the `configs` of the card's front matter; {} if it has none, or other files than Parquet."""
    splits: dict[str, dict[str, list[str]]] = {}
    for config in _configs(found):
        given = config.get("data_files")
        listed = given if isinstance(given, list) else [{"split": "train", "path": given}]
        of_config = splits.setdefault(str(config.get("config_name", "default")), {})
        for one in listed:
            if isinstance(one, dict) and one.get("path") is not None:
                paths = one["path"] if isinstance(one["path"], list) else [one["path"]]
                of_config[str(one.get("split", "train"))] = _matching(found.files, map(str, paths))
    names = [name for config in splits.values() for paths in config.values() for name in paths]
    return splits if names and all(name.endswith(".parquet") for name in names) else {}


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The names that the patterns mean, in the order of the patterns, and by name within one."""
    names = sorted(names)
    return list(dict.fromkeys(name for pattern in patterns for name in names if fnmatchcase(name, pattern)))


def _converted(names: Iterable[str]) -> Splits:
    """By the names of the branch with Parquet. A split of which it has the beginning alone is not there."""
    splits: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names):
        if matched := re.fullmatch(r"([^/]+)/(?!partial-)([^/]+)/\d+\.parquet", name):
            splits.setdefault(matched[1], {}).setdefault(matched[2], []).append(name)
    return splits


def _default(found: Repository) -> str | None:
    """The config that the card calls the default one."""
    marked = [one for one in _configs(found) if one.get("default")]
    return str(marked[0].get("config_name")) if marked else None


def _configs(found: Repository) -> list[dict[str, Any]]:
    configs = found.card.get("configs")
    return [one for one in configs if isinstance(one, dict)] if isinstance(configs, list) else []


def _of_split(source: HubDataSet, splits: Splits, default: str | None) -> list[str]:
    """The files of the split that `source` names. Raises HubAnswerError that lists what there is."""
    config = source.config
    if config is None:
        config = next(iter(splits)) if len(splits) == 1 else default or ("default" if "default" in splits else None)
    if config is None or config not in splits:
        named = "no config of that name in it" if config else f"{len(splits)} configs, and none is the default"
        raise HubAnswerError(f"{named}; it has {', '.join(splits)}", f"give {source.name}:CONFIG:SPLIT")
    of_config = splits[config]
    names = of_config.get(source.split or "", [])
    if not names:
        there = ", ".join(split for split, paths in of_config.items() if paths)
        what = f"no split {source.split!r} in it" if source.split else "no split given"
        hint = f"{source.name}:{source.split}:SPLIT" if source.split in splits else f"one of these as in {_FORMS}"
        raise HubAnswerError(f"{what}; config {config} has {there}", f"give {hint}")
    return names


def _join(paths: list[Path], target: Path) -> None:
    """One Parquet file of all rows, with the metadata of the first: its class names are there.

    Raises HubAnswerError for a file with other columns, types or class names than the first, or that cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(paths) == 1:
        paths[0].rename(target)
        return
    path = paths[0]
    try:
        schema = pq.read_schema(path)
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for path in paths:
                with pq.ParquetFile(path) as file:
                    if set(file.schema_arrow.names) != set(schema.names):
                        raise ValueError(f"columns {listed(file.schema_arrow.names)}, not {listed(schema.names)}")
                    if other := column_of_other_classes(schema, file.schema_arrow):
                        raise ValueError(f"other class names of column {other!r}")
                    for group in range(file.num_row_groups):
                        writer.write_table(file.read_row_group(group).select(schema.names).cast(schema))
    except (ValueError, pa.ArrowException) as error:
        what = f"Parquet files that cannot be joined: {path.name}: {first_line(error)}"
        raise HubAnswerError(what, "download its files, and give the path of one") from error
