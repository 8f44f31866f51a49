"""The report in a real browser, at the width of a phone and of a desktop: no text is cut off, no error is logged."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_report import HOSTILE, evaluation, metrics, written

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

WIDTHS = (360, 1280)
LONG = "antidisestablishmentarianism" * 10  # one word, wider than a phone


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, driven through its own protocol."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    binary, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not binary or not driver:
        pytest.fail("chromium and chromium-driver are not installed: make test-system installs them, as root")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):  # a container, as root
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, Service(driver))
    yield found
    found.quit()


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Any, tmp_path: Path) -> Any:
    """The report of a run, with the worst text that data can hold, shown at one width."""
    evaluations = {"snli-test": evaluation(), LONG: evaluation(text=f"{HOSTILE} {LONG}")}
    written(
        tmp_path,
        title=f"A run {LONG}",
        metrics=metrics(),
        evaluations=evaluations,
        notes=[f"https://example.org/{LONG}"],
    )
    # a window has a least width; what a page is shown in has none
    size = {"width": request.param, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((tmp_path / "runs" / "report.html").as_uri())
    assert browser.execute_script("return window.innerWidth") == request.param
    return browser


def test_nothing_is_wider_than_the_page(page: Any) -> None:
    """Tables may scroll within a box of their own; the page itself never moves sideways."""
    width = page.execute_script("return document.documentElement.clientWidth")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_the_console_is_silent(page: Any) -> None:
    assert page.get_log("browser") == []


def test_charts_are_drawn_and_said(page: Any) -> None:
    charts = page.execute_script(
        """return [...document.querySelectorAll('svg:not([aria-hidden])')].map(svg => {
             const box = svg.getBoundingClientRect();
             return {width: box.width, height: box.height, ink: svg.querySelectorAll('path,rect,circle').length};
           })"""
    )
    assert charts
    for chart in charts:
        assert chart["width"] > 200 and chart["height"] > 50 and chart["ink"] > 0
    from selenium.webdriver.common.by import By

    for svg in page.find_elements(By.CSS_SELECTOR, "svg:not([aria-hidden])"):
        # what the browser itself would hand to a screen reader
        assert svg.aria_role in ("img", "image")
        assert len(svg.accessible_name) > 3


def test_headings_go_down_one_level_at_a_time(page: Any) -> None:
    levels = page.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_text_is_large_enough_and_contrasts(page: Any) -> None:
    """At least 12 px, and 4.5 to 1 against the page (WCAG 2.2, 1.4.3)."""
    found = page.execute_script(
        """const linear = c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4, channel = c => linear(c / 255);
           const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
           const rgb = text => text.match(/[\\d.]+/g).map(Number);
           const behind = element => {
             for (; element; element = element.parentElement) {
               const colour = rgb(getComputedStyle(element).backgroundColor);
               if (colour.length < 4 || colour[3] == 1) return colour;
             }
             return [255, 255, 255];
           };
           return [...document.querySelectorAll('p,td,th,li,h1,h2,h3,dt,dd,figcaption')]
             .filter(element => element.innerText && element.offsetParent).map(element => {
               const style = getComputedStyle(element), [one, other] =
                 [light(rgb(style.color)), light(behind(element))].sort((a, b) => b - a);
               return [element.innerText.slice(0, 40), parseFloat(style.fontSize), (one + .05) / (other + .05)];
             })"""
    )
    assert len(found) > 50
    assert not [one for one in found if one[1] < 12 or one[2] < 4.5]
