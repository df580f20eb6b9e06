"""The command: results, exit codes, one line for what is wrong, and what an interrupt leaves behind."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from jaxconvex import __version__
from jaxconvex.cli import scoring
from jaxconvex.cli.main import main
from jaxconvex.evaluation.comparison import read_comparison
from jaxconvex.evaluation.evaluation import evaluate
from jaxconvex.evaluation.report import Report, distinct, read_report, select

N = 30
LABELS = np.repeat([0, 1, 2], N // 3)
FIGURES = ["profile.png", "profile.svg", "classes.png", "classes.svg"]


def blobs(seed: int, spread: float = 1.5) -> np.ndarray:
    draws = np.random.default_rng(seed)
    return (4 * np.eye(3, 5)[LABELS] + spread * draws.normal(size=(N, 5))).astype(np.float32)


ARRAYS = {"block_10": blobs(1), "block_2": blobs(2), "block_1": blobs(3), "label": LABELS}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The tests run in a folder of their own, and leave JAX's settings as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scoring, "keep_compiled_code", lambda: None)
    np.savez("a.npz", **ARRAYS)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Runs the command; gives exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def score(run):
    """Scores with small settings; gives what `run` gives."""

    def call(*arguments: object) -> tuple[int, str, str]:
        return run("score", "--k", 4, "--permutations", 0, *arguments)

    return call


@pytest.fixture
def refused(score):
    """Checks that scoring ends with exit code 2, one line with the parts given and nothing written; gives the line."""

    def call(parts: str | tuple[str, ...], *arguments: object) -> str:
        before = sorted(Path().rglob("*"))
        code, out, err = score(*arguments)
        assert code == 2, err
        line = err.splitlines()[-1]
        assert line.startswith("Error: ") and err.count("Error") == 1 and "Traceback" not in err
        for part in (parts,) if isinstance(parts, str) else parts:
            assert part in line
        assert out == "" and sorted(Path().rglob("*")) == before
        return line

    return call


# Scores -------------------------------------------------------------------------------------------------------------


def test_score_writes_what_evaluate_returns(score):
    code, out, err = score("a.npz")
    assert code == 0
    made = Path("a-convexity")
    report = read_report(made / "scores.json")
    expected = evaluate({name: ARRAYS[name] for name in ("block_1", "block_2", "block_10")}, {"label": LABELS}, k=4)
    np.testing.assert_equal([row._asdict() for row in report.rows], [row._asdict() for row in expected.rows])
    assert distinct(report.rows, "layer") == ["block_1", "block_2", "block_10"]
    assert len(list(csv.DictReader((made / "scores.csv").open()))) == len(report.rows)
    assert {"scores.json", "scores.csv", "report.html", *FIGURES} <= {path.name for path in made.iterdir()}
    # What was found, then the table, then where it is; the page says the same first.
    first = out.splitlines()[0]
    assert first.startswith("30 points in 3 classes, 3 layers; labels 'label', k = 4.")
    assert out.index(first) < out.index("Graph convexity, labels 'label', k = 4") < out.index("Written to")
    page = (made / "report.html").read_text()
    assert "30 points in 3 classes, 3 layers" in page and report.provenance["groups"] not in page
    assert "block_10" in out and out.splitlines()[-1].startswith("Written to a-convexity: scores.json, scores.csv")
    assert "a.npz: 30 points, 3 layers (block_1 to block_10), 5 features, labels 'label' (3 classes)" in err


def test_the_options_reach_evaluate(run, monkeypatch):
    given: dict = {}

    def record(*data, **options):
        given.update(options, data=data)
        raise ValueError("enough")

    monkeypatch.setattr("jaxconvex.evaluation.evaluation.evaluate", record)
    np.savez("b.npz", x=np.zeros((N, 4, 2)), y=LABELS, z=LABELS, guess=LABELS, speaker=LABELS + 7, ids=np.arange(N))
    options = "--labels z --labels y --predictions guess --pool mean --background 2 --max-points 20 --k 3 --k 5 "
    options += "--metric cosine --graph mutual --duplicates drop --pairs 50 --no-jackknife --permutations 7 --seed 3 "
    options += "--sources 40 --tolerance 0.02 --memory 2 --groups speaker --class-size 6 --holm"
    options += " --parents y --names ids --why --measures cka,silhouette"
    code, _, err = run("score", "b.npz", *options.split())
    assert code == 2 and "Error: enough" in err
    layers, labels = given.pop("data")
    assert list(layers) == ["x"] and list(labels) == ["z", "y"]
    assert given.pop("predictions") is not None and given.pop("key") is not None and given.pop("cache") is not None
    assert given.pop("groups").tolist() == (LABELS + 7).tolist() and given.pop("class_size") == 6
    assert given.pop("names").tolist() == list(range(N)) and given.pop("why") is True
    assert given.pop("measures") == ("cka", "silhouette") and given.pop("parents") == ("y",)
    assert given.pop("background") in (2, "2") and given.pop("progress") is False
    assert given == {
        "k": (3, 5),
        "metric": "cosine",
        "graph": "mutual",
        "duplicates": "drop",
        "pool": "mean",
        "max_pairs": 50,
        "max_sources": 40,
        "tolerance": 0.02,
        "memory": 2e9,
        "max_points": 20,
        "jackknife": False,
        "permutations": 7,
        "protocol": None,
    }


@pytest.mark.long
def test_several_labelings_and_k_have_figures_of_their_own(score):
    np.savez("b.npz", x=blobs(0), fine=LABELS, coarse=np.where(LABELS == 2, "two", "less"))
    code, out, _ = score(
        "b.npz",
        "--labels",
        "fine",
        "--labels",
        "coarse",
        "--k",
        6,
        "--k",
        6,
        "--classes",
        "-o",
        "out",
        "--no-jackknife",
    )
    assert code == 0 and "less" in out
    report = read_report("out/scores.json")
    assert distinct(report.rows, "labeling") == ["fine", "coarse"] and distinct(report.rows, "k") == [4, 6]
    for stem in ("profile-fine-k4", "classes-coarse-k6"):
        assert Path(f"out/{stem}.svg").stat().st_size


@pytest.mark.long
def test_predictions_give_recall(score):
    np.savez("b.npz", x=blobs(0), label=LABELS, guess=np.roll(LABELS, 1))
    assert score("b.npz", "--predictions", "guess")[0] == 0
    report = read_report("b-convexity/scores.json")
    assert distinct(report.rows, "labeling") == ["label", "predicted"]
    assert [row.recall for row in select(report, labeling="label", level="class")] == [0.9, 0.9, 0.9]


@pytest.mark.long
def test_protocol_paper(run):
    assert run("score", "a.npz", "--protocol", "paper", "--permutations", 0, "--layer", "block_2")[0] == 0
    settings = read_report("a-convexity/scores.json").settings
    assert settings["duplicates"] == "drop" and settings["k"] == [10]
    code, _, err = run("score", "a.npz", "--protocol", "paper", "--k", 5)
    assert code == 2 and "protocol" in err.splitlines()[-1]


@pytest.mark.long(after=1)
@pytest.mark.parametrize("suffix", ["safetensors", "parquet", "csv", "npy"])
def test_other_formats_score_the_same(score, suffix):
    x = blobs(1)
    arguments = [f"b.{suffix}"]
    if suffix == "safetensors":
        pytest.importorskip("safetensors.numpy").save_file({"layer": x, "label": LABELS}, "b.safetensors")
    elif suffix == "npy":
        np.save("b.npy", x)
        np.save("label.npy", LABELS)
        arguments += ["--labels", "label.npy"]
    else:
        frame = pytest.importorskip("pandas").DataFrame(x, columns=list("vwxyz")).assign(label=LABELS)
        if suffix == "csv":
            frame.to_csv("b.csv", index=False)
        else:
            pytest.importorskip("pyarrow")
            frame.to_parquet("b.parquet")
    np.savez("c.npz", layer=x, label=LABELS)
    assert score(*arguments)[0] == score("c.npz")[0] == 0
    found, expected = (read_report(f"{name}-convexity/scores.json") for name in "bc")
    np.testing.assert_equal([row._asdict() for row in found.rows], [row._asdict() for row in expected.rows])


@pytest.mark.long
def test_axis_and_pool(score):
    hidden = np.stack([blobs(i) for i in range(3)], axis=1)
    np.savez("b.npz", hidden=np.stack([hidden, hidden], axis=2), label=LABELS)
    assert score("b.npz", "--axis", 1, "--pool", "mean", "--layer", "hidden 2")[0] == 0
    np.savez("c.npz", **{"hidden 2": hidden[:, 2], "label": LABELS})
    assert score("c.npz")[0] == 0
    found, expected = (read_report(f"{name}-convexity/scores.json") for name in "bc")
    assert [row.score for row in found.rows] == [row.score for row in expected.rows]


# Output ---------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_results_of_several_files_do_not_overwrite_each_other(score):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(blobs(1), columns=list("vwxyz")).assign(label=LABELS).to_csv("a.csv", index=False)
    Path("below").mkdir()
    np.savez("below/a.npz", **ARRAYS)
    for file, folder in (
        ("a.npz", "a-convexity"),
        ("a.csv", "a.csv-convexity"),
        ("below/a.npz", "a.npz-convexity"),
        ("./a.npz", "a-convexity"),
        ("a.csv", "a.csv-convexity"),
    ):
        code, out, _ = score(file, "--no-jackknife")
        assert code == 0 and f"Written to {folder}:" in out
    files = {path.parent.name: read_report(path).provenance["files"] for path in Path().glob("*-convexity/scores.json")}
    assert files == {
        "a-convexity": ["../a.npz"],
        "a.csv-convexity": ["../a.csv"],
        "a.npz-convexity": ["../below/a.npz"],
    }


@pytest.mark.long
def test_figures_of_labelings_that_files_cannot_be_called_after(score):
    names = ["a/b", "a:b", "A-B", "ä", "ö", "../up"]
    np.savez("b.npz", x=blobs(0), **dict.fromkeys(names, LABELS))
    options = [part for name in names for part in ("--labels", name)]
    assert score("b.npz", *options, "--no-jackknife", "-o", "out")[0] == 0
    figures = [path.name.casefold() for path in Path("out").glob("*.png")]
    assert len(set(figures)) == len(figures) == 3 * len(names)
    assert not [path for path in Path().rglob("*up*") if path.parent.name != "out"]


@pytest.mark.long
def test_links_in_the_output_folder(score, refused):
    for name in ("through", "dangling", "folder", "cache"):
        Path(name).mkdir()
    Path("kept.json").touch()
    Path("through/scores.json").symlink_to("../kept.json")
    Path("through/scores.csv").symlink_to("../kept.csv")
    Path("dangling/scores.json").symlink_to("nowhere")
    Path("folder/profile.png").symlink_to("../through", target_is_directory=True)
    Path("cache/.cache").touch()
    for name, entry in (("dangling", "scores.json"), ("folder", "profile.png"), ("cache", ".cache")):
        refused((f"cannot write to {name}/{entry}", "Remove it"), "a.npz", "-o", name)
    refused("cannot write to through/scores.csv", "a.npz", "-o", "through")
    Path("through/scores.csv").unlink()
    assert score("a.npz", "--no-jackknife", "-o", "through")[0] == 0
    assert Path("through/scores.json").is_symlink() and read_report("kept.json").rows


@pytest.mark.long
def test_columns_and_words_are_told(score):
    rows = "".join(f"{i},{a},{b},{'NA' if i % 2 else 'DE'}\n" for i, (a, b, *_) in enumerate(blobs(0)))
    Path("b.csv").write_text("id,v,w,label\n" + rows)
    code, _, err = score("b.csv", "--no-jackknife")
    assert code == 0
    assert "features are 'v', 'w'" in err and "left out are 'id' (whole numbers, each once: an id?)" in err
    assert "'NA' is a class of 15 points" in err and "--background 'NA'" in err
    assert score("b.csv", "--no-jackknife", "--background", "NA", "-o", "out")[0] == 0
    assert {row.label for row in read_report("out/scores.json").rows} == {"DE", None}


@pytest.mark.long
def test_background_of_the_command_line(score, refused):
    assert score("a.npz", "--background", "2", "--no-jackknife")[0] == 0
    labels = {row.label for row in read_report("a-convexity/scores.json").rows if row.level == "class"}
    assert labels == {0, 1}
    refused("background must be one of the labels, 0, 1, 2; got '7'", "a.npz", "--background", "7", "-o", "other")


# Comparisons --------------------------------------------------------------------------------------------------------


def compare(run, *arguments: object) -> tuple[int, str, str]:
    return run("compare", "--k", 4, *arguments)


@pytest.mark.long
def test_warnings_are_said_before_the_table_and_but_once(score):
    doubled = {name: np.concatenate([array, array]) for name, array in ARRAYS.items()}
    x = np.repeat(doubled["block_1"][:, :1].round(), 2, axis=1)  # equal distances: the order of rows decides
    np.savez("b.npz", x=x, label=doubled["label"])
    code, out, _ = score("b.npz", "--no-jackknife")
    assert code == 0 and out.count("are exactly as near as the last") == 1
    assert (
        out.index("points in 3 classes")
        < out.index("Warning: Graph convexity: x: beyond the k=4")
        < out.index("adjacent")
    )


def test_compare_files_and_results(run, score):
    np.savez("b.npz", **{name: array if name == "label" else array + blobs(9, 0.5) for name, array in ARRAYS.items()})
    code, out, _ = compare(run, "a.npz", "b.npz", "--classes")
    assert code == 0 and "class" in out and "Written to a-b-comparison: comparison.json" in out
    files = read_comparison("a-b-comparison/comparison.json")
    assert files.names == ("a", "b")
    assert all(np.isfinite(row.lower) for row in files.rows if row.level != "class")
    for name in (
        "comparison.csv",
        "comparison.png",
        "comparison.svg",
        "profile.png",
        "report.html",
        "a/report.html",
        "a/scores.json",
        "b/scores.csv",
    ):
        assert Path("a-b-comparison", name).stat().st_size
    assert score("a.npz")[0] == score("b.npz")[0] == 0
    assert compare(run, "a-convexity", "b-convexity/scores.json", "--out", "results")[0] == 0
    np.testing.assert_equal(
        [row._asdict() for row in read_comparison("results/comparison.json").rows],
        [row._asdict() for row in files.rows],
    )


@pytest.mark.long
def test_compare_refuses_what_is_not_paired(run, score):
    moved = dict(ARRAYS, label=np.roll(LABELS, 1))
    np.savez("moved.npz", **moved)
    np.savez("fewer.npz", **{name: array[:-1] for name, array in ARRAYS.items()})
    np.savez("other.npz", block_1=blobs(0), label=LABELS)
    Path("none").mkdir()
    Path("broken.json").write_text('{"format": "jaxconvex rep')
    score("a.npz", "--no-jackknife")
    for other, part in {
        "moved.npz": "in the same order, so that their labels 'label' agree; in a.npz and moved.npz 3 of 30 differ",
        "fewer.npz": "hold 30 and 29",
        "other.npz": "only 'a' has",
        "none": "scores.json",
        "broken.json": "broken.json is not a whole",
        "absent.npz": "absent.npz does not exist",
        "a-convexity": "without the jackknife",
    }.items():
        code, _, err = compare(run, "a.npz", other)
        assert code == 2 and part in err.splitlines()[-1], err


# Bad input and wrong use --------------------------------------------------------------------------------------------


def test_files_that_cannot_be_scored(refused):
    Path("empty.npz").touch()
    Path("cut.npz").write_bytes(Path("a.npz").read_bytes()[:300])
    np.savez("objects.npz", x=blobs(0), label=np.array([None] * N, dtype=object))
    np.savez("rank.npz", x=np.zeros((N, 3, 2)), label=LABELS)
    np.savez("lengths.npz", x=blobs(0)[:-1], label=LABELS)
    np.savez("floats.npz", x=blobs(0), label=LABELS + 0.5)
    Path("text.npz.txt").write_text("")
    refused("empty.npz is empty", "empty.npz")
    refused("cut.npz is not a whole .npz file", "cut.npz")
    refused("absent.npz does not exist", "absent.npz")
    refused(("text.npz.txt", ".safetensors"), "text.npz.txt")
    refused(("'lable'", "'label'"), "a.npz", "--labels", "lable")
    refused(("'guess'", "'block_10'"), "a.npz", "--predictions", "guess")
    refused(("'label' in objects.npz", "Python objects"), "objects.npz")
    refused(("'x' in rank.npz", "(30, 3, 2)", "--axis 1", "--pool"), "rank.npz")
    refused(("'x' has 29", "'label' 30"), "lengths.npz")
    refused(("'label' in floats.npz", "float64"), "floats.npz")


def test_values_that_cannot_be_scored(refused):
    bad = blobs(0)
    bad[[3, 8]] = np.nan
    np.savez("nan.npz", x=bad, label=LABELS)
    np.savez("alone.npz", x=blobs(0), label=np.arange(N))
    refused(("2 of 30 rows", "3, 8"), "nan.npz")
    refused("no class with two points", "alone.npz")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--k", 0], ("k must be", "got 0")),
        (["--k", N], ("k must be", f"got {N}")),
        (["--metric", "chebyshev"], ("metric", "'euclidean'", "'chebyshev'")),
        (["--metric", "squared_euclidean"], ("squared",)),
        (["--graph", "both"], ("'union'", "'both'")),
        (["--duplicates", "both"], ("'link'", "'both'")),
        (["--max-points", 0], ("max_points", "got 0")),
        (["--pairs", 0], ("max_pairs", "got 0")),
        (["--permutations", -1], ("permutations", "got -1")),
        (["--protocol", "papr"], ("'paper'", "'papr'")),
        (["--seed", -1], ("--seed", "got -1")),
        (["--seed", 2**32], ("--seed", "4294967295")),
        (["--axis", 1], ("--axis splits",)),
        (["--layer", "block_3"], ("'block_3'", "'block_1'")),
        (["--seed", "one"], ("--seed", "integer", "See jaxconvex score --help.")),
        (["--colour", "red"], ("--colour", "--help")),
    ],
)
def test_options_that_cannot_be(refused, options, parts):
    refused(parts, "a.npz", *options)


def test_pool_must_be_known(refused):
    np.savez("tokens.npz", x=np.zeros((N, 3, 2)), label=LABELS)
    refused(("'cls'", "'max'"), "tokens.npz", "--pool", "max")


def test_output_that_cannot_be_written(refused, score, monkeypatch):
    Path("taken").touch()
    refused(("cannot write to the folder taken", "--out"), "a.npz", "--out", "taken")
    refused(("cannot write to the folder taken/below", "--out"), "a.npz", "--out", "taken/below")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    monkeypatch.setattr(
        "jaxconvex.evaluation.evaluation.evaluate", lambda *a, **b: pytest.fail("nothing may be scored before")
    )
    refused(("No space left on device", "--out"), "a.npz", "--out", "new/folder")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the super-user may write everywhere")
def test_read_only_output(refused):
    Path("fixed").mkdir(mode=0o500)
    refused("Permission denied", "a.npz", "--out", "fixed")


@pytest.mark.parametrize(
    "arguments", [["scores", "a.npz"], ["score", "a.npz", "b.npz"], ["compare", "a.npz"], ["score"], ["--colour"]]
)
def test_wrong_use(run, arguments):
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert err.startswith("Error: ") and "--help" in err


def test_failures_of_ours(run, monkeypatch):
    def fail(*arguments, **options):
        raise TypeError("unsupported\noperand")

    monkeypatch.setattr("jaxconvex.evaluation.evaluation.evaluate", fail)
    code, _, err = run("score", "a.npz")
    assert code == 1 and "Traceback" not in err
    assert "TypeError: unsupported operand. This is a fault of ours; please report it" in err.splitlines()[-1]
    monkeypatch.setenv("JAXCONVEX_DEBUG", "1")
    code, _, err = run("score", "a.npz")
    assert code == 1 and "Traceback" in err and "in fail" in err


def test_too_little_memory(run, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("jaxconvex.evaluation.evaluation.evaluate", fail)
    code, _, err = run("score", "a.npz")
    assert code == 1 and "--max-points" in err.splitlines()[-1]


@pytest.mark.parametrize("module", ["typer", "matplotlib", "rich"])
def test_missing_extras_are_named(run, monkeypatch, module):
    for name in list(sys.modules):
        if name == "jaxconvex.cli.commands" or name.partition(".")[0] == module:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run("score", "a.npz")
    assert code == 2 and len(err.splitlines()) == 1
    assert module in err and 'pip install "jaxconvex[report]"' in err
    monkeypatch.delitem(sys.modules, "jaxconvex.cli.commands", raising=False)


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="uses a POSIX shell")
@pytest.mark.parametrize("arguments", ["score a.npz", "compare a.npz b.npz", "--help"])
def test_a_pipe_that_nobody_reads_is_no_failure(folder, arguments):
    np.savez("b.npz", **ARRAYS)
    options = "" if "help" in arguments else "--k 4 --permutations 0 -o out"
    for reader in ("| true", "| head -1", "2>&1 | true", ">&-"):
        line = f"{sys.executable} -m jaxconvex {arguments} {options} {reader}; echo code ${{PIPESTATUS[0]}} >&2"
        made = subprocess.run(["bash", "-c", line], env=environment(folder / "cache"), capture_output=True, text=True)
        assert made.stderr.splitlines()[-1] == "code 0" and "Error" not in made.stderr and "rror:" not in made.stderr
        if options:
            assert any(Path("out").glob("*.json"))
    line = f"{sys.executable} -m jaxconvex score a.npz --k 4 --permutations 0 -o full > /dev/full; echo code $? >&2"
    made = subprocess.run(["bash", "-c", line], env=environment(folder / "cache"), capture_output=True, text=True)
    assert made.stderr.splitlines()[-2:] == ["Error: [Errno 28] No space left on device", "code 2"]
    assert read_report("full/scores.json").rows


# Interrupts ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_finished_layers_are_kept_and_reused(score, monkeypatch):
    assert score("a.npz", "--out", "whole")[0] == 0
    write, written = Report.to_json, []

    def interrupt(report, path):
        write(report, path)
        raise KeyboardInterrupt

    def count(report, path):
        written.append(Path(path))
        return write(report, path)

    monkeypatch.setattr(Report, "to_json", interrupt)
    code, _, err = score("a.npz", "--out", "again")
    assert code == 130
    assert err.splitlines()[-1].startswith("Interrupted. Finished layers are kept in again")
    kept = [path for path in Path("again").rglob("*") if path.is_file()]
    assert len(kept) == 1
    monkeypatch.setattr(Report, "to_json", count)
    assert score("a.npz", "--out", "again")[0] == 0
    assert len(written) == 3 and kept[0] not in written
    found, expected = (read_report(f"{name}/scores.json") for name in ("again", "whole"))
    np.testing.assert_equal([row._asdict() for row in found.rows], [row._asdict() for row in expected.rows])
    written.clear()
    assert score("a.npz", "--out", "again", "--seed", 1)[0] == 0
    assert len(written) == 4  # other settings: nothing is reused


def test_interrupts_outside_the_work(run, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "read_representations", interrupt)
    code, _, err = run("score", "a.npz")
    assert code == 130 and err.split() == ["Interrupted."]


def environment(folder: Path) -> dict[str, str]:
    package = str(Path(scoring.__file__).parents[1])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return inherited | {"XDG_CACHE_HOME": str(folder), "PYTHONPATH": paths}


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_an_interrupt_stops_compiled_code_at_once(folder):
    draws = np.random.default_rng(0)
    np.savez("long.npz", x=draws.normal(size=(60_000, 64)).astype(np.float32), label=np.arange(60_000) % 2)
    command = [sys.executable, "-m", "jaxconvex", "score", "long.npz", "--k", "4", "--permutations", "0"]
    # A shell that starts jobs in the background lets them ignore the interrupt.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, env=environment(folder), stderr=subprocess.PIPE, text=True, preexec_fn=heed
    ) as process:
        try:
            assert "60000 points" in process.stderr.readline()
            time.sleep(6)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            start = time.monotonic()
            _, err = process.communicate(timeout=60)
            assert time.monotonic() - start < 5
        finally:
            process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "Interrupted before a layer was finished."
    assert not (folder / "long-convexity").exists()


# The command itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ("score", "compare", "demo", "100 is convex")),
        (["--help"], ("jaxconvex score embeddings.npz", "JAXCONVEX_DEBUG")),
        (["score", "--help"], ("--labels", "--axis 1 --pool mean", ".safetensors", "natural order")),
        (["score", "-h"], ("--protocol",)),
        (["compare", "--help"], ("pretrained.npz finetuned.npz", "--classes")),
        (["demo", "--help"], ("digits", "--out")),
    ],
)
def test_help_teaches(run, arguments, parts):
    code, out, err = run(*arguments)
    assert code == 0 and err == ""
    assert all(part in out for part in parts)


def test_version(run):
    assert run("--version") == (0, f"jaxconvex {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("s", {"score", "study"}),
        ("study im", {"images", "images-vit"}),
        ("score --la", {"--labels", "--layer"}),
        ("score --metric c", {"cosine"}),
        ("study speech --metric ", {"euclidean", "cosine", "manhattan"}),
    ],
)
def test_the_shell_completes(monkeypatch, capsys, words, wanted):
    monkeypatch.setenv("_JAXCONVEX_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"jaxconvex {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" "))))
    with pytest.raises(SystemExit) as ended:
        main([])
    assert not ended.value.code
    assert set(capsys.readouterr().out.split()) == wanted


def test_completion_is_installed_from_the_command(folder):
    unknown_shell = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # so that the option takes the shell's name
    script = subprocess.run(
        [sys.executable, "-m", "jaxconvex", "--show-completion", "bash"],
        env=environment(folder / "cache") | unknown_shell,
        capture_output=True,
        text=True,
    )
    assert script.returncode == 0, script.stderr
    assert "_JAXCONVEX_COMPLETE=complete_bash" in script.stdout and script.stdout.rstrip().endswith(" jaxconvex")


def test_demo_runs_the_study(run, monkeypatch):
    from types import ModuleType

    module = ModuleType("jaxconvex.study.demo")
    module.run_demo = lambda out, *, seed=0, progress=True: f"in {out} with seed {seed}"  # type: ignore
    monkeypatch.setitem(sys.modules, "jaxconvex.study.demo", module)
    assert run("demo", "--out", "made", "--seed", 3)[:2] == (0, "in made with seed 3\n")


@pytest.mark.long
def test_the_command_in_a_process_of_its_own(folder):
    command = [
        sys.executable,
        "-m",
        "jaxconvex",
        "score",
        "a.npz",
        "--k",
        "4",
        "--permutations",
        "0",
        "--layer",
        "block_2",
    ]
    made = subprocess.run(command, env=environment(folder / "cache"), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1].startswith("Written to a-convexity")
    assert any((folder / "cache" / "jaxconvex").iterdir())
    assert json.loads((folder / "a-convexity/scores.json").read_text())["rows"]
    made = subprocess.run(
        [*command, "--labels", "none"], env=environment(folder / "cache"), capture_output=True, text=True
    )
    assert made.returncode == 2 and len(made.stderr.splitlines()) == 1
