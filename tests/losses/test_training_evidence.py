"""The code beside notebook 04: the rivals against slow versions, training, the resumable runner, the rules and tables."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import cache, partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

FOLDER = Path(__file__).parents[2] / "notebooks" / "04_training_for_convexity"
NAMES = ("cells", "networks", "objectives", "training", "convexity", "tables", "data", "few_targets", "few_methods")
RIVALS = ("nothing", "label_smoothing", "manifold_mixup", "supervised_contrastive", "within_class_variance")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the notebooks are not part of this distribution"),
]


@pytest.fixture(scope="module")
def code():
    """The modules of the folder, which import each other by their bare names; both are undone after this file."""
    sys.path.insert(0, str(FOLDER))
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    yield SimpleNamespace(**{name: import_module(name) for name in NAMES})
    sys.path.remove(str(FOLDER))
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.modules.update(before)


class Points(NamedTuple):
    x: np.ndarray
    y: np.ndarray


def random_params(seed=0, widths=(6, 5, 7, 4, 3)):
    random = np.random.default_rng(seed)
    pairs = pairwise(widths)
    return tuple((random.normal(size=pair).astype(np.float32), random.normal(size=pair[1])) for pair in pairs)


def batch(seed=1, n=12, d=6, c=3):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)).astype(np.float32), random.integers(c, size=n).astype(np.int32)


def forward(params, h, start=0):
    """Activations of the layers from `start` on, the input first and the logits last, in float64."""
    layers = [np.asarray(h, np.float64)]
    for i, (w, b) in enumerate(params[start:], start):
        h = layers[-1] @ np.asarray(w, np.float64) + b
        layers.append(h if i == len(params) - 1 else np.maximum(h, 0))
    return layers


def slow_cross_entropy(logits, targets):
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        log_sum = np.log(np.sum(np.exp(row - row.max()))) + row.max()
        total -= sum(share * (value - log_sum) for share, value in zip(target, row, strict=True))
    return total / len(logits)


def slow_contrastive(h, y, temperature):
    z = [row / max(np.linalg.norm(row), 1e-6) for row in h]
    losses = []
    for i in range(len(y)):
        positives = [p for p in range(len(y)) if p != i and y[p] == y[i]]
        if positives:
            below = sum(np.exp(z[i] @ z[a] / temperature) for a in range(len(y)) if a != i)
            losses.append(-np.mean([np.log(np.exp(z[i] @ z[p] / temperature) / below) for p in positives]))
    return np.mean(losses)


def slow_scatter(h, y):
    within = sum(np.sum((h[y == c] - h[y == c].mean(axis=0)) ** 2) for c in np.unique(y))
    return within / np.sum((h - h.mean(axis=0)) ** 2)


def value(code, method, params, x, y, weight, key=None):
    key = jax.random.key(0) if key is None else key
    return compiled(code.objectives.OBJECTIVES[method])(params, x, y, key, jnp.float32(weight))


@cache
def compiled(objective):
    context = import_module("objectives").Context(3)
    return jax.jit(partial(objective, context=context))


# ------------------------------------------------------------------------------------------------------------- objectives


def test_rivals_agree_with_slow_versions(code):
    params, (x, y) = random_params(), batch()
    _, *hidden, logits = forward(params, x)
    own = np.eye(3)[y]
    plain = slow_cross_entropy(logits, own)
    expected = {
        "nothing": plain,
        "label_smoothing": slow_cross_entropy(logits, 0.7 * own + 0.3 / 3),
        "supervised_contrastive": plain + 0.3 * np.mean([slow_contrastive(h, y, 0.1) for h in hidden]),
        "within_class_variance": plain + 0.3 * np.mean([slow_scatter(h, y) for h in hidden]),
    }
    for method, number in expected.items():
        np.testing.assert_allclose(value(code, method, params, x, y, 0.3), number, rtol=2e-5, err_msg=method)


def test_contrastive_loss_leaves_out_a_class_of_one_point(code):
    x, _ = batch(n=5)
    y = np.array([0, 0, 1, 1, 2], np.int32)
    found = code.objectives.supervised_contrastive_term(jnp.asarray(x), jnp.asarray(y), 0.5)
    np.testing.assert_allclose(found, slow_contrastive(x, y, 0.5), rtol=1e-5)
    assert code.objectives.supervised_contrastive_term(jnp.asarray(x), jnp.arange(5)) == 0


def test_manifold_mixup_agrees_with_a_slow_version_at_every_layer(code):
    params, (x, y) = random_params(), batch()
    seen = set()
    for seed in range(12):
        key = jax.random.key(seed)
        layer, share, order = (np.asarray(part) for part in code.objectives.mixing(key, 12, 4, jnp.float32(0.7)))
        h = forward(params, x)[layer]
        logits = forward(params, share * h + (1 - share) * h[order], int(layer))[-1]
        targets = share * np.eye(3)[y] + (1 - share) * np.eye(3)[y[order]]
        found = value(code, "manifold_mixup", params, x, y, 0.7, key)
        np.testing.assert_allclose(found, slow_cross_entropy(logits, targets), rtol=2e-5)
        seen.add(int(layer))
    assert seen == {0, 1, 2, 3}


def test_mixing_draws_layers_evenly_and_shares_from_the_beta_distribution(code):
    def draw(key):
        return code.objectives.mixing(key, 5, 4, jnp.float32(0.5))

    layers, shares, orders = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 2000))
    assert np.abs(np.bincount(layers, minlength=4) - 500).max() < 80
    assert stats.kstest(np.asarray(shares), stats.beta(0.5, 0.5).cdf).pvalue > 1e-3
    assert np.all(np.sort(orders, axis=1) == np.arange(5))


def test_gradients_are_finite_for_dead_layers_and_equal_points(code):
    x, y = batch()
    dead = tuple((w, b - 1e3) for w, b in random_params())
    for method in RIVALS:  # the package's losses have tests of their own
        objective = code.objectives.OBJECTIVES[method]
        slope = jax.jit(jax.grad(partial(objective, context=code.objectives.Context(3))))
        for params, points in ((dead, x), (random_params(), np.ones_like(x))):
            params = jax.tree.map(jnp.float32, params)
            gradient = slope(params, jnp.asarray(points), jnp.asarray(y), jax.random.key(0), jnp.float32(1))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)), method


def test_mixed_targets_agree_with_a_slow_version(code):
    params, (x, y), (others, _) = random_params(), batch(), batch(seed=2)
    targets = np.random.default_rng(3).dirichlet([1.0] * 3, 12).astype(np.float32)
    targets[:2] = 0  # points that no walk passes
    both, key = np.concatenate([x, others]), jax.random.key(5)
    of_both = np.concatenate([np.eye(3)[y] / 12, targets / targets.sum()])
    layer, share, order = (np.asarray(part) for part in code.objectives.mixing(key, 24, 4, jnp.float32(4)))
    hidden = forward(params, both)[:-1]
    logits = forward(params, share * hidden[layer] + (1 - share) * hidden[layer][order], int(layer))[-1]
    mixed = slow_cross_entropy(logits, 24 * (share * of_both + (1 - share) * of_both[order]))
    labels = np.concatenate([y, np.where(targets.max(axis=1) > 0.5, targets.argmax(axis=1), -1 - np.arange(12))])
    assert (labels < 0).sum() > 2
    context = code.objectives.Context(3, unlabelled=jnp.asarray(np.concatenate([others, targets], axis=1)))
    found = code.few_methods._mixed_targets_and_contrastive(
        jax.tree.map(jnp.float32, params), jnp.asarray(x), jnp.asarray(y), key, jnp.array([4.0, 0.3]), context
    )
    contrastive = np.mean([slow_contrastive(h, labels, 0.1) for h in hidden[1:]])
    np.testing.assert_allclose(found, mixed + 0.3 * contrastive, rtol=2e-5)


def test_the_graph_is_trusted_where_its_targets_are_confident(code):
    """Two classes that lie apart, and two that are one cloud."""
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], 5).astype(np.int32)
    shown = np.concatenate([y, random.integers(2, size=60)])
    methods = code.few_methods
    setting = methods.SETTINGS["paths_mixed_if_confident"][0]
    for distance, trusted in ((6.0, True), (0.0, False)):
        x = (random.normal(size=(70, 4)) + distance * shown[:, None]).astype(np.float32)
        task = code.few_targets.Task(x, y, 2)
        outcome = methods.METHODS["paths_mixed_if_confident"](task, setting, 0)
        assert (outcome.targets is not None) == trusted


def test_every_method_to_be_chosen_for_has_a_grid_of_four_weights(code):
    grids = {**code.few_methods.SETTINGS, **code.objectives.GRIDS}
    assert code.few_methods.METHODS.keys() == grids.keys()
    assert all(len(grid) in (1, 4) for grid in grids.values())
    grids = code.objectives.GRIDS
    assert grids.keys() == code.objectives.OBJECTIVES.keys()
    assert {method for method, grid in grids.items() if len(set(grid)) != 4} <= {"nothing", "graph_convexity_default"}


# --------------------------------------------------------------------------------------------------------------- training


def blobs(n=120, d=6, c=3):
    random = np.random.default_rng(0)
    y = (np.arange(n) % c).astype(np.int32)
    return Points((3 * np.eye(d)[y] + random.normal(size=(n, d))).astype(np.float32), y)


def test_training_learns_and_compiles_once_for_all_seeds_and_weights(code):
    recipe = code.training.Recipe(30, 3, 8)
    objective = code.objectives.OBJECTIVES["label_smoothing"]

    def run(weight, seed):
        return code.training.train(
            objective, blobs(), num_classes=3, weight=weight, seed=seed, steps=60, recipe=recipe
        )[0]

    first = run(0.1, 0)
    compiled = code.training._steps._cache_size()
    again, other, stronger = run(0.1, 0), run(0.1, 1), run(0.4, 0)
    assert code.training._steps._cache_size() == compiled
    accuracy = np.mean(np.argmax(code.networks.logits(first, blobs().x), axis=1) == blobs().y)
    assert accuracy > 0.95
    assert np.array_equal(first[0][0], again[0][0])
    assert not np.array_equal(first[0][0], other[0][0])
    assert not np.array_equal(first[0][0], stronger[0][0])


def test_objectives_see_progress_and_points_without_labels(code):
    def objective(params, x, y, key, weight, context):
        assert context.unlabelled.shape == x.shape  # as many as labelled ones
        return context.progress * jnp.mean(code.networks.logits(params, context.unlabelled))

    arguments = {"num_classes": 3, "weight": 0, "seed": 0, "recipe": code.training.Recipe(None, 3, 4)}
    start, _ = code.training.train(objective, blobs(), steps=1, unlabelled=blobs().x[:50], **arguments)
    end, _ = code.training.train(objective, blobs(), steps=3, unlabelled=blobs().x[:50], **arguments)
    assert np.ptp(start[-1][1]) == 0  # at step 0 the gradient is zero
    assert np.all(end[-1][1] < 0)


def test_batches_are_balanced_in_classes_and_points(code):
    y = np.repeat(np.arange(5), [40, 40, 40, 40, 3])
    rows = code.training.draw_batches(y, code.training.Recipe(None, 2, 8), steps=50, seed=3)
    assert rows.shape == (50, 16)
    of_classes = [np.unique(y[row], return_counts=True) for row in rows]
    assert all(counts.tolist() == [8, 8] for _, counts in of_classes)
    assert (
        np.ptp(np.bincount(np.concatenate([labels for labels, _ in of_classes]))) <= 13
    )  # a pass leaves one class out
    seen = np.bincount(rows.ravel(), minlength=len(y))
    assert all(np.ptp(seen[y == label]) <= 1 for label in range(5))
    assert not np.array_equal(rows, code.training.draw_batches(y, code.training.Recipe(None, 2, 8), steps=50, seed=4))


def test_each_seed_draws_its_own_points_of_each_class(code):
    first, second = (code.training.draw_subset(blobs(), 20, seed=seed) for seed in (0, 1))
    assert np.bincount(first.y).tolist() == [20, 20, 20]
    assert {row.tobytes() for row in first.x} <= {row.tobytes() for row in blobs().x}
    assert not np.array_equal(first.x, second.x)


# ----------------------------------------------------------------------------------------------------------------- runner

TOY = """
import sys, time
sys.path.insert(0, {folder!r})
from cells import Cell, run_cells

def work(cell):
    with open({log!r}, "a") as file:
        file.write(f"{{cell.seed}} {{cell.method}}\\n")
    time.sleep(0.1)
    if cell.seed == {bad}:
        raise ValueError("a bad cell")
    return {{"double": 2 * cell.seed, "none": float("nan")}}

if __name__ == "__main__":
    cells = [Cell("toy", "data", method, 0.3, seed) for method in "ab" for seed in range(8)]
    run_cells(cells, work, {path!r}, processes=2)
"""


def toy(tmp_path, bad=-1):
    script, path, log = (tmp_path / name for name in ("toy.py", "out.jsonl", "log"))
    script.write_text(TOY.format(folder=str(FOLDER), log=str(log), path=str(path), bad=bad))
    return [sys.executable, str(script)], path, log


def test_a_killed_run_is_resumed_without_doing_cells_again(code, tmp_path):
    command, path, log = toy(tmp_path)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while time.monotonic() < until and (not path.exists() or path.read_text().count("\n") < 4):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the processes it started finish their cell, find it gone and end
    done = {(row["seed"], row["method"]) for row in code.cells.read_results(path)}
    begun = log.read_text().splitlines()
    assert 4 <= len(done) < 16
    assert len(begun) - len(done) <= 2 + 2  # at work, or finished but not yet written
    with path.open("a") as file:
        file.write('{"experiment": "toy", "data_s')  # as a kill in the middle of a line leaves it
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=30)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted((row["method"], row["seed"]) for row in lines) == [(m, s) for m in "ab" for s in range(8)]
    assert all(row["double"] == 2 * row["seed"] and row["none"] is None for row in lines)
    again = log.read_text().splitlines()[len(begun) :]
    assert len(again) == len(set(again)) == 16 - len(done)
    assert not {f"{seed} {method}" for seed, method in done} & set(again)
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=30)
    assert len(log.read_text().splitlines()) == len(begun) + len(again)


def test_a_cell_that_fails_is_named_and_the_others_are_done(code, tmp_path):
    command, path, _ = toy(tmp_path, bad=5)
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=30)
    assert result.returncode == 1
    assert "2 cells failed" in result.stderr and "seed 5" in result.stderr and "a bad cell" in result.stderr
    assert len(code.cells.read_results(path)) == 14


# -------------------------------------------------------------------------------------------------------- rules and tables


def rows(code, experiment, table):
    """Rows of a table from (method, weight) to a list over seeds of (accuracy, convexity)."""
    return [
        {**code.cells.Cell(experiment, "digits", method, weight, seed)._asdict(), "accuracy": a, "graph/true/0": g}
        for (method, weight), seeds in table.items()
        for seed, (a, g) in enumerate(seeds)
    ]


@pytest.mark.parametrize(
    "scores, expected",
    [
        ({0.1: (0.900, 0.7), 0.3: (0.896, 0.8), 1.0: (0.890, 0.9)}, 0.3),  # the last costs too much accuracy
        ({0.1: (0.895, 0.7), 0.3: (0.894, 0.8), 1.0: (0.890, 0.9)}, 0.1),  # just within the tolerance
        ({0.1: (0.880, 0.9), 0.3: (0.885, 0.8), 1.0: (0.860, 0.9)}, 0.3),  # none qualifies: the most accurate
        ({1.0: (0.900, 0.8), 0.3: (0.910, 0.8), 0.1: (0.900, 0.7)}, 0.3),  # a tie: the smaller
    ],
)
def test_weights_are_chosen_by_the_rule(code, scores, expected):
    table = {("nothing", 0.0): [(0.9, 0.6)] * 3} | {("ours", w): [s] * 3 for w, s in scores.items()}
    assert code.convexity.choose_weights(rows(code, "choose", table)) == {"digits": {"nothing": 0.0, "ours": expected}}


def test_test_rows_are_refused_before_weights_are_chosen(code, tmp_path):
    options = code.convexity.Options(tmp_path, tmp_path, tmp_path, 1, ("digits",), ("nothing", "manifold_mixup"))
    with pytest.raises(ValueError, match="Run `choose`"):
        code.convexity.test(options)
    (tmp_path / "chosen.json").write_text('{"digits": {"nothing": 0.0}}')
    with pytest.raises(ValueError, match="none for manifold_mixup on digits"):
        code.convexity.test(options)


def test_differences_are_paired_by_seed_with_the_t_interval(code):
    random = np.random.default_rng(0)
    base, ours = random.random((2, 6, 2))
    table = rows(code, "test", {("nothing", 0.0): base[:5].tolist(), ("ours", 0.3): ours[::-1].tolist()})
    for row in table:  # seeds of ours in reverse, seed 5 without a baseline
        row["seed"] = 5 - row["seed"] if row["method"] == "ours" else row["seed"]
    found = {d.metric: d for d in code.tables.differences(table)}["accuracy"]
    expected = stats.ttest_rel(ours[:5, 0], base[:5, 0])
    interval = expected.confidence_interval(0.95)
    assert found.seeds == 5
    np.testing.assert_allclose(
        found[4:9], [base[:5, 0].mean(), ours[:5, 0].mean(), (ours - base)[:5, 0].mean(), *interval], rtol=1e-9
    )


@pytest.mark.parametrize("gain, loss, answer", [(0.06, 0.0, "yes"), (0.04, 0.0, "no"), (0.06, 0.02, "no")])
def test_success_needs_convexity_and_accuracy_on_enough_data_sets(code, gain, loss, answer):
    noise = 1e-3 * np.random.default_rng(1).normal(size=(2, 20))
    table = []
    for name in ("a", "b", "c"):
        for method, g, a in (("nothing", 0.8, 0.9), ("ours", 0.8 + gain, 0.9 - loss)):
            for seed in range(20):
                n = noise[int(method == "ours"), seed]
                scores = {"accuracy": a + n, "graph/true/0": g + n, "graph/true/1": 0.95}
                table.append(code.cells.Cell("test", name, method, 1.0, seed)._asdict() | scores)
    found = code.tables.differences(code.tables.with_room(table))
    room = next(d for d in found if d.metric == "graph/true/room")
    assert abs(room.difference - gain) < 2e-3  # layer 1 has no room and does not water it down
    by_true_classes = [row for row in code.tables.success(found) if row["score"] == "graph/true"]
    assert [row["success"] for row in by_true_classes] == [answer]
    assert code.tables.success(found, code.tables.Criteria(data_sets=4))[0]["success"] == "no"


def test_tables_are_written(code, tmp_path):
    table = rows(code, "test", {("nothing", 0.0): [(0.9, 0.8)] * 3, ("ours", 0.3): [(0.9, 0.9)] * 3})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    code.tables.tables(SimpleNamespace(out=tmp_path))
    lines = (tmp_path / "tables" / "test_differences.csv").read_text().splitlines()
    assert lines[0].startswith("data_set,method,weight,metric,baseline")
    assert {line.split(",")[3] for line in lines[1:]} >= {"accuracy", "graph/true/mean", "graph/true/room"}
    assert (tmp_path / "tables" / "success.csv").exists() and (tmp_path / "tables" / "test_means.csv").exists()
