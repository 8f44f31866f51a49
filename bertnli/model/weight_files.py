"""Which of a model's files hold its weights: those that transformers would load."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from bertnli.common.errors import InputError
from bertnli.model import tensor_files
from bertnli.model.model_files import D2L_WEIGHTS, Files, read, read_json

_INDEX = ".index.json"
_HF_WEIGHTS = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")


class Weights(NamedTuple):
    """where: the file, or the index of several. sha256: of the file, or of all of them, one after the other."""

    where: str
    tensors: dict[str, Tensor]
    sha256: str
    notes: tuple[str, ...] = ()


def read_hf(files: Files, path: Path) -> Weights:
    """The first of `_HF_WEIGHTS`, as in transformers; a note names the others, which may be older.

    Raises InputError if there is none, or a file is damaged or missing.
    """
    present = [name for name in _HF_WEIGHTS if name in files]
    if not present:
        expected = "model.safetensors or pytorch_model.bin, or one of them in several files with its index"
        raise InputError(f"{path}: no weights", found=", ".join(sorted(files)[:8]), expected=expected)
    name, *others = present
    notes = (f"{path}: {name} is read, and not {' and '.join(others)} beside it",) if others else ()
    weights = _read_shards(files, name, path) if name.endswith(_INDEX) else _read_one(files, name, path)
    return weights._replace(notes=notes)


def read_d2l(files: Files, path: Path) -> Weights:
    """The first of `D2L_WEIGHTS`. Raises InputError as `read_hf`."""
    name = next((name for name in D2L_WEIGHTS if name in files), None)
    if name is None:
        raise InputError(f"{path}: no weights", found=", ".join(sorted(files)[:8]), expected=" or ".join(D2L_WEIGHTS))
    return _read_one(files, name, path)


def _read_one(files: Files, name: str, path: Path) -> Weights:
    content = read(files, name, path)
    where = f"{path}/{name}"
    return Weights(where, tensor_files.parse(content, where), hashlib.sha256(content).hexdigest())


def _read_shards(files: Files, index: str, path: Path) -> Weights:
    """All tensors of the files that the index names."""
    where = f"{path}/{index}"
    placed = read_json(files, index, path)
    placed = placed.get("weight_map") if isinstance(placed, dict) else None
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise InputError(f"{where}: not an index", expected='"weight_map", a map from tensors to files')
    names = sorted(set(placed.values()))
    if absent := [name for name in names if name not in files]:  # also a path that leads out of the folder
        raise InputError(
            f"{where}: files that it names are missing", found=f"no {', '.join(absent[:3])}", do="fetch the model again"
        )
    tensors: dict[str, Tensor] = {}
    sha256 = hashlib.sha256()
    for shard, content in _contents(files, names, path):
        sha256.update(content)
        part = tensor_files.parse(content, f"{path}/{shard}")
        if twice := sorted(tensors.keys() & part.keys()):
            raise InputError(f"{path}/{shard}: key {twice[0]}", found="the same key in another of the files")
        tensors |= part
    if lacking := [key for key in placed if key not in tensors]:
        raise InputError(
            f"{where}: keys that its files do not have", found=", ".join(lacking[:3]), do="fetch the model again"
        )
    return Weights(where, tensors, sha256.hexdigest())


def _contents(files: Files, names: list[str], path: Path) -> Iterator[tuple[str, bytes]]:
    """One file after the other, so that one is in memory at a time."""
    yield from ((name, read(files, name, path)) for name in names)
