"""What a study tells of why classes are not convex: its report against the function, and the items behind the points."""

from __future__ import annotations

import wave

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import jaxconvex as jc
from jaxconvex.evaluation.report import read_report
from jaxconvex.reporting.page import write_page
from jaxconvex.study.datasets.dataset import Dataset
from jaxconvex.study.material import Material, Part
from jaxconvex.study.reporting.why import why_sections
from jaxconvex.study.results import NetworkRow, Study
from jaxconvex.study.why import FOREMOST, foremost, write_item, write_why

RNG = np.random.default_rng(0)
LABELS = np.repeat(["ant", "bee", "cow"], 20)
LAYERS = {f"blocks/{i}": RNG.normal(size=(60, 4)).astype(np.float32) + i * np.eye(3, 4)[np.repeat(range(3), 20)]
          for i in (0, 1)}  # fmt: skip


def items(kind: str) -> list:
    if kind == "texts":
        return [f"what is {i}?" for i in range(60)]
    if kind == "pictures":
        return [RNG.integers(0, 255, (9, 7 + i % 2, 3)).astype(np.uint8) for i in range(60)]
    if kind == "recordings":
        return [RNG.normal(size=400 + i).astype(np.float32) for i in range(60)]
    return [RNG.normal(size=(50, 3)).astype(np.float32) for _ in range(60)]


@pytest.fixture
def explained(tmp_path):
    """Writes what is told of a network with these items; gives the report, and the sections of its page."""

    def write(kind: str):
        shown = Dataset(items(kind), {"kind": LABELS}, None, None, {"rate": 800}, "Made up.")
        test = Part((), np.repeat(range(3), 20).astype(np.int32), {"kind": LABELS})
        material = Material(test, test, test, None, ("ant", "bee", "cow"), None, "", (), "", {}, (), shown)  # type: ignore
        report = jc.evaluate(LAYERS, {"kind": LABELS}, k=4, jackknife=False, why=False, progress=False)
        folder = tmp_path / "pretrained" / "why"
        folder.mkdir(parents=True)
        write_why(material, report, LAYERS, "euclidean", folder)  # type: ignore
        study = Study({"name": "x"}, {}, (), {}, networks=(NetworkRow("pretrained", None, 0.5, 0.5, 1, 0, 1.0),))
        return read_report(folder / "why.json"), why_sections(study, tmp_path)

    return write


def test_it_is_told_of_the_most_convex_layer(explained):
    report, (section,) = explained("texts")
    codes = np.repeat(range(3), 20)
    found = jc.graph_intrusions(jc.knn_graph(LAYERS["blocks/1"], k=4), jnp.asarray(codes), num_classes=3)
    assert {row.layer for row in report.rows} == {"blocks/1"} and section.title == "Why, pretrained"
    lost = {(row.label, row.intruder): row.lost for row in report.intrusions if row.what == "class"}
    assert lost["ant", "bee"] == pytest.approx(float(found.by_class[0, 1]), abs=1e-6)
    worst = foremost(report, "outlier")
    assert [row.point for row in worst] == np.argsort(found.point_scores, stable=True)[:FOREMOST].tolist()
    assert worst[0].name == f"what is {worst[0].point}?"


@pytest.mark.parametrize(
    ("kind", "tag"),
    [("texts", "<blockquote>what is"), ("pictures", "<img src"), ("recordings", "<audio"), ("movements", "")],
)
def test_items_stand_on_the_page(explained, tmp_path, kind, tag):
    report, sections = explained(kind)
    text = write_page(tmp_path / "page.html", title="x", sections=sections).read_text()
    shown = sum(len(foremost(report, what)) for what in ("intruder", "outlier"))
    assert text.count(tag) == shown if tag else 'gallery">' not in text
    assert f"(row {foremost(report, 'outlier')[0].point})" in text or not tag


def test_sound_is_as_it_was(tmp_path):
    sound = RNG.normal(size=300)
    path = write_item(sound.astype(np.float32), tmp_path / "a", rate=800)
    with wave.open(str(path)) as file:
        heard = np.frombuffer(file.readframes(300), "<i2")
        assert (file.getframerate(), file.getnframes()) == (800, 300)
    np.testing.assert_allclose(heard / 32767, sound / np.abs(sound).max(), atol=1e-4)
    assert write_item(np.zeros(20, np.float32), tmp_path / "silence", rate=10) is not None
    assert write_item(np.zeros((20, 3), np.float32), tmp_path / "movement", rate=10) is None


def test_a_study_that_tells_nothing_has_no_section(tmp_path):
    assert why_sections(Study({"name": "x"}, {}, (), {}), tmp_path) == []
