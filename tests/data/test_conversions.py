"""The commands that messages give for files that are nearly right make files that can be read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bertnli.common.errors import InputError
from bertnli.data.pairs import PairFile
from tests.support.pair_files import pairs_of

ROWS = [("a, b", "é", "neutral"), ("c", "d", "entailment")]
OBJECTS = [dict(zip(("premise", "hypothesis", "label"), row, strict=True)) for row in ROWS]
COLUMNS = {name: [row[name] for row in OBJECTS] for name in OBJECTS[0]}
OF_PANDAS = {name: dict(enumerate(column)) for name, column in COLUMNS.items()}
CSV = 'premise,hypothesis,label\n"a, b",é,neutral\nc,d,entailment\n'
TSV = "premise\thypothesis\tlabel\na, b\té\tneutral\nc\td\tentailment\n"
SPACED = 'premise, hypothesis, label\n"a, b", "é", "neutral"\n"c", "d", entailment\n'


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("data.json", "\ufeff" + json.dumps({"version": 1, "it's": OBJECTS}), "a table in one JSON object"),
        ("data.json", json.dumps({"data": OBJECTS}, indent=1), "a table in one JSON object"),
        ("columns.json", json.dumps(COLUMNS), "a table in one JSON object"),
        ("pandas.json", json.dumps(OF_PANDAS), "a table in one JSON object"),
        ("pandas.json", json.dumps(OF_PANDAS, indent=2), "a table in one JSON object"),
        ("a.csv", CSV.encode("cp1252"), "line 2 is not UTF-8"),
        (
            "a.jsonl",
            "\n".join(json.dumps({**row, "by": "é"}, ensure_ascii=False) for row in OBJECTS).encode("cp1252"),
            "line 1: not valid",
        ),
        ("a.tsv", ("é\t" + TSV.replace("\n", "\nx\t", 2)).encode("cp1252"), "unusable header: not valid UTF-8"),
        ("spaced.csv", SPACED, "row 1: blanks stand before quotes"),
        ("spaced.csv", '"premise", "hypothesis", "label"\n' + SPACED.partition("\n")[2], "blanks stand before quotes"),
        ("spaced.csv", SPACED.replace(",", ";").replace("a;", "a,"), "blanks stand before quotes"),
        ("title.csv", 'A title,,\n\n"two\nlines"\n' + CSV, "line 5 looks like the header"),
        ("blank.tsv", "\n" + TSV, "line 2 looks like the header"),
        ("comment.tsv", "# made by a program\n" + TSV, "line 2 looks like the header"),
        ("r.tsv", TSV.replace("\na,", '\n1\t"a,').replace(" b\t", ' b"\t').replace("\nc", "\n2\tc"), "row names"),
        ("r.csv", CSV.replace('\n"', '\n"1","').replace("\nc", '\n"2",c'), "row names"),
        ("end.csv", CSV.replace("l\n", "l,\r\n").replace("t\n", "t,\r\n").replace("label,", "label"), "is empty"),
        ("end.tsv", TSV.replace("l\n", "l\t\n").replace("t\n", "t\t\n").replace("label\t", "label"), "is empty"),
    ],
)
def test_the_command_makes_a_file_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | bytes, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        message = "\n".join(PairFile(name).notes)
    except InputError as error:
        message = str(error)
    assert says in message
    found = re.search(r"(?:(?:convert|remove) (?:it|them)|first line): (.*)", message)
    assert found
    if found[1].startswith("iconv") and shutil.which("iconv") is None:
        pytest.skip("no iconv")
    subprocess.run(["bash", "-c", found[1]], check=True)
    [new] = tmp_path.glob("*.new.*")
    file = PairFile(new)
    assert [(premise.strip('"'), *rest) for premise, *rest in pairs_of(list(file.rows()))] == ROWS
    assert not [note for note in file.notes if note.startswith("warning") and "read with their quotes" not in note]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'premise,hypothesis\n"He said, ""no""",b\n'),
        ("a.csv", "premise,hypothesis\na,b\nc,d,e\nf,g\n"),
        ("a.tsv", 'premise\thypothesis\n "a" b\tc\n'),
        ("a.tsv", 'premise\thypothesis\n"a\tb"\tc\n'),
        ("a.jsonl", '{"premise": "a", "hypothesis": "b"}\n{"premise": ["c"], "hypothesis": "b"}\n'),
        ("a.jsonl", json.dumps({**OBJECTS[0], "like it": OBJECTS})),
        ("a.csv", "premise,hypothesis\n" + "é,b\n" * 100_000),
    ],
    ids=[
        "quotes inside",
        "one row",
        "tsv",
        "quoted tab",
        "json lines",
        "a row with others in it",
        "a letter cut by the block",
    ],
)
def test_files_that_are_right_are_not_warned_of(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert not [note for note in PairFile(path).notes if not note.startswith("note")]
