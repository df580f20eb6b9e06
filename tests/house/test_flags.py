"""JAX's flags that announce what will be: a tiny case of the numeric core under each."""

from __future__ import annotations

import jax
import pytest
from transform_cases import ALL, CLASSES, LOSSES, K, points_and_labels

from jaxconvex import knn_graph, permutation_null

CORE = {name: ALL[name] for name in ("knn_graph", "knn_graph, cosine", "graph_convexity", "euclidean_convexity")}
CORE["permutation_null"] = lambda x, y: permutation_null(
    knn_graph(x, k=K), y, num_classes=CLASSES, num_permutations=4, key=jax.random.key(0)
)
CORE |= {name: LOSSES[name] for name in ("graph_convexity_loss", "detour_loss", "euclidean_convexity_loss")}
FLAGS = {"jax_remat3": True, "jax_debug_key_reuse": True, "jax_numpy_dtype_promotion": "strict"}
NOT_YET = {  # and what is raised instead
    ("jax_remat3", "graph_convexity_loss"): NotImplementedError,  # JAX 0.12 cannot transpose its new checkpoint
    **{
        ("jax_numpy_dtype_promotion", name): ValueError
        for name in ("graph_convexity", "euclidean_convexity", "permutation_null")  # counts meet shares in 20 lines
    },
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


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("flagged", FLAGS, indirect=True)
def test_the_core_runs_under_flags_of_the_future(flagged, name):
    """Traced only: the flags change what JAX allows, not what it compiles."""
    function = jax.grad(CORE[name]) if name in LOSSES else CORE[name]
    if (flagged, name) in NOT_YET:
        with pytest.raises(NOT_YET[flagged, name]):
            jax.make_jaxpr(function)(*points_and_labels())
    else:
        jax.make_jaxpr(function)(*points_and_labels())
