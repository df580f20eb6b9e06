"""JAX's flags that announce what will be: a tiny case of the numeric core under each."""

from __future__ import annotations

import jax
import pytest
from transform_cases import ALL, CLASSES, LOSSES, K, points_and_labels

from jaxconvex import graph_convexity, knn_graph, permutation_null

CORE = {name: ALL[name] for name in ("knn_graph", "knn_graph, cosine", "graph_convexity", "euclidean_convexity")}
CORE["graph_convexity of drawn sources"] = lambda x, y: graph_convexity(
    knn_graph(x, k=K), y, num_classes=CLASSES, max_sources=3, key=jax.random.key(0)
)
CORE["permutation_null"] = lambda x, y: permutation_null(
    knn_graph(x, k=K), y, num_classes=CLASSES, num_permutations=4, key=jax.random.key(0)
)
CORE |= {name: LOSSES[name] for name in ("graph_convexity_loss", "detour_loss", "euclidean_convexity_loss")}
MORE = [pytest.param(name, marks=pytest.mark.long) for name in ALL if name not in CORE]
FLAGS = {"jax_remat3": True, "jax_debug_key_reuse": True, "jax_numpy_dtype_promotion": "strict"}
NOT_YET = {  # and what is raised instead: JAX 0.12 cannot transpose its new checkpoint
    ("jax_remat3", name): NotImplementedError for name in LOSSES if name.startswith("graph_convexity_loss")
}


@pytest.fixture
def flagged(request):
    """Sets a flag for one test."""
    flag = request.param
    if flag not in jax.config.values:
        pytest.skip(f"this JAX has no {flag}")
    before = jax.config.values[flag]
    jax.config.update(flag, FLAGS[flag])
    yield flag
    jax.config.update(flag, before if isinstance(before, bool) else "standard")


@pytest.mark.parametrize("name", [*CORE, *MORE])
@pytest.mark.parametrize("flagged", FLAGS, indirect=True)
@pytest.mark.long(after=9)
def test_the_core_runs_under_flags_of_the_future(flagged, name):
    """Traced only: the flags change what JAX allows, not what it compiles."""
    function = jax.grad(ALL[name]) if name in LOSSES else (CORE | ALL)[name]
    if (flagged, name) in NOT_YET:
        with pytest.raises(NOT_YET[flagged, name]):
            jax.make_jaxpr(function)(*points_and_labels())
    else:
        jax.make_jaxpr(function)(*points_and_labels())
