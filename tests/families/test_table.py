"""The table of families, and what is written about it."""

from __future__ import annotations

import re

from bertnli.families.table import BY_MODEL_TYPE
from tests.conftest import ROOT


def test_the_page_about_models_has_the_families_that_run() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page.partition("## Which run")[2].partition("## ")[0], re.MULTILINE)
    named = {name for row in rows for name in re.findall("`(.+?)`", row)} - {"model_type"}  # of the table's head
    assert named | {"d2l-bert"} == BY_MODEL_TYPE.keys()
