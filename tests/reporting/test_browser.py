"""The pages in a real browser: no overflow and no complaint at any width, sorting, folding, pointing, printing."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from browser import browser  # noqa: F401  a fixture
from sample_reports import report_of_losses, sample_report
from sample_studies import small_study

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from jaxconvex.reporting.result_pages import draw_result, write_result_page

WIDTHS = (360, 800, 1280, 1800)
LAYERS = [f"encoder/layers/{number}/output" for number in range(12)]
CLASSES = ("zebra", "ant", "a class whose name is longer than most others are", "10", "9", "bee")
ROWS = "[...document.querySelectorAll('table')].find((table) => table.textContent.includes('zebra')).tBodies[0].rows"

# Names along an axis that touch each other, of those that are seen and not slanted.
TOUCHING = """[...document.querySelectorAll('.panel > svg')].flatMap((svg) => {
  const boxes = [...svg.querySelectorAll('text.across')].filter((text) => getComputedStyle(text).display !== 'none'
    && getComputedStyle(text).transform === 'none').map((text) => text.getBoundingClientRect());
  return boxes.filter((box, i) => i && box.width && boxes[i - 1].right > box.left).map(() => svg.id);
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    report = sample_report(layers=LAYERS, classes=CLASSES, kinds=("graph", "euclidean"))
    path = tmp_path_factory.mktemp("page") / "report.html"
    return write_result_page(path, report, draw_result(report), title="Made up")


def check_widths(browser, page):  # noqa: F811
    grounds = set()
    for width in WIDTHS:
        for dark in (False, True):
            browser.show(page, width=width, dark=dark)
            browser.value("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            wide = browser.value("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert wide[0] <= wide[1] <= width, (width, wide)
            assert browser.value(TOUCHING) == [], width
            assert browser.trouble() == []
            grounds.add((dark, browser.value("getComputedStyle(document.body).backgroundColor")))
    assert len(grounds) == 2  # one a setting, and not the same


def test_nothing_overflows_at_any_width(browser, page):  # noqa: F811
    check_widths(browser, page)
    share = "document.querySelector('.chart').clientWidth / document.querySelector('main').clientWidth"
    assert browser.value(share) > 0.99
    tops = "[...document.querySelectorAll('.panel')].slice(0, 2).map((each) => each.getBoundingClientRect().top)"
    assert len(set(browser.value(tops))) == 1  # beside each other on a large screen
    browser.show(page, width=360)
    assert len(set(browser.value(tops))) == 2


def test_what_classes_lose_overflows_at_no_width(browser, tmp_path):  # noqa: F811
    report = report_of_losses(
        {name: [0.1, 0.05 * place, 0] for place, name in enumerate(CLASSES)} | {"no path": [0, 0, 0.1]}
    )
    check_widths(browser, write_result_page(tmp_path / "why.html", report, draw_result(report), title="Why"))


@pytest.mark.long
def test_a_study_overflows_at_no_width(browser, tmp_path):  # noqa: F811
    from jaxconvex.study.reporting.pages import write_domain_page

    check_widths(browser, write_domain_page(small_study(), tmp_path)[0])


def cells(browser, column):  # noqa: F811
    return browser.value(f"[...{ROWS}].map((row) => row.cells[{column}].textContent)")


def test_a_click_on_a_columns_name_sorts(browser, page):  # noqa: F811
    browser.show(page, width=1280)
    table = ROWS.removesuffix(".tBodies[0].rows")
    before = cells(browser, 2)
    scores = [float(text.split()[0]) for text in before]
    for wanted in (sorted(scores), sorted(scores, reverse=True), scores):
        browser.value(f"{table}.tHead.rows[0].cells[2].querySelector('button').click()")
        assert [float(text.split()[0]) for text in cells(browser, 2)] == wanted
    browser.value(f"{table}.tHead.rows[0].cells[1].querySelector('button').click()")
    names = list(dict.fromkeys(cells(browser, 1)))
    assert names == ["9", "10", CLASSES[2], "ant", "bee", "zebra"]  # numbers as numbers
    assert browser.value(f"{table}.tHead.rows[0].cells[1].ariaSort") == "ascending" and browser.trouble() == []


def test_what_has_no_value_stays_below(browser, tmp_path):  # noqa: F811
    from jaxconvex.reporting.page import write_page

    rows = [{"name": name, "value": value} for name, value in zip("abcde", (2.5, None, -1.0, 1e4, 0.03), strict=True)]
    path = write_page(tmp_path / "a.html", title="t", sections=[("s", [rows])])
    browser.show(path, width=800)
    found = []
    for _ in range(2):
        browser.value("document.querySelectorAll('th button')[1].click()")
        found.append(
            "".join(browser.value("[...document.querySelectorAll('tbody tr')].map((r) => r.cells[0].textContent)"))
        )
    assert found == ["ceadb", "daecb"]


def test_sections_fold_and_links_unfold_them(browser, page):  # noqa: F811
    browser.show(page, width=800)
    opened = "[...document.querySelectorAll('section > details')].map((each) => each.open)"
    assert browser.value(opened) == [True, False, False]
    browser.value("document.querySelectorAll('section summary')[0].click()")
    browser.value("document.querySelectorAll('section summary')[1].click()")
    assert browser.value(opened) == [False, True, False]
    assert browser.value("document.querySelector('#section-1').checkVisibility()") is False
    browser.value("document.querySelector('nav a:last-child').click()")
    browser.value("new Promise((done) => setTimeout(done, 50))")
    assert browser.value("document.querySelector('#section-3').checkVisibility()") is True


def test_a_mark_says_its_value_when_pointed_at(browser, page):  # noqa: F811
    browser.show(page, width=1280)
    box = browser.value("(({x, y, width, height}) => [x + width / 2, y + height / 2])("
                        "document.querySelector('circle.mark').getBoundingClientRect())")  # fmt: skip
    browser.move(*box)
    row = next(row for row in sample_report(layers=LAYERS, classes=CLASSES, kinds=("graph", "euclidean")).rows
               if row.level == "macro")  # fmt: skip
    ends = f"[{100 * row.lower:.1f}, {100 * row.upper:.1f}]"
    assert browser.value("document.querySelector('#tip').textContent") == f"{LAYERS[0]}: {100 * row.score:.1f}% {ends}"
    browser.move(2, 2)
    assert browser.value("document.querySelector('#tip').hidden") is True


@pytest.mark.parametrize("script", [True, False])
def test_on_paper_every_row_is_there(browser, page, tmp_path, script):  # noqa: F811
    browser.show(page, width=1280, script=script)
    (tmp_path / "page.pdf").write_bytes(browser.pdf())
    if shutil.which("pdftotext") is None:
        pytest.skip("needs pdftotext, which reads what a PDF shows")
    text = subprocess.run(
        ["pdftotext", "-layout", "page.pdf", "-"], cwd=tmp_path, capture_output=True, text=True
    ).stdout
    # A row a layer and class, of two kinds, in the section that is folded on the screen.
    assert sum("zebra" in line and "/output" in line for line in text.splitlines()) == 2 * len(LAYERS)
    assert "Standard errors" in text and "Provenance" in text
