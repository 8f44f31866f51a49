"""docs/errors.md says what the code says."""

from __future__ import annotations

import ast
import importlib.util
import re

import pytest

from tests.conftest import ROOT

PACKAGES = ("bertnli", "launch", "export")


@pytest.fixture(scope="module")
def errors():
    """docs/errors.py, which lies in no package."""
    spec = importlib.util.spec_from_file_location("docs_errors", ROOT / "docs" / "errors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_code_raises(errors):
    """Else: python docs/errors.py."""
    assert errors.PAGE.read_text() == errors.page()


def test_every_place_that_raises_is_in_it(errors):
    """By the text of the code alone: no call escapes the reader of its syntax tree."""
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            calls = re.findall(r"(?<!class )\b(?:InputError|RunError|NotFetchedError)\(", file.read_text())
            assert len(list(errors.raised(ast.parse(file.read_text())))) == len(calls), file


def test_a_message_is_read_from_its_parts(errors):
    module = ast.parse(
        """
_MOST = 5
def check(path, wanted=None):
    do = "remove it" if wanted else f"name another than {path.name}"
    if wanted:
        raise InputError(f"{path}: more than {_MOST} " + "rows", found="6", expected=f"{_MOST} or <less>", do=do)
    raise RunError(f"{path}: {len(path)} bytes", expected=_SAID)
"""
    )
    assert sorted(errors.raised(module)) == [
        ("<path>: more than 5 rows", "remove it / name another than <name>", 2),
        ("<path>: … bytes", "expected <SAID>", 1),
    ]
    assert errors.Raised("<a>", "not <b> but *", 2).row() == "| `<a>` | not \\<b> but \\* | 2 |"


@pytest.mark.parametrize(
    ("arguments", "what", "mend"),
    [
        ("fetch", "fetch: no name given", "see the names with: bertnli fetch --list"),
        ("train run.yaml --set epochs", "--set", "expected KEY=VALUE, such as data.max_train_pairs=8000"),
        ("score <path> pairs.tsv out.tsv", "<path>: not a bundle", "make one: bertnli export MODEL OUT"),
    ],
)
def test_a_persons_message_is_found_there(bertnli, errors, tmp_path, arguments, what, mend):
    assert f"| `{what}` | {mend} | 2 |" in errors.PAGE.read_text().splitlines()
    (tmp_path / "run.yaml").write_text("model: minilm\n")
    (tmp_path / "pairs.tsv").write_text("premise\thypothesis\n")
    done = bertnli(*arguments.split())
    assert done.returncode == 2
    assert done.stderr.startswith(f"bertnli: {what}; ") and done.stderr.endswith(f"; {mend}\n")
