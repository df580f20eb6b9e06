"""extract(): layers against a plain loop; pooling; folders that survive a kill; many devices; messages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from processes import on_devices

import jaxconvex as jc
from jaxconvex._internal.functions import _run, as_program
from jaxconvex.layers import extract, read_activations
from jaxconvex.layers import extraction as module
from jaxconvex.layers.batches import padded

pytest.importorskip("safetensors")

RNG = np.random.default_rng(0)
WEIGHTS = [jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32) for _ in range(11)]
X = RNG.normal(size=(13, 5, 4)).astype(np.float32)
MASK = np.arange(5) < RNG.integers(1, 6, 13)[:, None]

quiet = partial(extract, progress=False)


def apply(weights, x, mask=None):
    """Eleven layers, so that sorting the names would change their order; a dict, which jit would sort."""
    found = {}
    for i, weight in enumerate(weights):
        x = found[f"layers/{i}"] = jnp.tanh(x @ weight)
    valid = jnp.ones(x.shape[:2]) if mask is None else mask
    return (x * valid[..., None]).sum(axis=1), found


model = Partial(apply, WEIGHTS)


def expected(x=X, mask=None):
    outputs, layers = apply(WEIGHTS, jnp.asarray(x), mask)
    return np.asarray(outputs), {name: np.asarray(h) for name, h in layers.items()}


def assert_equal(found, outputs, layers):
    assert list(found) == list(layers)
    np.testing.assert_allclose(found.outputs, outputs, atol=1e-5)
    for name, h in layers.items():
        np.testing.assert_allclose(found[name], h, atol=1e-5)
        assert found.shapes[name] == h.shape and found.dtypes[name] == h.dtype


class Sentences(NamedTuple):
    x: np.ndarray
    mask: np.ndarray


# What comes out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 13, 50])
@pytest.mark.parametrize("on_disk", [False, True])
def test_layers_are_those_of_one_call(batch_size, on_disk, tmp_path):
    found = quiet(model, X, batch_size=batch_size, folder=tmp_path / "a" if on_disk else None)
    assert_equal(found, *expected())
    if on_disk:
        assert_equal(read_activations(tmp_path / "a"), *expected())


@pytest.mark.parametrize(
    "batches",
    [
        lambda: [(X[:5], MASK[:5]), (X[5:10], MASK[5:10]), (X[10:], MASK[10:])],
        lambda: ([X[i : i + 5], MASK[i : i + 5]] for i in range(0, 13, 5)),
        lambda: ({"x": X[i : i + 5], "mask": MASK[i : i + 5]} for i in range(0, 13, 5)),
        lambda: iter([Sentences(X[:3], MASK[:3]), Sentences(jnp.asarray(X[3:]), jnp.asarray(MASK[3:]))]),
    ],
)
def test_batches_of_every_kind(batches):
    assert_equal(quiet(model, batches()), *expected(mask=MASK))


def test_whole_inputs_of_every_kind():
    for inputs in ((X, MASK), {"mask": MASK, "x": X}, Sentences(X, MASK), (X.tolist() and X, None)):
        mask = None if isinstance(inputs, tuple) and inputs[1] is None else MASK
        assert_equal(quiet(model, inputs, batch_size=4), *expected(mask=mask))


def test_the_last_batch_compiles_nothing():
    traced = []

    def counted(x):
        traced.append(x.shape)
        return {"layer": x * 2}

    found = quiet(counted, X, batch_size=5)
    assert set(traced) == {(5, 5, 4)} and found["layer"].shape == X.shape


def test_weights_are_arguments_not_constants():
    first = quiet(lambda x: apply(WEIGHTS, x), X, batch_size=13)
    before = _run._cache_size()
    other = quiet(Partial(apply, [2 * w for w in WEIGHTS]), X, batch_size=13)
    assert _run._cache_size() == before
    assert not np.allclose(first["layers/3"], other["layers/3"])


def test_layers_chosen_in_an_order():
    found = quiet(model, X, batch_size=5, layers=["layers/10", "layers/2"])
    assert list(found) == ["layers/10", "layers/2"]
    assert list(quiet(model, X, batch_size=5, layers="layers/2")) == ["layers/2"]


def test_a_mapping_that_reads_nothing_before_it_is_asked(tmp_path, monkeypatch):
    found = quiet(model, X, batch_size=4, folder=tmp_path)
    monkeypatch.setattr("jaxconvex.layers.shards.read_array", None)
    assert len(found) == 11 and "layers/3" in found and "layer/3" not in found
    assert "layers/10" in repr(found) and "activations[name] reads one" in repr(found)
    with pytest.raises(KeyError, match="the layers are 'layers/3'"):
        found["layer/3"]


def test_only_one_layer_is_read(tmp_path):
    """A file in which all but one layer has been overwritten still gives that layer."""
    found = quiet(lambda x: {"a": x, "b": x + 1}, X, batch_size=13, folder=tmp_path)
    (path,) = tmp_path.glob("shard-*")
    raw = bytearray(path.read_bytes())
    start = raw.index(np.float32(X[0, 0, 0]).tobytes())
    raw[start : start + X.nbytes] = bytes(X.nbytes)
    path.write_bytes(raw)
    np.testing.assert_array_equal(found["b"], X + 1)
    with pytest.raises(ValueError, match=r"checksum of 'a' .* does not agree\. Call extract"):
        found["a"]


# Pooling --------------------------------------------------------------------------------------------------------------


def test_pooling():
    _, layers = expected(mask=MASK)
    h = layers["layers/2"]
    mean = np.stack([tokens[valid].mean(axis=0) for tokens, valid in zip(h, MASK, strict=True)])
    last = np.stack([tokens[np.flatnonzero(valid)[-1]] for tokens, valid in zip(h, MASK, strict=True)])
    cases = {
        "cls": ({"pool": "cls"}, h[:, 0]),
        "last": ({"pool": "last"}, h[:, -1]),
        "last that is valid": ({"pool": "last", "mask": 1}, last),
        "mean": ({"pool": "mean"}, h.mean(axis=1)),
        "entry": ({"pool": "mean", "mask": 1}, mean),
        "function": ({"pool": "mean", "mask": lambda x, mask: mask.astype(int)}, mean),
        "own": ({"pool": lambda h: h.max(axis=1)}, h.max(axis=1)),
        "own with mask": ({"pool": lambda h, mask: h.sum(axis=1) / mask.sum(axis=1)[:, None], "mask": 1}, None),
    }
    for name, (options, want) in cases.items():
        found = quiet(model, (X, MASK), batch_size=4, **options)["layers/2"]
        want = h.sum(axis=1) / MASK.sum(axis=1)[:, None] if want is None else want
        np.testing.assert_allclose(found, want, atol=1e-6, err_msg=name)
    found = quiet(model, {"x": X, "mask": MASK}, batch_size=4, pool="mean", mask="mask")["layers/2"]
    np.testing.assert_allclose(found, mean, atol=1e-6)


def test_feature_maps_and_vectors():
    maps = RNG.normal(size=(6, 3, 2, 4)).astype(np.float32)
    found = quiet(lambda x: {"map": x, "vector": x[:, 0, 0]}, maps, batch_size=4, pool="mean")
    np.testing.assert_allclose(found["map"], maps.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_array_equal(found["vector"], maps[:, 0, 0])
    for pool, which in (("cls", "first"), ("last", "last")):
        with pytest.raises(ValueError, match=f"the {which} of tokens"):
            quiet(lambda x: {"map": x}, maps, batch_size=4, pool=pool)


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_a_point_without_valid_tokens_is_nan(pool):
    masked = X, MASK & (np.arange(13) != 3)[:, None]
    found = quiet(lambda x, mask: {"h": x}, masked, batch_size=4, pool=pool, mask=1)
    assert np.isnan(found["h"]).all(axis=1).tolist() == [i == 3 for i in range(13)]


@pytest.mark.parametrize(
    ("options", "dtypes"),
    [
        ({}, ["bfloat16", "float16", "float32", "int32"]),
        ({"dtype": jnp.float32}, ["float32", "float32", "float32", "int32"]),
        ({"dtype": "float16"}, ["float16", "float16", "float16", "int32"]),
        ({"pool": "mean"}, ["float32", "float32", "float32", "float32"]),
        ({"pool": "mean", "dtype": jnp.bfloat16}, ["bfloat16"] * 4),
    ],
)
def test_types(options, dtypes, tmp_path):
    def types(x):
        floats = {str(t): x.astype(t) for t in ("bfloat16", "float16", "float32")}
        return {**floats, "int32": (100 * x).astype("int32")}

    memory, disk = (quiet(types, X, batch_size=4, folder=folder, **options) for folder in (None, tmp_path))
    assert [str(memory[name].dtype) for name in memory] == dtypes == [str(t) for t in memory.dtypes.values()]
    for name in memory:
        np.testing.assert_array_equal(memory[name], disk[name])
        assert disk[name].dtype == memory[name].dtype


# Flax -----------------------------------------------------------------------------------------------------------------


def network():
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(3)])
            self.drop = nnx.Dropout(0.1, deterministic=True, rngs=rngs)

        def hidden_states(self, x, mask=None):
            states = OrderedDict()
            for i, block in enumerate(self.blocks):
                x = states[f"blocks/{i}"] = self.drop(nnx.gelu(block(x)))
            return states

        def __call__(self, x):
            states = self.hidden_states(x)
            return states["blocks/2"].sum(axis=1), states

    return Network(nnx.Rngs(0))


def test_modules_and_their_methods():
    pytest.importorskip("flax")
    net = network()
    outputs, states = net(jnp.asarray(X))
    assert_equal(quiet(net, X, batch_size=4), outputs, states)
    found = quiet(net.hidden_states, X, batch_size=4)
    assert found.outputs is None
    np.testing.assert_allclose(found["blocks/1"], states["blocks/1"], atol=1e-6)


def test_a_method_of_a_module_has_its_weights_as_arguments():
    pytest.importorskip("flax")
    net = network()
    program = as_program(net.hidden_states, X)
    assert len(jax.tree.leaves(program)) == len(jax.tree.leaves(net.blocks)) == 6
    text = jax.jit(lambda call, x: call(x)).lower(program, jnp.asarray(X)).as_text()
    assert "dense<[[" not in text


# Folders --------------------------------------------------------------------------------------------------------------


def test_a_finished_folder_runs_nothing(tmp_path, monkeypatch):
    quiet(model, X, batch_size=4, folder=tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("shard*")}

    def never(*_):
        raise AssertionError("the model ran")

    monkeypatch.setattr("jaxconvex.layers.passes.padded", never)
    assert_equal(quiet(model, X, batch_size=4, folder=tmp_path), *expected())
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("shard*")}

    monkeypatch.undo()
    index = (tmp_path / "index.json").stat().st_mtime_ns
    assert_equal(quiet(model, (X[i : i + 4] for i in range(0, 13, 4)), folder=tmp_path), *expected())
    assert (tmp_path / "index.json").stat().st_mtime_ns == index


@pytest.mark.parametrize("stopped", range(5))
def test_goes_on_after_an_error_in_any_batch(stopped, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 1)  # a shard a batch

    def batches(last):
        for number, start in enumerate(range(0, 13, 3)):
            if number == last:
                raise RuntimeError("out of data")
            yield X[start : start + 3]

    whole = quiet(model, batches(None), folder=tmp_path / "whole")
    with pytest.raises(RuntimeError, match="out of data"):
        quiet(model, batches(stopped), folder=tmp_path / "stopped")
    if stopped:
        with pytest.raises(ValueError, match="is not finished"):
            read_activations(tmp_path / "stopped")
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("shard*")}
    assert len(written) == max(0, stopped - 1)  # the last batch that ran is still in the device's hands
    ran = []
    monkeypatch.setattr(
        "jaxconvex.layers.passes.padded",
        lambda batch, size, padded=padded: (ran.append(1), padded(batch, size))[1],
    )
    found = quiet(model, batches(None), folder=tmp_path / "stopped")
    assert len(ran) == 5 - len(written)
    for name in whole:
        assert found[name].tobytes() == whole[name].tobytes()
    for name, when in written.items():
        assert (tmp_path / "stopped" / name).stat().st_mtime_ns == when


KILLED = """
import sys, time
import numpy as np, jax.numpy as jnp
from jax.tree_util import Partial
from jaxconvex.layers import extraction
extraction.SHARD_BYTES = 3000
folder, pause = sys.argv[1], float(sys.argv[2])
weights = [jnp.asarray(np.random.default_rng(i).normal(size=(4, 4)), jnp.float32) for i in range(3)]
x = np.random.default_rng(9).normal(size=(200, 5, 4)).astype(np.float32)

def apply(weights, x):
    found = {}
    for i, weight in enumerate(weights):
        x = found[f"layer {i}"] = jnp.tanh(x @ weight)
    return x.sum(axis=1), found

def batches():
    for i in range(0, 200, 7):
        time.sleep(pause)
        print("batch", i, flush=True)
        yield x[i : i + 7]

extraction.extract(Partial(apply, weights), batches(), folder=folder, progress=False)
print("finished", flush=True)
"""


def child(folder, pause):
    root = Path(jc.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), str(pause)], stdout=subprocess.PIPE, text=True, cwd=root
    )


@pytest.mark.long
def test_a_killed_process_goes_on_with_nothing_lost_and_nothing_doubled(tmp_path):
    whole = child(tmp_path / "whole", 0)
    assert whole.communicate(timeout=120)[0].endswith("finished\n")
    killed = child(tmp_path / "killed", 0.1)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed").glob("shard*"))) < 3:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    index = json.loads((tmp_path / "killed" / "index.json").read_text())
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("shard*")}
    assert not index["finished"] and len(before) >= 3
    # As if it had been killed while it wrote: half a file under its temporary name, and one cut short by the disk.
    (tmp_path / "killed" / ".shard-00000099.safetensors.1.part").write_bytes(b"half")
    last = max((tmp_path / "killed").glob("shard*"))
    last.write_bytes(last.read_bytes()[:-100])
    resumed = child(tmp_path / "killed", 0)
    assert resumed.communicate(timeout=120)[0].endswith("finished\n")
    one, other = (read_activations(tmp_path / name) for name in ("whole", "killed"))
    assert list(one) == list(other) == ["layer 0", "layer 1", "layer 2"]
    for name in one:
        assert one[name].shape == (200, 5, 4)
        assert one[name].tobytes() == other[name].tobytes()
    assert one.outputs.tobytes() == other.outputs.tobytes()
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("shard*")}
    kept = [name for name in before if name != last.name]
    assert [before[name] for name in kept] == [after[name] for name in kept]
    assert not list((tmp_path / "killed").glob(".*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": "cls"}, "pool was None and is 'cls'"),
        ({"batch_size": 5}, "batch size was 4 and is 5"),
        ({"layers": ["layers/1"]}, "layers was"),
        ({"model_fn": Partial(apply, [2 * w for w in WEIGHTS])}, "weights differ"),
        ({"model_fn": Partial(lambda w, x: apply(w, jnp.sin(x)), WEIGHTS)}, "program differs"),
        ({"batches": X + 1}, "first batch differs"),
        ({"batches": X[:-1]}, "points was 13 and is 12"),
    ],
)
def test_a_folder_of_another_run_is_refused(change, message, tmp_path):
    given = {"model_fn": model, "batches": X, "batch_size": 4, "folder": tmp_path}
    extract(**given, progress=False)
    with pytest.raises(ValueError, match=message) as raised:
        extract(**given | change, progress=False)
    assert "another run" in str(raised.value) and "Give another folder" in str(raised.value)


def test_constants_of_a_closure_tell_models_apart(tmp_path):
    def closure(weight):
        return lambda x: {"h": x @ weight}

    quiet(closure(WEIGHTS[0]), X, batch_size=4, folder=tmp_path)
    quiet(closure(WEIGHTS[0]), X, batch_size=4, folder=tmp_path)
    with pytest.raises(ValueError, match="weights differ"):
        quiet(closure(WEIGHTS[1]), X, batch_size=4, folder=tmp_path)


def test_later_batches_that_changed_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    other = X.copy()
    other[5] += 1
    quiet(model, X, batch_size=4, folder=tmp_path)
    with pytest.raises(ValueError, match="batch 1 is not the one"):
        quiet(model, other, batch_size=4, folder=tmp_path)


def test_one_shard_that_is_lost_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    quiet(model, X, batch_size=3, folder=tmp_path)
    first, lost, *others = sorted(tmp_path.glob("shard*"))
    lost.unlink()
    with pytest.raises(ValueError, match="extract with the same"):
        read_activations(tmp_path)["layers/1"]
    before = [path.stat().st_mtime_ns for path in (first, *others)]
    for batches, size in ((X, 3), ([X[i : i + 3] for i in range(0, 13, 3)], None)):
        assert_equal(quiet(model, batches, batch_size=size, folder=tmp_path), *expected())
        assert before == [path.stat().st_mtime_ns for path in (first, *others)]
        lost.unlink()


def test_a_full_disk_leaves_what_can_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    write, written = Path.write_bytes, []

    def full(path, content):
        if "shard" in path.name:
            written.append(path)
            if len(written) == 3:
                raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left.*goes on from there"):
        quiet(model, X, batch_size=3, folder=tmp_path)
    monkeypatch.undo()
    assert_equal(quiet(model, X, batch_size=3, folder=tmp_path), *expected())


def test_other_folders(tmp_path):
    with pytest.raises(ValueError, match="holds no activations"):
        read_activations(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="no index of activations"):
        quiet(model, X, batch_size=3, folder=tmp_path)


# Mistakes -------------------------------------------------------------------------------------------------------------


def changing(x):
    return {"a" if x.shape[1] == 5 else "b": x}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": "max"}, "'cls', 'last', 'mean'"),
        ({"pool": 3}, "'cls', 'last', 'mean', a function"),
        ({"layers": ["layer/10"]}, "there is no layer 'layer/10'; the layers are 'layers/10'"),
        ({"batches": []}, "at least one batch"),
        ({"batches": X[:0], "batch_size": 3}, "at least one point"),
        ({"batches": [X[:0]]}, "at least one point"),
        ({"batches": X}, "pass batch_size="),
        ({"batches": 3}, "iterable"),
        ({"batches": {"x": X}}, "pass batch_size="),
        ({"batches": (X, MASK[:5]), "batch_size": 3}, "share their first axis"),
        ({"batches": [X[:3], (X[3:6], MASK[3:6])]}, "built alike; batch 1 is"),
        ({"batches": [X[:3], X[3:6, 0]]}, "built alike"),
        ({"batches": [np.array(["a", "b"])]}, "must hold numbers"),
        ({"batches": [(X[:3], "a")]}, "share their first axis"),
        ({"batches": [X[:3], X[3:6, :2]]}, "Pad all inputs to one length"),
        ({"batches": [X[:3], X[3:6, :2]], "model_fn": changing}, "layers of the first"),
        ({"batches": [X[:3], X[3:6, :2]], "model_fn": lambda x: {"a": x[:, 0]}}, None),
        ({"model_fn": lambda x: x, "batch_size": 3, "batches": X}, "must return a mapping"),
        ({"model_fn": lambda x: {}, "batch_size": 3, "batches": X}, "an empty one"),
        ({"model_fn": lambda x: {"a": (x, x)}, "batch_size": 3, "batches": X}, "layer 'a' must be an array"),
        ({"model_fn": lambda x: {"a": x.sum(0)}, "batch_size": 3, "batches": X}, r"\(3, ...\)"),
        ({"model_fn": lambda x: {"outputs": x}, "batch_size": 3, "batches": X}, "cannot be called 'outputs'"),
        ({"batches": X, "batch_size": 3, "pool": "mean", "mask": "mask"}, "mask must be a function, as"),
        ({"batches": (X, MASK), "batch_size": 3, "pool": "mean", "mask": 2}, "entries"),
        ({"batches": (X, MASK), "batch_size": 3, "mask": 1}, "no part in pool=None"),
        ({"batches": X, "batch_size": 3, "pool": "mean", "mask": lambda x: x[:, :2, 0]}, "one entry a token of layer"),
        ({"batches": X, "batch_size": 0}, "at least 1"),
    ],
)
def test_messages(change, message):
    given = {"model_fn": model, "batches": [X[:5], X[5:]], "progress": False} | change
    if message is None:
        assert extract(**given)["a"].shape == (6, 4)
        return
    with pytest.raises(ValueError, match=message):
        extract(**given)


# Many devices ---------------------------------------------------------------------------------------------------------

MESH = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType
from jax.tree_util import Partial
from jaxconvex.layers import extract
draws = np.random.default_rng(0)
weight = jax.device_put(jnp.asarray(draws.normal(size=(4, 4)), jnp.float32), jax.devices()[0])
x, mask = draws.normal(size=(50, 5, 4)).astype("f"), np.arange(5) < draws.integers(1, 6, 50)[:, None]
model = Partial(lambda w, x, mask: (x.sum((1, 2)), {"a": jnp.tanh(x @ w), "b": x + mask[..., None]}), weight)
options = dict(batch_size=20, pool="mean", mask=1, progress=False)
one = extract(model, (x, mask), **options)
meshes = [
    jax.make_mesh((8,), ("devices",)),
    jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2),
    jax.make_mesh((3,), ("some",), devices=jax.devices()[:3]),
]
for mesh in meshes:
    many = extract(model, (x, mask), mesh=mesh, **options)
    for name in one:
        np.testing.assert_allclose(one[name], many[name], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(one.outputs, many.outputs, rtol=1e-5, atol=1e-5)
from jaxconvex.layers.passes import Todo, results
from jaxconvex.layers.points import every_input
from jaxconvex.layers.layer_reading import read_layers
from jaxconvex._internal.functions import compiled
from functools import partial
run, seen = compiled(partial(read_layers, (model, None)), meshes[0]), []
def watched(batch):
    seen.append(len(batch[0].sharding.device_set))
    return run(batch)
batch = x[:20], mask[:20]
list(results(watched, [Todo(0, every_input(batch, 0), "", batch)], 20, meshes[0]))
print("equal on", [mesh.size for mesh in meshes], "sharded over", seen)
"""


def test_a_mesh_finds_the_same():
    root = Path(jc.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", MESH], capture_output=True, text=True, cwd=root, env=on_devices(), timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "equal on [8, 8, 3] sharded over [8]"
