"""Files that outlive a run: each way of damaging them, what tells functions apart, two processes at one place, kills."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxconvex as jc
from jaxconvex._internal import kept
from jaxconvex.evaluation.report import Report, read_report
from jaxconvex.layers import extract, extraction, read_activations
from jaxconvex.study import steps
from jaxconvex.study.training import states

pytest.importorskip("safetensors")

ROOT = Path(jc.__file__).parents[1]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def emptied(raw):
    return b""


def cut(raw):
    return raw[: len(raw) // 2]


def changed(raw):
    """One digit of a number is another."""
    at = raw.rindex(b"0.") + 2 if b"0." in raw else len(raw) - 3
    return raw[:at] + (b"7" if raw[at : at + 1] != b"7" else b"3") + raw[at + 1 :]


def other_version(raw):
    return (
        raw.replace(b'"version": ', b'"version": 9')
        if b'"version": ' in raw
        else raw.replace(b'{"kept":"', b'{"kepd":"')
    )


def noise(raw):
    return bytes(range(256)) * 4


DAMAGES = [emptied, cut, changed, other_version, noise]


def damage(path, how):
    raw = path.read_bytes()
    damaged = how(raw)
    assert damaged != raw
    path.write_bytes(damaged)


def lines(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.strip()]


# Single files ---------------------------------------------------------------------------------------------------------


def test_every_byte_of_arrays_counts(tmp_path):
    path = tmp_path / "arrays"
    arrays = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "": np.array(2.5), "../b": np.zeros(0, np.float32)}
    kept.write_arrays(path, arrays, {"of": [1, "é"]}, "report")
    record, found = kept.read_arrays(path)
    assert record == {"of": [1, "é"]} and list(found) == list(arrays)
    assert all(found[name].tobytes() == arrays[name].tobytes() for name in arrays)
    assert {found[name].shape for name in arrays} == {(2, 3), (), (0,)}
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            other = kept.read_arrays(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:  # the blanks that fill up the header, and what stands twice
            assert other[0] == record
            assert all(other[1][name].tobytes() == arrays[name].tobytes() for name in arrays)
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="arrays"):
            kept.read_arrays(path)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), OSError(errno.EMFILE, "no"), MemoryError()])
def test_what_cannot_be_read_is_not_taken_for_broken(tmp_path, error, monkeypatch):
    path = kept.write_arrays(tmp_path / "arrays", {"a": X}, None, "report")

    def fails(*_, **__):
        raise error

    monkeypatch.setattr("safetensors.safe_open", fails)
    with pytest.raises(type(error)):
        kept.found(path, kept.read_arrays)
    with pytest.raises(type(error)):
        states.read_tree(path, {"a": X})


@pytest.mark.long
@pytest.mark.parametrize("how", [emptied, cut, changed, noise])
def test_a_report_that_was_changed_is_refused(tmp_path, how):
    rows = jc.evaluate(X, Y, k=5, jackknife=False, progress=False).rows
    path = Report(rows, {"confidence": 0.95}, {}).to_json(tmp_path / "scores.json")
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data, indent=3))  # other spaces are no change
    assert str(read_report(path).rows) == str(rows)
    for entries in (data | {"rows": []}, data | {"settings": {"confidence": 0.99}}):
        path.write_text(json.dumps(entries))
        with pytest.raises(ValueError, match="not as it was written"):
            read_report(path)
        del entries["sha256"]
        path.write_text(json.dumps(entries))
        assert list(read_report(path).rows) == [] or read_report(path).settings["confidence"] == 0.99
    path.write_text(json.dumps(data))
    damage(path, how)
    with pytest.raises(ValueError, match=str(path)):
        read_report(path)


def test_a_name_of_many_bytes_can_be_written(tmp_path):
    path = tmp_path / ("語" * 80)
    assert kept.write_arrays(path, {"a": X}, None, "report").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


# The scores of finished layers ----------------------------------------------------------------------------------------


def scores(cache, x=X, labels=Y, **options):
    given = {"k": 5, "jackknife": False, "progress": False} | options
    return [row.score for row in jc.evaluate(x, labels, cache=cache, **given).rows]


class Power:
    def __init__(self, p):
        self.p = p

    def distance(self, u, v):
        return jnp.sum(jnp.abs(u - v) ** self.p) ** (1 / self.p)


def power(u, v, p):
    return Power(p).distance(u, v)


WEIGHTS = np.array([1.0, 1.0, 1.0], np.float32)


def weighted(u, v):
    return jnp.sqrt(jnp.sum(jnp.asarray(WEIGHTS) * (u - v) ** 2) + 1e-12)


def scaled(weights):
    return lambda u, v: jnp.sqrt(jnp.sum(weights * (u - v) ** 2) + 1e-12)


@pytest.mark.long
def test_scores_are_kept_by_what_the_metric_computes(tmp_path, monkeypatch, capsys):
    owner = Power(1.0)
    metrics = [
        lambda u, v: jnp.sum(jnp.abs(u - v)),
        lambda u, v: jnp.max(jnp.abs(u - v)),
        partial(power, p=1.5),
        partial(power, p=4.0),
        owner.distance,
        scaled(np.array([9.0, 1.0, 1.0], np.float32)),
        scaled(jnp.array([1.0, 1.0, 9.0])),
        Partial(lambda weights, u, v: jnp.sum(weights * jnp.abs(u - v)), jnp.array([5.0, 1.0, 0.2])),
        Partial(lambda weights, u, v: jnp.sum(weights * jnp.abs(u - v)), jnp.array([0.2, 1.0, 5.0])),
        weighted,
    ]
    for metric in metrics:
        assert scores(tmp_path, metric=metric) == scores(None, metric=metric)
    owner.p = 6.0
    monkeypatch.setitem(globals(), "WEIGHTS", np.array([0.01, 1.0, 9.0], np.float32))
    for metric, again in ((owner.distance, partial(power, p=6.0)), (weighted, scaled(WEIGHTS))):
        assert scores(tmp_path, metric=metric) == scores(None, metric=again)
    count = len(list(tmp_path.iterdir()))
    renamed = lambda a, b: jnp.sum(jnp.abs(a - b))  # noqa: E731
    scores(tmp_path, metric=renamed)
    assert len(list(tmp_path.iterdir())) == count and lines(capsys) == []
    with pytest.raises(ValueError, match="JAX can trace: chebyshev"):
        scores(tmp_path, metric=chebyshev)


def chebyshev(u, v):
    return np.max(np.abs(np.asarray(u) - np.asarray(v)))


def called_back(function):
    def metric(u, v):
        shape = jax.ShapeDtypeStruct((), u.dtype)
        return jax.pure_callback(lambda a, b: np.float32(function(a, b)), shape, u, v, vmap_method="sequential")

    return metric


@pytest.mark.long
def test_what_calls_back_to_python_is_not_kept(tmp_path, capsys):
    given = {"x": X[:12], "k": 3}
    distances = {
        lambda a, b: np.abs(a - b).sum(): lambda a, b: jnp.sum(jnp.abs(a - b)),
        lambda a, b: np.abs(a - b).max(): lambda a, b: jnp.max(jnp.abs(a - b)),
    }
    for function, traced in distances.items():
        found = scores(tmp_path, labels=Y[:12], metric=called_back(function), **given)
        assert found == scores(None, labels=Y[:12], metric=traced, **given)
        (line,) = lines(capsys)
        assert "metric of layer 'representation' are not kept" in line
    assert not list(tmp_path.iterdir())


TOKENS = RNG.normal(size=(60, 4, 3)).astype(np.float32)


@pytest.mark.long
def test_scores_are_kept_by_what_the_pooling_gives(tmp_path):
    place = [0]

    def moved(h):
        return h[:, place[0]]

    pools = [
        "cls",
        "mean",
        lambda h: h[:, 1],
        lambda h: h[:, 2],
        lambda h: np.max(np.asarray(h), axis=1),
        lambda h: np.min(np.asarray(h), axis=1),
        partial(np.quantile, q=0.3, axis=1),
        partial(np.quantile, q=0.9, axis=1),
        moved,
    ]
    for pool in pools:
        assert scores(tmp_path, TOKENS, pool=pool) == scores(None, TOKENS, pool=pool)
    with pytest.raises(ValueError, match=r"one vector a point, \(60, d\); it gives shape \(5, 3\)"):
        scores(None, TOKENS, pool=lambda h: h[:5, 0])
    place[0] = 3
    assert scores(tmp_path, TOKENS, pool=moved) == scores(None, TOKENS[:, 3])


@pytest.mark.long
def test_heads_labelings_and_precision_are_told_apart(tmp_path):
    other = (X[:, 1] > 0).astype(int)
    shift = [0.0]

    def head(h):
        return jnp.stack([h[:, 0] + shift[0], 0 * h[:, 0]], axis=1)

    def found(cache, labels):
        rows = jc.evaluate(
            {"x": X}, labels, heads={"x": head}, predictions=Y, k=5, jackknife=False, progress=False, cache=cache
        ).rows
        return [(row.kind, row.labeling, row.label, str(row.score), str(row.recall)) for row in rows]

    for labels in ({"a": Y, "b": other}, {"b": other, "a": Y}):
        assert found(tmp_path, labels) == found(None, labels)
    shift[0] = 1.5
    assert found(tmp_path, {"a": Y}) == found(None, {"a": Y})
    count = len(list(tmp_path.iterdir()))
    with jax.enable_x64(True):
        found(tmp_path, {"a": Y})
    assert len(list(tmp_path.iterdir())) > count


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.long
def test_a_damaged_score_is_made_again(tmp_path, how, capsys):
    first = scores(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damage(path, how)
    assert scores(tmp_path) == first
    (line,) = lines(capsys)
    assert str(path) in line and line.endswith("It is made again.")
    assert path.read_bytes() == whole


@pytest.mark.long
def test_scores_that_changed_places_are_made_again(tmp_path, capsys):
    first, second = scores(tmp_path), scores(tmp_path, k=9)
    one, other = tmp_path.iterdir()
    raw = one.read_bytes(), other.read_bytes()
    one.write_bytes(raw[1])
    other.write_bytes(raw[0])
    assert (scores(tmp_path), scores(tmp_path, k=9)) == (first, second)
    assert len(lines(capsys)) == 2


# Activations ----------------------------------------------------------------------------------------------------------


def model(x):
    return x.sum(axis=1), {"input": x, "hidden": jnp.tanh(x)}


def parts(x=X):
    return [x[start : start + 7] for start in range(0, len(x), 7)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A finished one, a shard a batch."""
    monkeypatch.setattr(extraction, "SHARD_BYTES", 1)
    activations(tmp_path / "features")
    return tmp_path / "features"


def activations(folder, batches=None, function=model):
    found = extract(function, iter(parts() if batches is None else batches), folder=folder, progress=False)
    return {name: found[name].tobytes() for name in found} | {"outputs": found.outputs.tobytes()}


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("how", [emptied, cut, changed, noise])
def test_every_damaged_file_of_activations_is_made_again(folder, how, capsys):
    expected, names = activations(folder), files(folder)
    contents = {name: (folder / name).read_bytes() for name in names}
    assert len(names) == 10
    for name in ("index.json", names[1], names[5], names[-1]):
        damage(folder / name, how)
        assert activations(folder) == expected and files(folder) == names
        (line,) = lines(capsys)
        assert name in line and "made again" in line
        assert name == "index.json" or (folder / name).read_bytes() == contents[name]
        assert read_activations(folder)["hidden"].tobytes() == expected["hidden"]


def test_reading_tells_of_damage(folder):
    index, *shards = sorted(folder.iterdir())
    found = read_activations(folder)
    damage(shards[3], changed)
    with pytest.raises(ValueError, match=r"does not agree\. Call extract"):
        [found[name] for name in found], found.outputs
    damage(index, other_version)
    with pytest.raises(ValueError, match=r"index\.json is no index of activations of version 2, or not whole"):
        read_activations(folder)


def test_shards_that_changed_places_are_made_again_and_foreign_ones_refused(folder, tmp_path, capsys):
    expected = activations(folder)
    one, other = (folder / f"shard-{first:08d}.safetensors" for first in (2, 3))
    raw = one.read_bytes(), other.read_bytes()
    one.write_bytes(raw[1])
    other.write_bytes(raw[0])
    assert activations(folder) == expected and len(lines(capsys)) == 2
    activations(tmp_path / "other", function=lambda x: (x.sum(axis=1), {"input": x, "hidden": jnp.sin(x)}))
    foreign = (tmp_path / "other" / one.name).read_bytes()
    one.write_bytes(foreign)
    with pytest.raises(ValueError, match=r"of another run.*take it out"):
        activations(folder)
    assert one.read_bytes() == foreign
    one.unlink()
    assert activations(folder) == expected


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), OSError(errno.EMFILE, "no"), MemoryError()])
def test_shards_that_cannot_be_opened_stay(folder, monkeypatch, error):
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def fails(*_, **__):
        raise error

    with monkeypatch.context() as patched, pytest.raises(type(error)):
        patched.setattr("safetensors.safe_open", fails)
        activations(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("finished", [True, False])
def test_later_batches_of_a_generator_are_checked(folder, finished):
    if not finished:  # as it is after a kill: no list of shards, and some of them lost
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").unlink()
        (folder / "shard-00000008.safetensors").unlink()
        assert index["finished"]
    other = parts()
    other[5] = other[5] + 1
    with pytest.raises(ValueError, match="batch 5 is not the one"):
        activations(folder, other)
    with pytest.raises(ValueError, match=r"made from (at least )?\d batches; got 4"):
        activations(folder, parts()[:4])
    if finished:
        with pytest.raises(ValueError, match="made from 9 batches, and there is a batch 9"):
            activations(folder, [*parts(), X[:2]])
        (folder / "shard-00000005.safetensors").unlink()
        with pytest.raises(ValueError, match="batch 5 is not the one"):
            activations(folder, other)


def test_a_folder_that_lost_its_index_and_is_of_another_run_stays(folder):
    before = {path: path.read_bytes() for path in folder.glob("shard*")}
    damage(folder / "index.json", cut)
    with pytest.raises(ValueError, match="is not of this run"):
        activations(folder, function=lambda x: (x.sum(axis=1), {"input": x, "hidden": x}))
    assert {path: path.read_bytes() for path in folder.glob("shard*")} == before
    for content in ("{}", '{"format": "jaxconvex activations", "version": 1, "finished": true}'):
        (folder / "index.json").write_text(content)
        with pytest.raises(ValueError, match="no index of activations of version 2"):
            activations(folder)
        assert (folder / "index.json").read_text() == content


def test_finishing_needs_every_batch_in_one_shard(folder, monkeypatch):
    from jaxconvex.layers import shards

    write = shards.write_shard

    def forgetful(*arguments):
        shard = write(*arguments)
        if shard.first == 4:
            shard.path.unlink()
        return shard

    monkeypatch.setattr(shards, "write_shard", forgetful)
    with pytest.raises(ValueError, match="the shard of batch 4 is not there"):
        activations(folder.parent / "other")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="is not finished"):
        read_activations(folder.parent / "other")


def test_a_file_of_others_stays_and_an_index_without_shards_is_made_again(tmp_path, capsys):
    index = tmp_path / "index.json"
    index.write_text("entries: by hand")
    with pytest.raises(ValueError, match="no index of activations"):
        activations(tmp_path)
    assert index.read_text() == "entries: by hand" and not lines(capsys)
    for content in ("", '{\n "format": "jaxconvex activations",\n "ver'):
        index.write_text(content)
        assert activations(tmp_path)["hidden"] and len(lines(capsys)) == 1
        for path in tmp_path.iterdir():
            path.unlink()


@pytest.mark.parametrize("name", ["a/b", "..", "../up", "", " ", "é", "index.json", "run"])
def test_any_name_is_a_layer(tmp_path, name):
    found = extract(lambda x: {name: x, "other": 2 * x}, X, batch_size=40, folder=tmp_path, progress=False)
    np.testing.assert_array_equal(found[name], X)
    assert files(tmp_path) == ["index.json", "shard-00000000.safetensors"]


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_names_that_no_file_can_hold(tmp_path, name):
    with pytest.raises(ValueError, match="no place for a layer"):
        extract(lambda x: {name: x}, X, batch_size=40, folder=tmp_path / "features", progress=False)
    assert not (tmp_path / "features").exists()
    assert extract(lambda x: {name: x}, X, batch_size=40, progress=False)[name].shape == X.shape


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64", "float8_e4m3fn", "int4"])
def test_types_that_no_file_can_hold(tmp_path, dtype):
    given = {"batch_size": 40, "folder": tmp_path, "progress": False}
    if dtype in ("bfloat16", "complex64"):
        first, again = (extract(lambda x: {"h": x.astype(dtype)}, X, **given)["h"] for _ in range(2))
        assert first.dtype == jnp.dtype(dtype) and first.tobytes() == again.tobytes()
    else:
        with pytest.raises(ValueError, match=f"of type {dtype}.*dtype='float32'"):
            extract(lambda x: {"h": x.astype(dtype)}, X, **given)


def test_names_that_are_one_as_text():
    with pytest.raises(ValueError, match="names of their own"):
        extract(lambda x: {1: x, "1": 2 * x}, X, batch_size=40, progress=False)


def test_a_model_that_calls_back_to_python_does_not_go_on(tmp_path):
    def back(function):
        return lambda x: {"h": jax.pure_callback(function, jax.ShapeDtypeStruct(x.shape, x.dtype), x)}

    found = extract(back(np.sin), X, batch_size=40, folder=tmp_path, progress=False)
    np.testing.assert_allclose(found["h"], np.sin(X), rtol=1e-6)
    with pytest.raises(ValueError, match="nothing tells whether it is the same"):
        extract(back(np.cos), X, batch_size=40, folder=tmp_path, progress=False)
    np.testing.assert_allclose(read_activations(tmp_path)["h"], np.sin(X), rtol=1e-6)


# Steps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_step_is_made_again(tmp_path, how, capsys):
    made = []

    def make(place):
        made.append(sorted(path.name for path in place.iterdir()))
        (place / "inner").mkdir(exist_ok=True)
        states.write_tree(place / "inner" / "state", {"a": X})
        (place / "facts.json").write_text('{"version": 1, "loss": 0.25}')

    place = steps.kept(tmp_path, "step", {"of": 1}, make)
    whole = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert sorted(path.name for path in whole) == ["facts.json", "state", "step.json"]
    for path in whole:
        damage(path, how)
        assert steps.kept(tmp_path, "step", {"of": 1}, make) == place
        (line,) = lines(capsys)
        assert path.name in line
        assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == whole
    (place / "facts.json").unlink()
    steps.kept(tmp_path, "step", {"of": 1}, make)
    assert len(made) == 5 and files(tmp_path) == [place.name]
    other = steps.kept(tmp_path, "step", {"of": 2}, make)
    (other / "step.json").write_bytes((place / "step.json").read_bytes())
    steps.kept(tmp_path, "step", {"of": 2}, make)
    assert len(made) == 7


@pytest.mark.parametrize("how", [emptied, cut, changed, noise])
def test_damaged_states_are_not_read(tmp_path, how, capsys):
    path = states.write_tree(tmp_path / "state", {"a": X, "n": np.array(3)}, fingerprint="f")
    assert states.read_tree(path, {"a": X, "n": np.array(0)}, fingerprint="f")["n"] == 3
    assert states.read_tree(path, {"a": X, "n": np.array(0)}, fingerprint="g") is None and not lines(capsys)
    damage(path, how)
    assert states.read_tree(path, {"a": X, "n": np.array(0)}, fingerprint="f") is None
    (line,) = lines(capsys)
    assert str(path) in line


# Two at one place -----------------------------------------------------------------------------------------------------


def test_a_folder_has_one_lock(tmp_path):
    with kept.lock(tmp_path):
        who = rf"process \(pid {os.getpid()} on .* since 2.*\) works here"
        with pytest.raises(BlockingIOError, match=who), kept.lock(tmp_path):
            pass
        assert files(tmp_path) == [kept.LOCK]
    with kept.lock(tmp_path):
        pass
    assert not files(tmp_path)


def test_a_folder_that_cannot_be_written_needs_no_lock(folder, monkeypatch):
    def denied(path, *_):
        raise PermissionError(errno.EACCES, "denied", str(path))

    expected = activations(folder)
    with monkeypatch.context() as patched:
        patched.setattr("jaxconvex._internal.kept.os.open", denied)
        assert activations(folder) == expected


HOLD = """
import sys
from pathlib import Path
from jaxconvex._internal import kept
with kept.lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.long
def test_a_second_process_gets_one_line_and_a_killed_one_leaves_the_folder_free(tmp_path):
    np.savez(tmp_path / "e.npz", x=X, labels=Y)

    def holder(folder):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-c", HOLD, str(folder)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "held\n"
        return process

    def score():
        command = [sys.executable, "-m", "jaxconvex", "score", str(tmp_path / "e.npz"), "--out", str(tmp_path / "out")]
        options = ["--permutations", "0", "--no-jackknife"]
        return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)

    with pytest.raises(BlockingIOError, match="works here"):
        one = holder(tmp_path / "features")
        extract(model, X, batch_size=40, folder=tmp_path / "features", progress=False)
    one.kill()
    one.wait()
    extract(model, X, batch_size=40, folder=tmp_path / "features", progress=False)
    assert kept.LOCK not in files(tmp_path / "features")

    one = holder(tmp_path / "out")
    second = score()
    assert second.returncode == 2 and "Traceback" not in second.stderr
    assert f"Error: another process (pid {one.pid} on " in second.stderr.splitlines()[-1]
    assert files(tmp_path / "out") == [kept.LOCK]
    one.send_signal(signal.SIGKILL)
    one.wait()
    assert files(tmp_path / "out") == [kept.LOCK]
    assert score().returncode == 0
    assert kept.LOCK not in files(tmp_path / "out") and "scores.json" in files(tmp_path / "out")


KILLS = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
import jaxconvex as jc
from jaxconvex.cli import writing
from jaxconvex.layers import extraction
from jaxconvex.study import steps, training

place = Path(sys.argv[1])
jax.config.update("jax_compilation_cache_dir", str(place / "compiled"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
extraction.SHARD_BYTES = 1
x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
y = (x[:, 0] > 0).astype(np.int32)

def batches():
    for start in range(0, 60, 10):
        time.sleep(0.03)
        yield x[start : start + 10]

def model(x):
    return {f"layer {i}": jnp.sin(i * x) for i in range(1, 4)}

def tuned(step):
    network = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    pause = lambda *_: time.sleep(0.03)
    options = dict(num_epochs=4, checkpoint=step / "checkpoint", progress=pause)
    found = training.fine_tune(network, x, y, x, y, jax.random.key(0), **options)
    training.save_state(found.model, step / "state")

def work(folder):
    with writing.output_folder(folder):
        found = jc.extract(model, batches(), folder=folder / "features", progress=False)
        step = steps.kept(folder / "work", "tuned", 1, tuned)
        options = dict(k=4, jackknife=False, progress=False)
        report = jc.evaluate(found, y, cache=folder / ".cache", **options)
        (folder / "report").write_text(str(report.rows))
        (folder / "state").write_bytes((step / "state").read_bytes())
        (folder / "arrays").write_bytes(b"".join(found[name].tobytes() for name in found))

def run(folder):
    child = os.fork()  # before JAX has begun its threads
    if child == 0:
        try:
            work(folder)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

assert ended(run(place / "first")) == 0  # compiles
began = time.monotonic()
assert ended(run(place / "whole")) == 0
seconds = time.monotonic() - began
names = "report", "state", "arrays"
expected = [(place / "whole" / name).read_bytes() for name in names]
draw, kills, runs, folder = random.Random(0), 0, 0, place / "killed"
while kills < 20:
    child, runs = run(folder), runs + 1
    time.sleep(draw.uniform(0.05, 0.8) * seconds)
    os.kill(child, signal.SIGKILL)
    code = ended(child)
    assert code in (0, -signal.SIGKILL), code
    kills += code != 0
    if code == 0 or kills == 20:
        assert ended(run(folder)) == 0
        assert [(folder / name).read_bytes() for name in names] == expected
        assert not [path for path in folder.rglob(".*") if path.name != ".cache"]
        shutil.rmtree(folder)
print(kills, "kills in", runs, "runs of", round(seconds, 2), "s")
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_twenty_kills_at_random_moments_end_with_the_same_bits(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "ignore", "-c", KILLS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("20 kills"), done.stdout
