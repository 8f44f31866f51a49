"""JSON lines on the way to TSV, CSV and Parquet: every value can be read back, from its column or from `raw`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.writer_runs import read_back, run

_NUMBERS = ["1e400", "-0", "0.10", "1E+5", "12345678901234567890123", "0.1000000000000000055511151231257827", "NaN"]
_white = st.sampled_from(["", " ", "\t"])
_strings = st.builds(
    lambda text, plain: json.dumps(text, ensure_ascii=plain or not text.isprintable()),
    st.text(st.sampled_from('a"\\\n\t\ré😀\ud83d\u2028\0, 1'), max_size=4),
    st.booleans(),
)


def _joined(parts: st.SearchStrategy[str], brackets: str) -> st.SearchStrategy[str]:
    listed = st.lists(parts, max_size=3)
    return st.builds(lambda found, white: brackets[0] + f",{white}".join(found) + white + brackets[1], listed, _white)


def _members(keys: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda key, white, value: f'"{key}"{white}:{white}{value}', st.sampled_from(keys), _white, values)


_values = st.recursive(
    st.sampled_from(["true", "null", *_NUMBERS]) | _strings,
    lambda inner: _joined(inner, "[]") | _joined(_members("aé", inner), "{}"),
    max_leaves=4,
)
_pair = st.sampled_from(['"premise":"a","hypothesis":"b"', '"hypothesis" :\t"b" , "premise": "a"'])
_objects = st.builds(
    lambda pair, members, white: "{" + ",".join([pair, *members]) + white + "}",
    _pair,
    st.lists(_members("xyz", _values), max_size=3),
    _white,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json")


@given(st.lists(_objects, max_size=4))
def test_every_value_can_be_read_back(folder: Path, lines: list[str]) -> None:
    lines = ['{"premise": "a", "hypothesis": "b", "x": 1, "y": 2}', *lines]
    (folder / "a.jsonl").write_text("\n".join(lines))
    for output in ("out.tsv", "out.csv", "out.parquet"):
        run(folder / "a.jsonl", folder / output)
        for line, row in zip(lines, read_back(folder / output), strict=True):
            if row["raw"]:
                assert _all_of(row["raw"]) == _all_of(line)
                continue
            values = json.loads(line)
            assert values.keys() <= row.keys()
            for key in ("x", "y"):
                value, cell = values.get(key), row[key] or ""
                if value is None or isinstance(value, str):
                    assert cell == (value or "")
                else:
                    assert cell in line.replace("\t", " ") and repr(json.loads(cell)) == repr(value)


def _all_of(text: str) -> str:
    """What a JSON text says, with keys that stand twice and the sign of zero; NaN is equal to itself."""
    return repr(json.loads(text, object_pairs_hook=list))
