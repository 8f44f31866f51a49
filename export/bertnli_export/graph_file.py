"""What is refused in a graph file, before ONNX Runtime opens it: bundles also come from strangers.

A bundle's graph is one file, and each run of it ends. So weights in another file are refused (its name could be that of
any file of the host), and nodes with a graph of their own (Loop, Scan, If) and functions, which may run for ever.

Scoring does not need the package onnx. Therefore this reads the few fields that it needs of ONNX's protobuf messages:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto and https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bertnli.common.errors import InputError

_MOST_FIELDS = 2_000_000  # BERT-large has some 100,000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types

# By message: its fields that are messages, by their numbers.
_INNER: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "inner graph",
        10: "tensor",
        11: "inner graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
_OPERATOR = 4  # of a node, its name
_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1  # of a tensor: two fields, and a value of the second


class _Field(NamedTuple):
    number: int
    wire_type: int
    begin: int
    end: int
    value: int  # of a varint


def check_graph(model: Path) -> None:
    """Raise InputError if the file is no ONNX graph, or has what is refused."""
    try:
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            refused = _Reader(data).refused("model", 0, len(data))
    except (ValueError, IndexError) as error:  # also of an empty file
        raise InputError(f"{model}: not an ONNX graph", found=str(error), do="export it again") from None
    if refused is not None:
        raise InputError(f"{model}: not a bundle's graph", found=refused, do="do not use it; export the model again")


class _Reader:
    def __init__(self, data: mmap.mmap):
        self._data, self._fields_left = data, _MOST_FIELDS

    def refused(self, message: str, begin: int, end: int, operator: str = "") -> str | None:
        """What is refused in the message at `data[begin:end]`; None if nothing. Raises ValueError for damaged ones."""
        if message == "node":
            operator = self._operator(begin, end)
        for field in self._fields(begin, end):
            inner = _INNER.get(message, {}).get(field.number) if field.wire_type == _BYTES else None
            if inner in ("training", "function"):
                return f"a {inner} in it"
            if inner == "inner graph":
                return f"a node {operator} with a graph of its own, which may run for ever"
            if inner is not None and (found := self.refused(inner, field.begin, field.end, operator)):
                return found
            if message == "tensor" and (
                field.number == _EXTERNAL_DATA or (field.number == _DATA_LOCATION and field.value == _EXTERNAL)
            ):
                return "weights in another file"
        return None

    def _operator(self, begin: int, end: int) -> str:
        for field in self._fields(begin, end):
            if field.number == _OPERATOR and field.wire_type == _BYTES:
                return self._data[field.begin : min(field.end, field.begin + 80)].decode(errors="replace")
        return "without a name"

    def _fields(self, at: int, end: int) -> Iterator[_Field]:
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ValueError(f"more than {_MOST_FIELDS:,} fields")
            key, at = self._varint(at)
            key &= 0xFFFFFFFF  # as protobuf takes it
            wire_type, value = key & 7, 0
            if wire_type == _VARINT:
                begin = at
                value, at = self._varint(at)
            else:
                if wire_type == _BYTES:
                    size, begin = self._varint(at)
                elif wire_type in (_FIXED64, _FIXED32):
                    size, begin = 8 if wire_type == _FIXED64 else 4, at
                else:
                    raise ValueError(f"wire type {wire_type} at byte {at}")
                at = begin + size
            if at > end:
                raise ValueError(f"a field that ends {at - end:,} bytes too late")
            yield _Field(key >> 3, wire_type, begin, at, value)

    def _varint(self, at: int) -> tuple[int, int]:
        """The number that begins at `at`, and where it ends: seven bits in each byte, the lowest first."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
        raise ValueError(f"a number of more than 64 bits at byte {at}")
