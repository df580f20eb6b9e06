"""The whole study: five generated domains as one command, and the real ones where they are."""

from __future__ import annotations

import json
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import oracles
import pytest
from toy_domains import CONFIGS, write_toy_domains

pytest.importorskip("typer")
pytest.importorskip("matplotlib")
pytest.importorskip("soundfile")

from jaxconvex.cli.main import main
from jaxconvex.evaluation.report import only, read_report
from jaxconvex.layers import read_activations
from jaxconvex.study.domains import domain, read_domains
from jaxconvex.study.experiment import run_study
from jaxconvex.study.material import _family, prepare
from jaxconvex.study.results import TABLES, read_study
from jaxconvex.study.steps import kept

SMALL = """
train = 48
validation = 15
test = 60
seeds = 2
epochs = 2
segments = 4
permutations = 20
k = 5
fewest = 5
learning_rate = 0.003
"""
OWN = {  # what the toy networks take
    "images": "options = {size = 12}",
    "medical": "options = {size = 24}",
    "speech": "options = {seconds = 0.3}\nfractions = [0.4, 0.3, 0.3]",
    "text": "options = {length = 12, max_length = 12}\nclasses = 3",
    "activity": "pretraining_epochs = 2\nfractions = [0.4, 0.2, 0.4]",
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with the data of five domains and the file that describes their studies."""
    folder = tmp_path_factory.mktemp("toy")
    lines = []
    for name, (data, encoder) in write_toy_domains(folder).items():
        lines += [f"[{name}]", f'data = "{data.relative_to(folder)}"', OWN[name], SMALL]
        if name == "activity":
            config = {"model_type": "resnet1d"} | CONFIGS["resnet1d"]
            lines += ["[activity.configuration]", *(f"{key} = {json.dumps(value)}" for key, value in config.items())]
        else:
            lines.append(f'encoder = "{encoder.relative_to(folder)}"')
    (folder / "studies.toml").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def studied(toy, tmp_path_factory):
    """Gives the folder of a domain's results, as the command wrote them."""
    out = tmp_path_factory.mktemp("studied")

    @cache
    def folder_of(name: str) -> Path:
        assert main(["study", "all", str(toy / "studies.toml"), "--only", name, "--out", str(out)]) == 0
        return out / name

    return folder_of


NAMES = ("images", "speech", "text", "activity", "medical")


@pytest.mark.long
def test_a_small_study_from_end_to_end(toy, tmp_path):
    (made,) = (made for made in read_domains(toy / "studies.toml") if made.name == "text")
    made = made._replace(seeds=1, epochs=1, pruning=False, variants=False)
    run_study(made, tmp_path, progress=False)
    study = read_study(tmp_path)
    assert [row.network for row in study.networks] == ["pretrained", "fine-tuned"]
    assert all(0 <= row.score <= 1 for row in study.scores if row.level == "macro")
    check_by_oracle(tmp_path, k=5)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_domain_has_all_tables_and_a_page(studied, name):
    folder = studied(name)
    study = read_study(folder)
    assert study.name == name
    assert not [table for table in TABLES if not getattr(study, table)]
    assert [row.network for row in study.networks] == ["pretrained", "fine-tuned", "fine-tuned"]
    assert all(0 <= row.accuracy <= 1 for row in study.networks)
    finite = [row for row in study.scores if row.level == "macro"]
    assert all(np.isfinite(row.score) and 0 <= row.score <= 1 for row in finite)
    assert {row.kind for row in study.scores} == {"graph", "euclidean"}
    page = (folder / "report.html").read_text()
    assert "<svg" in page or "image/svg" in page
    assert page.count("<script>") == 1
    assert all((folder / f"{table}.csv").exists() for table in TABLES)
    why = read_report(folder / "pretrained" / "why" / "why.json")
    (layer,) = {row.layer for row in why.rows}
    means = [row for row in study.scores if (row.network, row.kind, row.level) == ("pretrained", "graph", "macro")]
    main = {row.layer: row.score for row in means if row.labeling == study.domain["labelings"][0]}
    assert main[layer] == max(main.values())
    shown = {"images": "<img src", "medical": "<img src", "speech": "<audio", "text": "<blockquote"}
    if why.points:
        assert "Why, pretrained" in page and shown.get(name, "Why") in page


@pytest.mark.long
def test_the_joint_report_joins_all(toy, studied):
    out = {studied(name).parent for name in NAMES}.pop()
    assert main(["study", "all", str(toy / "studies.toml"), "--out", str(out)]) == 0
    folder = out / "report"
    assert (folder / "report.html").stat().st_size > 20_000
    assert {"statements.json", "summary.csv"} <= {path.name for path in folder.iterdir()}
    assert len((folder / "summary.csv").read_text().splitlines()) >= 1 + len(NAMES)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NAMES if name != "speech"])  # its four speakers are too few
def test_fine_tuning_learns_what_the_toy_data_hold(studied, name):
    rows = read_study(studied(name)).networks
    assert max(row.accuracy for row in rows) > 0.45  # three classes


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_scores_a_saved_layer_alike(studied, name):
    check_by_oracle(studied(name), k=5)


def check_by_oracle(folder: Path, k: int) -> None:
    """The graph score of the last layer of the pretrained network, all labelings, from the features that were kept."""
    report = read_report(folder / "pretrained" / "scores.json")
    (place,) = folder.glob("work/scores-pretrained-*")
    features = read_activations(place / "features")
    layer = list(features)[-1]
    x = np.asarray(features[layer], np.float64)
    data = np.load(folder / "pretrained" / "labels.npz", allow_pickle=False)
    for labeling in data.files:
        rows = [row for row in only(report, kind="graph", labeling=labeling, level="class") if row.layer == layer]
        names, codes = np.unique(data[labeling], return_inverse=True)
        expected = oracles.knn_convexity(x, codes, len(names), k=k).per_class
        for row in rows:
            if row.label not in names:  # predicted for no point
                assert np.isnan(row.score)
                continue
            wanted = expected[names.tolist().index(row.label)]
            assert np.isnan(row.score) == np.isnan(wanted)
            assert np.isnan(wanted) or abs(row.score - wanted) < 5e-3


@pytest.mark.long
def test_a_second_run_elsewhere_writes_the_same_file(toy, studied, tmp_path):
    (made,) = (made for made in read_domains(toy / "studies.toml") if made.name == "medical")
    run_study(made, tmp_path, progress=False)
    for name in ("study.json", "pretrained/scores.csv", "fine-tuned-1/scores.csv"):
        assert (tmp_path / name).read_bytes() == (studied("medical") / name).read_bytes(), name


class Stop(BaseException):
    """As a kill would come: not an Exception, so that nothing catches it."""


@pytest.mark.long
@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(toy, studied, tmp_path, monkeypatch, after):
    from jaxconvex.study import networks

    (made,) = (made for made in read_domains(toy / "studies.toml") if made.name == "medical")
    calls = []

    def counted(what):
        calls.append(what)
        if len(calls) == after:
            raise Stop

    real = networks.fine_tune

    def stopping(*arguments, progress, **options):
        return real(*arguments, progress=lambda *_: (counted("epoch"), progress()), **options)

    monkeypatch.setattr(networks, "fine_tune", stopping)
    with pytest.raises(Stop):
        run_study(made, tmp_path, progress=False)
    monkeypatch.setattr(networks, "fine_tune", real)
    run_study(made, tmp_path, progress=False)
    assert (tmp_path / "study.json").read_bytes() == (studied("medical") / "study.json").read_bytes()


@pytest.mark.long
def test_a_finished_study_is_not_trained_again(toy, studied, tmp_path, monkeypatch):
    from jaxconvex.study import networks

    folder = tmp_path / "images"
    shutil.copytree(studied("images"), folder)
    monkeypatch.setattr(networks, "fine_tune", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(networks, "probe", lambda *_, **__: pytest.fail("trained again"))
    (made,) = (made for made in read_domains(toy / "studies.toml") if made.name == "images")
    before = (folder / "study.json").read_bytes()
    run_study(made, folder, progress=False)
    assert (folder / "study.json").read_bytes() == before


@pytest.mark.long
def test_the_protocol_of_the_paper(toy, tmp_path):
    (made,) = (made for made in read_domains(toy / "studies.toml") if made.name == "medical")
    made = made._replace(protocol="paper", seeds=1, epochs=1, pruning=False)
    study = run_study(made, tmp_path, progress=False)
    settings = read_report(tmp_path / "pretrained" / "scores.json").settings
    assert (settings["k"], settings["duplicates"], settings["max_pairs"]) == ([10], "drop", 5000)
    assert (study.settings["protocol"], study.pruning) == ("paper", ())
    assert all(np.isfinite(row.se) for row in study.scores if row.kind == "graph")


# Steps ----------------------------------------------------------------------------------------------------------------


def test_a_step_that_was_stopped_finds_what_it_had_left(tmp_path):
    def stopped(folder):
        (folder / "half").write_text("1")
        raise Stop

    with pytest.raises(Stop):
        kept(tmp_path, "step", 1, stopped)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".part"]
    place = kept(tmp_path, "step", 1, lambda folder: (folder / "whole").write_text((folder / "half").read_text()))
    assert (place / "whole").read_text() == "1"
    assert kept(tmp_path, "step", 1, stopped) == place


# Descriptions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[birds]\ndata = 'x'", "like"),
        ("[speech]\nseed = 3", "seeds"),
        ("[speech]\nseeds = 0", "at least 1"),
        ("[speech", "no TOML"),
        ("a = 1", "table"),
        ("['../up']\nlike = 'speech'", "its folder"),
        ("['a/b']\nlike = 'speech'", "its folder"),
        ("[report]\nlike = 'speech'", "not 'report'"),
        ("[speech]\n[Speech]\nlike = 'speech'", "a name of its own"),
    ],
)
def test_a_wrong_file_says_what_to_do(tmp_path, text, what):
    (tmp_path / "studies.toml").write_text(text)
    with pytest.raises(ValueError, match=what):
        read_domains(tmp_path / "studies.toml")


@pytest.mark.long
def test_what_is_missing_is_named(toy, tmp_path, capsys):
    with pytest.raises(ValueError, match="--data"):
        prepare(domain("speech"), None)
    assert main(["study", "speech", "--data", str(toy / "recordings"), "--out", str(tmp_path / "o")]) == 2
    assert "--encoder" in capsys.readouterr().err
    assert main(["study", "speech", "--data", str(tmp_path), "--encoder", str(toy / "encoders/whisper")]) == 2
    assert main(["study", "report", str(tmp_path)]) == 2
    assert "study.json" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


# The real domains -----------------------------------------------------------------------------------------------------

REAL = {
    "images": ("fashion_mnist", "efficientnet-lite0"),
    "images-vit": ("fashion_mnist", None),
    "speech": ("fsdd/recordings", "whisper-tiny-encoder"),
    "text": ("banking77", "all-minilm-l6-v2"),
    "activity": ("hmp", None),
    "medical": ("bccd/BCCD", "efficientnet-lite0"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", REAL)
def test_a_real_domain_runs_small(name, data, tmp_path):
    folder, checkpoint = REAL[name]
    path, encoder = data / "data" / folder, checkpoint and data / "models" / checkpoint
    if not path.exists() or (encoder and not encoder.exists()):
        pytest.skip(f"{path} or {encoder} is absent: study/README.md says what they are")
    sizes = {"train": 120, "validation": 60, "test": 200, "seeds": 1, "epochs": 1, "segments": 1, "permutations": 20}
    made = domain(name, data=str(path), encoder=encoder and str(encoder), unlabelled=200, pretraining_epochs=1)
    study = run_study(made._replace(**sizes, pruning=False), tmp_path, progress=sys.stderr.isatty())
    assert study.networks[0].accuracy > 1.5 / len(study.domain["classes"])
    check_by_oracle(tmp_path, k=10)


def test_a_family_counts_where_no_file_tells_it(tmp_path):
    """Without config.json, and for one of the two networks of a CLIP; the family of a preset is for the first only."""
    images = domain("images", encoder=str(tmp_path))
    clip = images._replace(family="clip_vision_model")
    assert _family(images) == images.family
    for kind, found in (("clip", "clip_vision_model"), ("vit", None)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        assert _family(images) is None
        assert _family(clip) == found
    assert _family(clip._replace(encoder="owner/name")) is None
