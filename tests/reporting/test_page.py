"""The page: one file that needs no other, escapes what users named, and parses."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest
from sample_reports import sample_report

from jaxconvex.evaluation.comparison import compare_reports
from jaxconvex.reporting.page import Captioned, Section, facts, write_page
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
    assert len(sources) == 2 and all(source.startswith("data:image/") for source in sources)
    assert base64.b64decode(sources[0].split(",")[1]) == png.read_bytes()
    assert base64.b64decode(sources[1].split(",")[1]) == svg.read_bytes()
    assert page.tags.count("figure") == 3 and ("role", "img") in page.attributes
    links = [value for name, value in page.attributes if name == "href"]
    assert links == [f"#section-{i}" for i in (1, 2, 3, 4)]
    assert not {"link", "iframe", "object"} & set(page.tags) and page.tags.count("script") == 1
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
    assert page.tags.count("script") == 1 and not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(evil) > 10 and evil not in page.text[-2]  # the script is ours
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert len(labels) == 1 and evil in labels[0]


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


def test_sections_fold_and_figures_without_a_table_have_their_numbers(tmp_path):
    figure = plot_profile(sample_report())
    sections = [("Drawn", [figure]), ("Drawn and told", [figure, [{"a": 1}]]), ("Told", ["Text."])]
    path = write_page(
        tmp_path / "a.html", title="t", sections=sections, figure=Captioned(figure, "First"), warnings="Note."
    )
    page, text = read(path), path.read_text()
    assert re.findall(r"<details( open| class=\"numbers\")?>", text) == [" open", ' class="numbers"', "", ""]
    assert page.tags.count("figure") == 3 and page.tags.count("table") == 2
    assert (
        text.index("</h1>") < text.index("Note.") < text.index("First") < text.index("<nav>") < text.index("<section>")
    )
    names = [value for name, value in page.attributes if name == "id" and value.startswith("figure")]
    assert len(set(names)) == len(names) == 3


def test_a_long_warning_folds(tmp_path):
    long = "Hubs decide the paths. " + "Look at the cosine profile beside it, too. " * 8
    text = write_page(tmp_path / "a.html", title="t", sections=[], warnings=f"Short. One.\n\n{long}").read_text()
    assert '<p class="warning" role="note">Short. One.</p>' in text
    assert "<summary>Hubs decide the paths.</summary>Look at" in text


def test_facts_are_rounded_and_leave_hashes_out():
    digest = "0123456789abcdef" * 4
    table = facts("Made", {"a": {"t": 1 / 3, "sha": digest, "all": {"x": digest, "y": [True, None]}}, "b": {"t": 7}})
    assert table.columns == ("name", "a", "b") and table.rows == (("t", "0.3333", "7"), ("all", "y yes", "–"))


def test_what_cannot_be_shown_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"an item of a section must be .* got int 3"):
        write_page(tmp_path / "a.html", title="t", sections=[("s", [3])])
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        write_page(tmp_path / "a.html", title="t", sections=[("s", [tmp_path / "figure.pdf"])])
    with pytest.raises(OSError, match="cannot write"):
        write_page(tmp_path / "nowhere" / "a.html", title="t", sections=[])
    assert not list(tmp_path.iterdir())
