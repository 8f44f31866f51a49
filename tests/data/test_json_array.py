"""JSON arrays: each element is a row with the text that it has in the file, as a line of JSON lines."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bertnli.common.errors import InputError, RunError
from bertnli.data import formats, json_array, pairs
from bertnli.data.json_array import is_array, lines_of_array
from bertnli.data.pairs import PairFile
from tests.support.pair_files import pack, pairs_of

GOOD = '{"premise": "a [, \\" ] {", "hypothesis": "}b\\\\", "label": 1e400}'
ELEMENTS = [
    GOOD,
    '{"premise": "a", "more": {"x": [1, {"y": "]"}, []], "z": {}}, "hypothesis": "b"}',
    '{"hypothesis": "人", "premise": "\\ud800"}',
    "{}",
    "[]",
    "[[1], {}]",
    "1",
    "null",
    "{,}",
    '"text, with [ and {"',
    "nonsense",
]


def rows_in(path: Path) -> list[tuple[Any, ...]]:
    """What a row is, but for the text of a parser's message."""
    return [(*row[:4], row.error is None, row.raw, row.parsed) for row in PairFile(path).rows()]


@given(
    st.lists(st.sampled_from(ELEMENTS), max_size=8),
    st.sampled_from(["", " ", "\n", "\r\n  "]),
    st.integers(1, 70),
    st.booleans(),
)
@example([], "", 1, True)
@example([GOOD, "[]"], "\n", 3, True)
def test_an_array_is_read_as_its_elements_in_lines(tmp_path_factory, elements, blank, block, mark) -> None:
    elements = [GOOD, *elements]
    base = tmp_path_factory.getbasetemp()
    array, as_lines = base / "array.json", base / "lines.jsonl"
    text = blank + f"{blank},{blank}".join(elements)
    array.write_bytes(b"\xef\xbb\xbf" * mark + f"{blank}[{text}{blank}]{blank}".encode())
    as_lines.write_text("".join(element + "\n" for element in elements))
    with patch.object(formats, "BLOCK", block):
        assert rows_in(array) == rows_in(as_lines)


@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.json.zst", "a.jsonl", "a.txt"])
def test_what_programs_write_is_read(tmp_path: Path, name: str, indent: int | str | None) -> None:
    pairs = [("é, [", "b\n{", "c"), ('"', "\\", None)]
    objects = [dict(zip(("premise", "hypothesis", "label"), pair, strict=True)) for pair in pairs]
    path, format = tmp_path / name, "json" if name.endswith(".txt") else None
    path.write_bytes(pack(json.dumps(objects, indent=indent).encode(), path.suffix))
    file = PairFile(path, format=format)
    assert pairs_of(list(file.rows())) == pairs_of(list(file.rows())) == pairs
    assert [value for chunk in file.chunks(1) for value in file.values(chunk)] == objects
    assert file.notes == [f"note: {path}: a JSON array; row 1 is its first element"]


@pytest.mark.parametrize(("indent", "end"), [(1, ""), (None, "\n"), (None, "\r\n \n")])
def test_a_pipe_may_hold_an_array(indent: int | None, end: str) -> None:
    text = json.dumps([{"premise": "a", "hypothesis": "b", "label": "neutral"}] * 3, indent=indent) + end
    program = "from bertnli.data.pairs import PairFile; print(len(list(PairFile('-', format='json').rows())))"
    done = subprocess.run([sys.executable, "-c", program], input=text, capture_output=True, text=True, check=False)
    assert done.stdout == "3\n", done.stderr


@pytest.mark.parametrize(
    ("head", "complete", "expected"),
    [
        (b"[]", True, True),
        (b" \n[ ]\n", True, True),
        (b'[{"premise"', False, True),
        (b"[\n", False, True),
        (b'[{"premise": 1}]\n', True, True),
        (b'[{"premise": 1},\n', False, True),
        (b'[{"premise": 1}]\n{', False, False),
        (b'[]\n{"premise": "a"}\n', True, False),
        (b'["a", "b"]\n["c", "d"]\n', True, False),
        (b'[null, {"premise": 1}]\n', True, True),
        (b'[INFO] reading\n{"premise": "a"}\n', True, False),
        (b'{"premise": ["a"]}\n', True, False),
        (b"", True, False),
    ],
)
def test_a_list_among_lines_is_no_array(head: bytes, complete: bool, expected: bool) -> None:
    assert is_array(head, complete) is expected


PAIR = '{"premise": "a", "hypothesis": "b"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"[{PAIR}, {PAIR}", "cannot be read beyond row 1: the file ends inside the JSON array; .*not complete"),
        (f"[{PAIR}, {PAIR[:-9]}", "beyond row 1: the file ends inside"),
        (f"[{PAIR}, {PAIR[:-1]}, {PAIR}]", "beyond row 1: the file ends inside"),
        (f"[{PAIR}, {PAIR}][{PAIR}]", "beyond row 2: something follows the JSON array; write all rows into one"),
        (f"[{PAIR}, }} {PAIR}]", "beyond row 1: a } closes nothing"),
        (f'[{PAIR}, {{"premise": "{"x" * 9000}"}}]', "beyond row 1: an element of the JSON array is longer than 0 MiB"),
    ],
)
def test_what_is_no_array_is_never_a_shorter_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    monkeypatch.setattr(formats, "BLOCK", 100)
    monkeypatch.setattr(json_array, "MAX_LINE", 2000)
    with pytest.raises((RunError, InputError), match=message):
        list(PairFile(path).rows())


def test_bad_elements_keep_their_place(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(
        f'[{PAIR},, 3, {{"premise": "a\n", "hypothesis": "b"}}, {{\n"premise":\r\n"a"}}, '.encode()
        + b'{"premise": "\xff", "hypothesis": "b"},\n'
        + f"{PAIR},\n]".encode()
    )
    assert [(row.number, row.error) for row in PairFile(path).rows()] == [
        (1, None),
        (2, "blank line"),
        (3, "a number, expected a JSON object"),
        (4, "not JSON: Invalid control character at at character 15"),
        (5, "no key 'hypothesis'"),
        (6, "not valid UTF-8"),
        (7, None),
    ]


def test_a_carriage_return_inside_an_element_is_a_blank_of_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"premise":\r"a", "hypothesis": "b"}]')
    [row] = PairFile(tmp_path / "a.json").rows()
    assert row.raw == '{"premise": "a", "hypothesis": "b"}'


def test_a_long_element_is_not_looked_at_with_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, real = list[int](), json_array._Array.elements
    monkeypatch.setattr(json_array._Array, "elements", lambda self, data: looks.append(len(data)) or real(self, data))
    text = json.dumps([{"premise": "a " * 50_000, "hypothesis": "b"}]).encode()
    assert b"".join(lines_of_array(text[at : at + 100] for at in range(0, len(text), 100))) == text[1:-1] + b"\n"
    assert len(looks) < 30 and sum(looks) == len(text)


@pytest.mark.parametrize("more", [b"", PAIR.encode()])
@pytest.mark.parametrize("block", [1.0, 0.6, 0.3])  # of the line
def test_one_line_that_fills_blocks_is_an_array_unless_something_is_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bytes, block: float
) -> None:
    line = f"[{PAIR}]\n".encode()
    (tmp_path / "a.json").write_bytes(line + more)
    monkeypatch.setattr(formats, "BLOCK", int(len(line) * block))
    monkeypatch.setattr(pairs, "BLOCK", int(len(line) * block))
    file = tmp_path / "a.json"
    if more and block < 0.5:  # more than a block in a line: it is an array before anything below it was seen
        with pytest.raises((InputError, RunError), match="something follows the JSON array"):
            list(PairFile(file).rows())
    else:
        found = [row.error for row in PairFile(file).rows()]
        assert found == (["a list, expected a JSON object", None] if more else [None])


def test_an_array_without_pairs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[["premise", "hypothesis"], ["a", "b"]]')
    with pytest.raises(InputError, match="no JSON object in the first 2 elements; found element 1: a list"):
        PairFile(path)
    path.write_text("[]")
    assert list(PairFile(path).rows()) == []


def test_a_large_array_in_one_line_takes_little_memory() -> None:
    long = json.dumps({"premise": "a " * 300, "hypothesis": "b"}).encode()
    block = (long + b",") * 400
    blocks = chain([b"["], repeat(block, 100), [long + b"]"])
    tracemalloc.start()
    found = sum(piece.count(b"\n") for piece in lines_of_array(blocks))
    high = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == 40_001
    assert high < 8 * len(block)
