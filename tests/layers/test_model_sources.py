"""A model as a source of evaluate: the same rows as from whole arrays, within bounded memory, and after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from processes import on_devices

import jaxconvex as jc
from jaxconvex.evaluation.report import select
from jaxconvex.layers import model_sources as module
from jaxconvex.layers.model_sources import model_source

pytest.importorskip("flax")
from flax import nnx

pytestmark = pytest.mark.usefixtures("unexplained")

N, TOKENS, WIDTH, CLASSES = 60, 5, 8, 3
RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(CLASSES), N // CLASSES)
X = (RNG.normal(size=(N, TOKENS, WIDTH)) + 2 * np.eye(CLASSES, WIDTH)[LABELS][:, None]).astype(np.float32)
MASK = np.arange(TOKENS) < RNG.integers(2, TOKENS + 1, N)[:, None]

evaluate = partial(jc.evaluate, k=5, jackknife=False, progress=False)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.mix = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, h, mask):
        valid = jnp.ones(h.shape[:2]) if mask is None else mask
        mean = (h * valid[..., None]).sum(1, keepdims=True) / valid.sum(1)[:, None, None]
        return h + jnp.tanh(self.mix(h + mean))


class Network(nnx.Module):
    def __init__(self, depth=3):
        rngs = nnx.Rngs(1)
        self.blocks = nnx.List([Block(rngs) for _ in range(depth)])
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x, mask=None):
        for block in self.blocks:
            x = block(x, mask)
        valid = jnp.ones(x.shape[:2]) if mask is None else mask
        return self.head((x * valid[..., None]).sum(1) / valid.sum(1)[:, None])


class Coder(nnx.Module):
    """As the encoders: embed, blocks, head; its tokens are every second of its inputs."""

    def __init__(self):
        self.network = Network()

    @property
    def blocks(self):
        return self.network.blocks

    def embed(self, x, mask=None):
        return 2 * x[:, ::2]

    def sequence_mask(self, x, mask=None):
        return None if mask is None else mask[:, ::2]

    def side(self, x, mask=None):
        return {"mask": self.sequence_mask(x, mask)}

    def block(self, i, h, mask=None):
        return self.blocks[i](h, mask)

    def head(self, h, mask=None):
        valid = jnp.ones(h.shape[:2]) if mask is None else mask
        return self.network.head((h * valid[..., None]).sum(1) / valid.sum(1)[:, None])

    def hidden_states(self, x, mask=None):
        h = self.embed(x, mask)
        states = {"embed": h}
        for i in range(3):
            h = states[f"blocks/{i}"] = self.block(i, h, self.sequence_mask(x, mask))
        return OrderedDict(states)


def by_hand(states, mask, rest):
    """The report from whole arrays: pooled by hand, and Euclidean scores layer by layer."""
    if mask is None:
        pooled = {name: np.asarray(h).mean(axis=1) for name, h in states.items()}
    else:
        weight = mask[..., None] / mask.sum(1)[:, None, None]
        pooled = {name: (np.asarray(h) * weight).sum(axis=1) for name, h in states.items()}
    report = evaluate(pooled, LABELS)
    scores = {}
    for name, h in states.items():
        points = jnp.asarray(h) if mask is None else (jnp.asarray(h), jnp.asarray(mask, jnp.float32))
        scores[name] = jc.euclidean_convexity(rest(name), points, LABELS, num_classes=CLASSES)
    return report, scores


def assert_same(found, report, scores):
    assert {row.layer: None for row in found.rows} == dict.fromkeys(scores)
    for name, score in scores.items():
        for kind, wanted in (
            ("graph", [row.score for row in select(report, level="class", layer=name)]),
            ("euclidean", score.per_class),
        ):
            rows = select(found, kind=kind, level="class", layer=name, labeling="labels")
            np.testing.assert_allclose([row.score for row in rows], wanted, atol=1e-5, err_msg=f"{kind} {name}")
    assert any(0.05 < score < 0.999 for one in scores.values() for score in one.per_class)  # so that it could differ


# Every kind of model --------------------------------------------------------------------------------------------------


@pytest.mark.long(after=1)
@pytest.mark.parametrize("masked", [False, True])
def test_an_nnx_module(masked):
    network, mask = Network(), MASK if masked else None
    _, states = jc.layers.from_nnx(network)(X, mask) if masked else jc.layers.from_nnx(network)(X)
    states = {name: h for name, h in states.items() if name.startswith("blocks")}

    def rest(name):
        def run(points):
            h, valid = points if masked else (points, None)
            valid = None if valid is None else valid > 0
            for block in network.blocks[int(name[-1]) + 1 :]:
                h = block(h, valid)
            return network.head(h.mean(1) if valid is None else (h * valid[..., None]).sum(1) / valid.sum(1)[:, None])

        return run

    inputs = (X, mask) if masked else X
    source = model_source(network, inputs, layers=["blocks/*"], mask=1 if masked else None, batch_size=16)
    assert_same(evaluate(source, LABELS), *by_hand(states, mask, rest))
    if masked:
        source = model_source(network, {"x": X, "mask": mask}, layers=["blocks/*"], mask="mask", batch_size=16)
        assert_same(evaluate(source, LABELS), *by_hand(states, mask, rest))


@pytest.mark.long
@pytest.mark.parametrize("masked", [False, True])
def test_an_encoder(masked):
    coder, mask = Coder(), MASK if masked else None
    states = {name: np.asarray(h) for name, h in coder.hidden_states(X, mask).items()}
    tokens = None if mask is None else mask[:, ::2]

    def rest(name):
        def run(points):
            h, valid = points if masked else (points, None)
            valid = None if valid is None else valid > 0
            for i in range(list(states).index(name), 3):
                h = coder.block(i, h, valid)
            return coder.head(h, valid)

        return run

    source = model_source(coder, (X, mask), batch_size=16)
    assert_same(evaluate(source, LABELS), *by_hand(states, tokens, rest))


@pytest.mark.long
def test_an_encoder_of_the_package():
    encoders = pytest.importorskip("jaxconvex.encoders")
    tiny = {"model_type": "bert", "vocab_size": 20, "max_position_embeddings": 8, "hidden_size": 8}
    tiny |= {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = encoders.initialise(tiny, num_classes=CLASSES, rngs=nnx.Rngs(0))
    ids = np.where(MASK, RNG.integers(1, 20, (N, TOKENS)), 0)
    found = evaluate(model_source(encoder, (ids, MASK)), LABELS, predictions="model")
    rows = select(found, kind="euclidean", level="micro", labeling="predicted")
    assert [row.layer for row in rows] == ["embed", "blocks/0", "blocks/1"]
    logits = np.asarray(encoder(ids, MASK))
    assert rows[0].recall == pytest.approx(np.mean(logits.argmax(1) == LABELS))


@pytest.mark.long
def test_an_encoder_without_a_classifier_has_the_graph_score_only():
    class Headless(Coder):
        def head(self, h, mask=None):
            return h

    found = evaluate(model_source(Headless(), X), LABELS)
    assert {row.kind for row in found.rows} == {"graph"}
    with pytest.raises(ValueError, match="it returns none"):
        evaluate(model_source(Headless(), X), LABELS, predictions="model")
    encoders = pytest.importorskip("jaxconvex.encoders")
    network = encoders.initialise({"model_type": "resnet1d", "epoch_len": 5}, rngs=nnx.Rngs(0)).truncate(1)
    signals = RNG.normal(size=(N, 150, 3)).astype(np.float32)
    found = evaluate(model_source(network, signals), LABELS)
    assert {(row.kind, row.layer) for row in found.rows} == {("graph", "embed"), ("graph", "blocks/0")}


WEIGHTS = [jnp.asarray(RNG.normal(size=(WIDTH, WIDTH)) / 2, jnp.float32) for _ in range(4)]


def apply(weights, x):
    states = {}
    for i, weight in enumerate(weights):
        x = states[f"layer {i}"] = jnp.tanh(x @ weight)
    return x.mean(1)[:, :CLASSES], states


def plain_rest(name):
    return Partial(rest_from, WEIGHTS[int(name[-1]) + 1 :])


def rest_from(weights, h):
    for weight in weights:
        h = jnp.tanh(h @ weight)
    return h.mean(1)[:, :CLASSES]


def plain(**options):
    return model_source(Partial(apply, WEIGHTS), X, **{"rest": plain_rest, "batch_size": 16} | options)


@pytest.mark.long
def test_a_function_and_its_rest():
    states = apply(WEIGHTS, X)[1]
    assert_same(evaluate(plain(), LABELS), *by_hand(states, None, plain_rest))
    assert {row.kind for row in evaluate(plain(rest=False), LABELS).rows} == {"graph"}
    assert {row.kind for row in evaluate(plain(rest=True), LABELS).rows} == {"graph"}  # nothing is known of the rest
    two = evaluate(plain(layers=["layer 2", "layer 0"]), LABELS)
    assert list(dict.fromkeys(row.layer for row in two.rows)) == ["layer 2", "layer 0"]


def test_inputs_made_by_row_numbers():
    asked = []

    def inputs(rows):
        asked.append(rows)
        return X[rows]

    found = evaluate(plain()._replace(inputs=inputs), LABELS)
    assert str(found.rows) == str(evaluate(plain(), LABELS).rows)
    assert max(map(len, asked)) == 16


# What evaluate does with it -------------------------------------------------------------------------------------------


@pytest.mark.long
def test_predictions_of_the_model():
    names = np.array(["ant", "bee", "cow"])
    logits = np.asarray(apply(WEIGHTS, X)[0])
    found = evaluate(plain(), names[LABELS], predictions="model", classes=list(names))
    given = evaluate(plain(), names[LABELS], predictions=names[logits.argmax(1)], classes=list(names))
    assert str(found.rows) == str(given.rows)
    # The logits of a folder of activations serve, too.
    stored = jc.extract(Partial(apply, WEIGHTS), X, pool="mean", batch_size=16, progress=False)
    rows = select(evaluate(stored, LABELS, predictions="model"), labeling="predicted", kind="graph", level="class")
    wanted = select(evaluate(plain(), LABELS, predictions="model"), labeling="predicted", kind="graph", level="class")
    np.testing.assert_allclose([row.score for row in rows], [row.score for row in wanted], atol=1e-5)


@pytest.mark.long
def test_points_are_drawn_before_the_model_runs():
    asked = []

    def inputs(rows):
        asked.append(rows)
        return X[rows]

    source = plain()._replace(inputs=inputs)
    found = evaluate(source, LABELS, max_points=30, predictions="model", key=jax.random.key(4))
    drawn = np.unique(np.concatenate([rows for rows in asked if len(rows) > 1]))
    assert len(drawn) == 30 and found.settings["num_points_scored"] == 30
    rows = select(found, kind="euclidean", labeling="labels", level="class", layer="layer 1")
    x = apply(WEIGHTS, X[drawn])[1]["layer 1"]
    score = jc.euclidean_convexity(plain_rest("layer 1"), x, LABELS[drawn], num_classes=CLASSES)
    np.testing.assert_allclose([row.score for row in rows], score.per_class, atol=1e-5)


@pytest.mark.long(after=2)
@pytest.mark.parametrize(("layers_held", "passes"), [(1, 4), (2, 2), (3, 2), (4, 1)])
def test_layers_are_read_in_groups_that_fit(layers_held, passes, monkeypatch):
    held = []

    def spied(*arguments, extract=module.extract, **options):
        found = extract(*arguments, **options)
        held.append(sum(found[name].nbytes for name in found))
        return found

    monkeypatch.setattr(module, "extract", spied)
    a_layer = X.nbytes
    found = evaluate(plain(memory=(layers_held + 1) * a_layer), LABELS)  # with the device's copy of one
    assert len(held) == 1 + passes  # the pooled features first
    assert max(held[1:]) == layers_held * a_layer
    assert str(found.rows) == str(evaluate(plain(), LABELS).rows)


@pytest.mark.long
def test_types_stay_narrow(monkeypatch):
    seen = []

    def spied(head, points, *arguments, rows=jc.evaluation.evaluation.segment_rows, **options):
        seen.append(points.dtype)
        return rows(head, points, *arguments, **options)

    monkeypatch.setattr("jaxconvex.evaluation.evaluation.segment_rows", spied)
    narrow = [w.astype(jnp.bfloat16) for w in WEIGHTS]
    source = model_source(
        Partial(apply, narrow),
        jnp.asarray(X, jnp.bfloat16),
        rest=lambda name: Partial(rest_from, narrow[int(name[-1]) + 1 :]),
    )
    evaluate(source, LABELS)
    assert seen == [jnp.bfloat16] * 4


# Going on after a stop ------------------------------------------------------------------------------------------------


def counting(monkeypatch):
    work = {"graph": 0, "euclidean": 0, "passes": 0}

    def spied(name, function):
        def count(*arguments, **options):
            work[name] += 1
            return function(*arguments, **options)

        return count

    home = jc.evaluation.evaluation
    monkeypatch.setattr(home, "graph_rows", spied("graph", home.graph_rows))
    monkeypatch.setattr(home, "segment_rows", spied("euclidean", home.segment_rows))
    monkeypatch.setattr(module, "extract", spied("passes", module.extract))
    return work


def test_finished_layers_are_kept_and_tell_networks_apart(tmp_path, monkeypatch):
    work = counting(monkeypatch)
    options = {"cache": tmp_path / "cache"}
    first = evaluate(plain(folder=tmp_path / "a"), LABELS, **options)
    assert work == {"graph": 4, "euclidean": 4, "passes": 2}
    again = evaluate(plain(folder=tmp_path / "a"), LABELS, **options)
    assert work == {"graph": 4, "euclidean": 4, "passes": 3} and str(again.rows) == str(first.rows)

    def other_rest(name):  # the last weight is doubled; what is before it is as before
        return Partial(rest_from, [*WEIGHTS[int(name[-1]) + 1 : 3], 2 * WEIGHTS[3]])

    other = Partial(apply, [*WEIGHTS[:3], 2 * WEIGHTS[3]])
    source = model_source(other, X, rest=other_rest, layers=["layer 0", "layer 1", "layer 2"], batch_size=16)
    evaluate(source, LABELS, **options)
    assert work["graph"] == 4  # the same features
    assert work["euclidean"] == 7  # another rest of the network


def test_heads_of_arrays_are_told_apart_too(tmp_path, monkeypatch):
    work = counting(monkeypatch)
    layers = {name: np.asarray(h).mean(1) for name, h in apply(WEIGHTS, X)[1].items()}

    def closure(weight):
        return lambda h: h @ weight

    for weight, done in ((1.0, 1), (1.0, 1), (2.0, 2)):
        head = closure(weight * np.eye(WIDTH, CLASSES))
        evaluate(layers, LABELS, heads={"layer 1": head}, cache=tmp_path)
        assert work["graph"] == 4 and work["euclidean"] == done


KILLED = """
import sys
sys.path[:0] = [sys.argv[2], sys.argv[2] + "/.."]
from test_model_sources import *
from jaxconvex.evaluation import evaluation
slow = float(sys.argv[3])

def slowly(*arguments, rows=evaluation.segment_rows, **options):
    time.sleep(slow)
    return rows(*arguments, **options)

evaluation.segment_rows = slowly
folder = Path(sys.argv[1])
report = evaluate(plain(folder=folder / "features"), LABELS, cache=folder / "cache")
report.to_json(folder / "report.json")
"""


@pytest.mark.long
def test_a_killed_evaluation_goes_on(tmp_path):
    def child(slow):
        script = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent), str(slow)]
        return subprocess.Popen(script, cwd=Path(jc.__file__).parents[1])

    killed, deadline = child(1.0), time.monotonic() + 120
    while not (tmp_path / "cache").exists() or len(list((tmp_path / "cache").glob("*.json"))) < 6:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.json")}
    assert len(kept) == 6  # four layers of the graph, two of the Euclidean score
    assert child(0).wait(timeout=120) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.json")}
    assert len(after) == 8 and {name: after[name] for name in kept} == kept
    found = jc.read_report(tmp_path / "report.json")
    assert str(found.rows) == str(evaluate(plain(), LABELS).rows)


# A mapping that reads lazily ------------------------------------------------------------------------------------------


def test_a_folder_is_scored_one_layer_at_a_time(tmp_path, monkeypatch):
    stored = jc.extract(Partial(apply, WEIGHTS), X, pool="mean", batch_size=16, folder=tmp_path, progress=False)
    whole = evaluate({name: stored[name] for name in stored}, LABELS)
    events = []
    monkeypatch.setattr(stored, "_read", lambda name, read=stored._read: (events.append(name), read(name))[1])

    def spied(*arguments, rows=jc.evaluation.evaluation.graph_rows, **options):
        events.append("scored")
        return rows(*arguments, **options)

    monkeypatch.setattr("jaxconvex.evaluation.evaluation.graph_rows", spied)
    found = evaluate(stored, LABELS)
    assert str(found.rows) == str(whole.rows)
    layers = [event for event in events if event != "outputs"]
    assert layers == ["layer 0", "scored", "layer 1", "scored", "layer 2", "scored", "layer 3", "scored"]


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (lambda: plain(), {"pool": "mean"}, "pass pool= and rest= to model_source"),
        (lambda: plain(), {"labels": LABELS[:-1]}, "one point for each of 59 labels"),
        (lambda: plain(), {"labels": LABELS.astype(str)}, "order of the logits"),
        (lambda: plain(), {"labels": LABELS + 1}, "need column 3"),
        (lambda: plain(layers="layer 9"), {}, "the layers are 'layer"),
        (lambda: plain(pool="max"), {}, "'cls', 'last', 'mean'"),
        (lambda: plain(rest=lambda name: plain_rest("layer 3")), {}, "begins after this layer"),
        (lambda: model_source(Network(), (X, MASK), layers="blocks/0"), {}, "name that as mask="),
        (lambda: plain()._replace(inputs=lambda rows: X[:5]), {}, "one point a row"),
        (lambda: plain(), {"predictions": "model", "classes": [0, 1]}, "not among the classes|name all 3 columns"),
    ],
)
def test_messages(source, options, message):
    options = {"labels": LABELS} | options
    with pytest.raises(ValueError, match=message):
        evaluate(source(), options.pop("labels"), **options)


# Many devices ---------------------------------------------------------------------------------------------------------

MESH = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]
from test_model_sources import *
mesh = jax.make_mesh((8,), ("devices",))
one, many = (evaluate(plain(), LABELS, mesh=m) for m in (None, mesh))
np.testing.assert_allclose([row.score for row in one.rows], [row.score for row in many.rows], atol=1e-5)
print("equal on", mesh.size, len(one.rows))
"""


@pytest.mark.long
def test_a_mesh_finds_the_same():
    script = [sys.executable, "-c", MESH, str(Path(__file__).parent)]
    done = subprocess.run(
        script, capture_output=True, text=True, cwd=Path(jc.__file__).parents[1], env=on_devices(), timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "equal on 8 40"


def test_a_layer_that_does_not_fit_is_refused_before_the_model_runs():
    def model(x):
        raise_if_run.append(isinstance(x, jax.core.Tracer))
        return apply(WEIGHTS, x)

    raise_if_run = []
    with pytest.raises(ValueError, match=r"'layer 0' with its copy on the device has .* GB.*max_points"):
        evaluate(model_source(model, X, rest=plain_rest, memory=X.nbytes), LABELS)
    assert all(raise_if_run)
    evaluate(model_source(model, X, rest=False, memory=1), LABELS)  # the graph score holds no whole layers


PEAK = """
import gc, re, sys
import numpy as np, jax, jax.numpy as jnp
import jaxconvex as jc

def status(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

def peak(work):
    work()  # compiled
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    work()
    return status("VmHWM") - before

rng = np.random.default_rng(0)
weights = [rng.normal(size=(64, 64)).astype("f") / 8 for _ in range(6)]
labels, layer = np.arange(600) % 3, 600 * 320 * 64 * 4

def apply(start, h):
    layers = {}
    for i in range(start, 6):
        h = layers[f"layer {i}"] = jnp.tanh(h @ weights[i])
    return h.mean(axis=1)[:, :3], layers

def inputs(rows):
    return np.random.default_rng(0).normal(size=(len(rows), 320, 64)).astype("f")

def rest(name):
    return lambda h: apply(int(name[-1]) + 1, h)[0]

def whole(memory):
    source = jc.model_source(lambda x: apply(0, x), inputs, rest=rest, memory=memory)
    jc.evaluate(source, labels, k=5, max_segments=20, progress=False, jackknife=False)

points = rng.normal(size=(30_000, 16)).astype("f")
graph = jc.KNNGraph(
    jnp.asarray((np.arange(30_000)[:, None] + 1 + np.sort(rng.choice(300, (30_000, 10)), axis=1)) % 30_000, jnp.int32),
    jnp.asarray(np.sort(rng.random((30_000, 10)), axis=1), jnp.float32),
)
classes = np.arange(30_000) % 3
options = dict(num_classes=3, max_sources=4, key=jax.random.key(0))
found = {
    "model": (2.05 * layer, peak(lambda: whole(2.05 * layer)), 120e6),
    "search": (1.7e8, peak(lambda: jax.block_until_ready(jc.knn_graph(points, k=10, memory=1.7e8))), 10e6),
    "packed": (8e7, peak(lambda: jc.graph_convexity(graph, classes, memory=8e7, **options)), 10e6),
}
packed = jc.pack(graph)
found["chains"] = (7e7, peak(lambda: jc.graph_convexity(packed, classes, memory=7e7, **options)), 10e6)
options["max_sources"] = 60
found["more chains"] = (1.3e8, peak(lambda: jc.graph_convexity(packed, classes, memory=1.3e8, **options)), 10e6)
packed = jc.pack(jc.knn_graph(points, k=10))
found["paths"] = (6e7, peak(lambda: jc.graph_convexity(packed, classes, memory=6e7, **options)), 10e6)
print(found)
assert all(taken < memory + beside for memory, taken, beside in found.values())
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_the_peak_is_within_the_memory_allowed():
    """In a process of its own, whose allocator gives back what is freed; compiling apart, and batches at work."""
    environment = {
        **os.environ,
        "MALLOC_TRIM_THRESHOLD_": "0",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", PEAK], env=environment, capture_output=True, text=True, cwd=Path(jc.__file__).parents[1]
    )
    assert done.returncode == 0, done.stdout + done.stderr
