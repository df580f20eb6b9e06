"""The page: one file that needs no other, escapes what users named, and parses."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest
from sample_reports import sample_report

from jaxconvex.evaluation.comparison import compare_reports
from jaxconvex.reporting.page import Captioned, Section, write_page
from jaxconvex.reporting.plots import plot_profile, save_figure

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Checks that tags nest, and keeps text, tags and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def test_page_holds_everything_and_loads_nothing(tmp_path):
    report = sample_report(kinds=("graph", "euclidean"))
    figure = plot_profile(report)
    png, svg = save_figure(figure, tmp_path / "profile")
    comparison = compare_reports(report, report)
    sections = [
        Section("Profile", ["First.\n\nSecond.", Captioned(figure, "The profile"), report]),
        ("Files", [png, svg]),
        Section(
            "Tables",
            [comparison, report.to_dataframe().head(3), list(report.rows[:2]), [{"a": 1}, {"b": float("nan")}]],
        ),
        Section("Named", [Captioned(report.tables(classes=True)[0], "By class"), Captioned(report, "Both")]),
    ]
    page = read(write_page(tmp_path / "report.html", title="Digits", sections=sections, lead="What it is."))
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == 3 and all(source.startswith("data:image/") for source in sources)
    assert base64.b64decode(sources[1].split(",")[1]) == png.read_bytes()
    assert base64.b64decode(sources[0].split(",")[1]).lstrip().startswith(b"<?xml")
    links = [value for name, value in page.attributes if name == "href"]
    assert links == [f"#section-{i}" for i in (1, 2, 3, 4)]
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", (tmp_path / "report.html").read_text())
    assert page.tags.count("table") == 2 + 2 + 3 + 1 + 2 and page.tags.count("h2") == 4
    text = " ".join(page.text)
    assert all(
        words in text for words in ("First.", "Second.", "The profile", "What it is.", "By class", "Both: Graph")
    )
    assert f"{100 * report.rows[0].score:.1f} [" in text


def test_page_escapes_what_users_named(tmp_path):
    evil = "<script>alert('&')</script>"
    report = sample_report(layers=[evil, "b"], classes=(evil, 'x" onerror="y'), labelings=(evil,))
    figure = plot_profile(report)
    items = [evil, Captioned(figure, evil), *report.tables(classes=True), report.to_dataframe(), [{evil: evil}]]
    path = write_page(tmp_path / "report.html", title=evil, sections=[Section(evil, items)], lead=evil)
    page = read(path)
    assert "script" not in page.tags and not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(evil) > 10 and ("alt", evil) in page.attributes


def test_numbers_stand_right_and_names_left(tmp_path):
    rows = [
        {"score": 0.123456, "name": "a", "count": 3, "ok": True},
        {"score": None, "name": "b", "count": 4, "ok": False},
    ]
    text = write_page(tmp_path / "a.html", title="t", sections=[("s", [rows])]).read_text()
    head = re.findall(r'<th scope="col"( class="number")?>(\w+)</th>', text)
    assert [(name, bool(number)) for number, name in head] == [
        ("name", False),
        ("ok", False),
        ("score", True),
        ("count", True),
    ]
    assert '<td class="number">0.1235</td>' in text and '<td class="number">–</td>' in text


def test_what_cannot_be_shown_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"an item of a section must be .* got int 3"):
        write_page(tmp_path / "a.html", title="t", sections=[("s", [3])])
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        write_page(tmp_path / "a.html", title="t", sections=[("s", [tmp_path / "figure.pdf"])])
    with pytest.raises(OSError, match="cannot write"):
        write_page(tmp_path / "nowhere" / "a.html", title="t", sections=[])
    assert not list(tmp_path.iterdir())
