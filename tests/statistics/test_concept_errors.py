"""The null and the jackknife of overlapping concepts, against permuting and rebuilding by the definitions."""

from __future__ import annotations

import jax
import numpy as np
import oracles
import pytest

from jaxconvex import knn_graph
from jaxconvex.statistics import concept_errors as module
from jaxconvex.statistics import concept_jackknife, concept_null

N, KEY = 49, jax.random.key(3)
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, 2)).astype(np.float32)
TABLE = np.concatenate([RNG.random((N, 3)) < [0.2, 0.5, 0.7], X[:, :1] > 0, np.eye(N, 1, dtype=bool)], axis=1)
TABLE[-4:] = False


def by_definition(kept, table):
    return oracles.concept_convexity(oracles.knn_adjacency(X[kept], 4), table[kept])


def test_the_null_is_that_of_rows_dealt_to_other_points(monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 3 * TABLE.sum())  # two searches
    null = concept_null(knn_graph(X, k=4), TABLE, key=KEY, num_permutations=5)
    tables = [module.permuted_memberships(TABLE, i, KEY) for i in range(5)]
    for table in tables:
        assert not table[-4:].any() and (np.sort(table @ 2 ** np.arange(5)) == np.sort(TABLE @ 2 ** np.arange(5))).all()
    assert len({table.tobytes() for table in tables}) == 5
    wanted = [by_definition(np.arange(N), table) for table in (TABLE, *tables)]
    scores = np.array([each.per_class for each in wanted])
    np.testing.assert_allclose(null.per_class.samples, scores[1:].T, atol=1e-6)
    np.testing.assert_allclose(null.micro.samples, [each.micro for each in wanted[1:]], atol=1e-6)
    np.testing.assert_allclose(null.macro.samples, [each.macro for each in wanted[1:]], atol=1e-6)
    reached = (scores[1:, :4] >= scores[0, :4] - 1e-6).sum(axis=0)
    np.testing.assert_allclose(null.per_class.p_value[:4], (1 + reached) / 6)
    assert np.isnan(null.per_class.p_value[4]) and null.per_class.p_value[3] == pytest.approx(1 / 6)


@pytest.mark.long
def test_the_jackknife_is_rebuilding_from_scratch():
    groups = RNG.permutation(N) % 4
    found = concept_jackknife(X, TABLE, groups=groups, k=4)
    for group in range(4):
        wanted = by_definition(groups != group, TABLE)
        np.testing.assert_allclose(found.replicates.per_class[group], wanted.per_class, atol=1e-6)
        assert found.replicates.micro[group] == pytest.approx(wanted.micro, abs=1e-6)
    wanted = by_definition(groups // 2 != 1, TABLE)
    np.testing.assert_allclose(found.joint.per_class[1], wanted.per_class, atol=1e-6)
    np.testing.assert_allclose(found.per_class.estimate, by_definition(np.arange(N), TABLE).per_class, atol=1e-6)
    assert np.isfinite(found.per_class.se[:4]).all() and np.isnan(found.per_class.se[4])
    assert found.macro.lower < found.macro.estimate < found.macro.upper


def test_what_is_refused():
    graph = knn_graph(X, k=4)
    for wrong in (TABLE[:, 0], TABLE + 2, TABLE[:-1]):
        with pytest.raises(ValueError, match="memberships must"):
            concept_null(graph, wrong, key=KEY)
        with pytest.raises(ValueError, match="memberships must"):
            concept_jackknife(X, wrong, key=KEY, k=4)
    with pytest.raises(ValueError, match="pass key"):
        concept_jackknife(X, TABLE, k=4)
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda t: concept_null(graph, t, key=KEY).micro.mean)(TABLE)
