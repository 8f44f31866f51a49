"""`make docs`: a page for every module, without warnings and without broken links."""

from __future__ import annotations

import html.parser
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import PACKAGES, ROOT, environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


class Page(html.parser.HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.links = {""}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value)
            elif name == "href" and not urlsplit(value).scheme:
                self.links.append(value)


def test_the_reference_is_whole(tmp_path):
    command = [sys.executable, str(ROOT / "docs" / "api.py"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    pages = {path: Page(path) for path in tmp_path.rglob("*.html")}
    for package in PACKAGES:
        for module in package.rglob("[!_]*.py"):
            assert tmp_path / module.relative_to(package.parent).with_suffix(".html") in pages, module
    assert {"Scorer", "Scorer.score"} <= pages[tmp_path / "bertnli.html"].anchors
    links = 0
    for path, page in pages.items():
        for link in map(urlsplit, page.links):
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            assert target in pages and unquote(link.fragment) in pages[target].anchors, f"{path}: {link.geturl()}"
            links += 1
    assert links > 1000
