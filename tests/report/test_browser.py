"""The report in a real headless Chromium: charts, console, requests, keyboard, contrast, a phone's width."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures.overviews import NASTY, make_overview

from rankray.report import browser as browser_file
from rankray.report.browser import Browser, find_browser
from rankray.report.page import page

needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome on PATH")
PAGES = {"thousand": (1000, ""), "empty": (0, ""), "nasty": (40, NASTY)}
CONTRAST = """
(() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => { const s = c / 255; return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; };
  const luminance = (c) => 0.2126 * light(c[0]) + 0.7152 * light(c[1]) + 0.0722 * light(c[2]);
  const behind = (node) => {
    for (let e = node; e; e = e.parentElement) {
      const c = parts(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
    if (!own || !node.getClientRects().length || node.closest(".bartext, .parcoords, script, style")) continue;
    const svg = node.namespaceURI.endsWith("svg");
    const front = parts(svg ? getComputedStyle(node).fill : getComputedStyle(node).color);
    if (front.length === 4 && front[3] === 0) continue;
    const [a, b] = [luminance(front), luminance(behind(node.closest("svg") || node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push([ratio, node.outerHTML.slice(0, 120)]);
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("pages")
    for name, (trials, nasty) in PAGES.items():
        (directory / f"{name}.html").write_text(page(make_overview(trials, nasty=nasty), "now"), encoding="utf-8")
    return {name: directory / f"{name}.html" for name in PAGES}


def open_page(browser: Browser, file: Path, **options) -> list[dict]:
    """Open a page; return the events since."""
    browser.events.clear()
    browser.open(file, **options)
    return browser.events


@needs_browser
@pytest.mark.parametrize("name", PAGES)
def test_every_chart_is_drawn_without_an_error_or_a_request(browser, files, name):
    events = open_page(browser, files[name])
    drawings = "[...document.querySelectorAll('.chart')]"
    charts = browser.evaluate(f"{drawings}.map((e) => [e.id, e.dataset.drawn || e.textContent])")
    assert [drawn for _, drawn in charts] == ["yes"] * (0 if name == "empty" else 9)
    lengths = browser.evaluate(f"{drawings}.map((e) => e.querySelectorAll('path, canvas').length)")
    assert all(length > 3 for length in lengths), charts
    bad = [e for e in events if e["method"] == "Runtime.exceptionThrown"]
    bad += [
        e for e in events if e["method"] == "Runtime.consoleAPICalled" and e["params"]["type"] in ("error", "warning")
    ]
    bad += [e for e in events if e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] == "error"]
    assert not bad, json.dumps(bad)[:2000]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} == {files[name].absolute().as_uri()}
    assert browser.evaluate("typeof window.hurt") == "undefined"


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["thousand", "empty"])
def test_all_text_has_a_contrast_of_4_5(browser, files, name, dark):
    open_page(browser, files[name], dark=dark)
    assert browser.evaluate(CONTRAST) == []
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")


@needs_browser
def test_the_theme_changes_while_the_page_is_open(browser, files):
    open_page(browser, files["nasty"])
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.wait_for(
        "getComputedStyle(document.querySelector('#chart-curves .xtick text')).fill === 'rgb(231, 234, 238)'"
    )
    assert browser.evaluate(CONTRAST) == []


@needs_browser
@pytest.mark.parametrize("name", PAGES)
def test_a_phone_scrolls_in_one_direction_only(browser, files, name):
    open_page(browser, files[name], width=390, height=844)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert browser.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 16
    boxes = "[...document.querySelectorAll('.chart, .card, pre')]"
    assert browser.evaluate(f"{boxes}.filter((e) => e.getBoundingClientRect().right > 391).length") == 0


LABELS = """
["leaderboard", "rates", "curves"].map((key) => {
  const chart = document.getElementById("chart-" + key), inside = (e) => e.getBoundingClientRect();
  const labels = [...chart.querySelectorAll(".annotation-text-g")].map(inside).sort((a, b) => a.top - b.top);
  const area = chart._fullLayout._size, right = inside(chart).left + area.l + area.w;
  return {
    labels: labels.length, overlaps: labels.filter((e, i) => i && e.top < labels[i - 1].bottom).length,
    covering: labels.filter((e) => e.left < right - 1).length,
    cut: labels.filter((e) => e.right > inside(chart).right || e.top < inside(chart).top).length,
  };
})
"""


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("values", [(0.41, 0.411, 0.412), (0.41, 0.41, 0.41), (0.0, 0.001, 0.5)], ids=str)
def test_reference_labels_cover_nothing_and_are_apart(browser, tmp_path, width, values):
    overview = make_overview(40, states=("complete",))
    overview["trials"][0]["value"], overview["trials"][1]["value"], untrained = values
    overview["status"]["untrained"] = {"value": untrained, "metrics": {}}
    (tmp_path / "page.html").write_text(page(overview, "now"), encoding="utf-8")
    open_page(browser, tmp_path / "page.html", width=width, height=844)
    found = {"labels": 3, "overlaps": 0, "covering": 0, "cut": 0}
    assert browser.evaluate(LABELS) == [found] * 3
    browser.call("Emulation.setDeviceMetricsOverride", width=700, height=844, deviceScaleFactor=1, mobile=False)
    browser.wait_for("document.getElementById('chart-rates')._fullLayout.width < 700")
    browser.wait_for("window.dispatchEvent(new Event('resize')) && document.fonts.status === 'loaded'")
    assert browser.evaluate(LABELS) == [found] * 3


@needs_browser
def test_a_keyboard_reaches_everything_and_shows_where_it_is(browser, files):
    open_page(browser, files["thousand"])
    reachable = "a[href], button, summary, [tabindex='0']"
    all_of_them = f'[...document.querySelectorAll("{reachable}")].filter((e) => e.checkVisibility())'
    wanted = browser.evaluate(f"{all_of_them}.length")
    assert wanted > 20
    seen = []
    for _ in range(wanted):
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        where = "[...document.querySelectorAll('*')].indexOf(document.activeElement)"
        style = "getComputedStyle(document.activeElement)"
        seen.append(browser.evaluate(f"[{where}, {style}.outlineStyle, parseFloat({style}.outlineWidth)]"))
    assert len({index for index, _, _ in seen}) == wanted, seen
    assert all(style == "solid" and width >= 2 for _, style, width in seen)


@needs_browser
def test_a_command_is_copied_or_selected(browser, files):
    open_page(browser, files["thousand"])
    browser.evaluate("document.querySelector('button[data-copy]').click()")
    browser.wait_for("document.querySelector('button[data-copy]').textContent !== 'Copy'")


def test_without_a_browser_the_error_says_what_to_do(monkeypatch):
    from rankray.errors import UserError

    monkeypatch.setattr(browser_file.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="a picture needs Chromium or Chrome, and none is on PATH"):
        Browser()


@needs_browser
def test_a_condition_that_throws_is_not_true_yet(browser, tmp_path):
    """A page that is being loaded has no body; what never holds says what was thrown."""
    late = tmp_path / "late.html"
    late.write_text("<script>setTimeout(() => { window.made = { name: 'x' } }, 300)</script>", encoding="utf-8")
    browser.call("Page.navigate", url=late.as_uri())
    with pytest.raises(browser_file.PageError, match="TypeError"):
        browser.evaluate("window.made.name.length")
    browser.wait_for("window.made.name.length === 1")
    browser._timeout, kept = 0.2, browser._timeout
    try:
        with pytest.raises(RuntimeError, match=r"not true within 0 s: window\.never") as caught:
            browser.wait_for("window.never.name === 'x'")
    finally:
        browser._timeout = kept
    assert "TypeError" in str(caught.value.__cause__)


@needs_browser
def test_a_page_printed_from_a_dark_browser_is_dark_on_white_and_as_wide_as_paper(browser, files):
    open_page(browser, files["thousand"], dark=True)
    widths = "[...document.querySelectorAll('.chart')].map((e) => e.querySelector('.main-svg').clientWidth)"
    before = browser.evaluate(widths)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", media="print", features=dark)
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate(CONTRAST) == []
    assert max(browser.evaluate(widths)) <= 660
    browser.call("Emulation.setEmulatedMedia", media="", features=dark)
    browser.evaluate("dispatchEvent(new Event('afterprint'))")
    browser.wait_for(f"JSON.stringify({widths}) === '{json.dumps(before, separators=(',', ':'))}'")


@needs_browser
def test_without_javascript_the_page_says_what_is_missing(browser, files):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.call("Page.navigate", url=files["thousand"].absolute().as_uri())
        browser.wait_for("document.body?.innerText.includes('The charts need JavaScript')")
        assert browser.evaluate("document.querySelector('.chart').getClientRects().length") == 0
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
