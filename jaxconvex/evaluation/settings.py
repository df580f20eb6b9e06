"""The settings of `evaluate`: checked, and passed whole from the call to the last row."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from jaxconvex._internal.checks import one_of, positive_integer
from jaxconvex.evaluation.report import FEWEST_UNITS
from jaxconvex.neighbors.distances import Metric
from jaxconvex.scores.packed import check_sampling, sources_by_default

__all__ = ["PROTOCOLS", "Settings", "checked_settings", "made_by", "recorded_settings", "settled", "version_of"]

JACKKNIFED = 10_000  # points up to which the jackknife is made without being asked for

PROTOCOLS: dict[str, dict[str, Any]] = {
    "paper": {
        "k": (10,),
        "metric": "euclidean",
        "graph": "union",
        "duplicates": "drop",
        "max_pairs": 5000,
        "max_segments": 5000,
        "num_points": 10,
    },
}


class Settings(NamedTuple):
    """What the scores depend on beside the data: the arguments of `evaluate`, which says what each means."""

    k: tuple[int, ...]
    metric: Metric
    graph: str
    duplicates: str
    max_pairs: int | None
    max_sources: int | None
    tolerance: float | None
    max_segments: int
    num_points: int
    jackknife: bool | None  # settled by the number of points, where it is None
    permutations: int
    confidence: float
    class_size: int | None
    protocol: str | None
    max_points: int | None
    classes: Sequence[int | str] | None
    pool: str | Callable[[Array], Array] | None
    key: PRNGKeyArray
    background: int | str | None
    mesh: Mesh | None
    memory: float | None
    why: bool | None
    measures: str | Sequence[str]
    parents: str | Sequence[str]
    cosine: bool = False  # whether to score the cosine neighbours too, for comparison


# The rest is recorded in another form, or where the data are known.
RECORDED = (*Settings._fields[: Settings._fields.index("protocol")], "cosine", "protocol", "max_points")


def checked_settings(k: int | Sequence[int], protocol: str | None, key: PRNGKeyArray | None, **given: Any) -> Settings:
    """The settings, with those that the protocol fixes. Raises ValueError for wrong ones, and such as contradict it."""
    given["k"] = tuple(k) if isinstance(k, Sequence) else (k,)
    if protocol is not None:
        fixed = PROTOCOLS[one_of(protocol, tuple(PROTOCOLS), "protocol")]
        usual = {"k": (10,), "metric": "euclidean", "graph": "union", "duplicates": "link"}
        for name, value in fixed.items():
            if given[name] not in (usual.get(name), None, value):
                raise ValueError(
                    f"protocol={protocol!r} fixes {name}={value!r}; got {given[name]!r}. Leave {name} or the protocol out."
                )
        given |= fixed
    check_sampling(given["max_pairs"], given["max_sources"], given["tolerance"])
    for each in given["k"]:
        positive_integer(each, "k")
    one_of(given["graph"], ("union", "mutual"), "graph")
    one_of(given["duplicates"], ("link", "drop"), "duplicates")
    if given["permutations"] != 0:
        positive_integer(given["permutations"], "permutations")
    if given["class_size"] is not None:
        given["class_size"] = positive_integer(given["class_size"], "class_size")
    return Settings(protocol=protocol, key=jax.random.key(0) if key is None else key, **given)


def settled(settings: Settings, num_points: int, num_groups: int | None) -> Settings:
    """The settings, where they depend on the number of points and groups."""
    few = settings.protocol is None and num_points <= JACKKNIFED
    if settings.jackknife is None:
        settings = settings._replace(jackknife=few)
    if num_groups is not None and num_groups < FEWEST_UNITS:
        settings = settings._replace(jackknife=False)
    if settings.max_pairs is None and settings.tolerance is None:
        settings = settings._replace(max_sources=sources_by_default(num_points, settings.max_sources))
    return settings._replace(cosine=few and settings.metric == "euclidean")


def recorded_settings(settings: Settings, num_groups: int | None) -> dict[str, Any]:
    """The settings as plain data; of a function there is itself."""
    recorded = {name: getattr(settings, name) for name in RECORDED} | {"k": list(settings.k), "groups": num_groups}
    return recorded | {"key": np.asarray(jax.random.key_data(settings.key)).tolist()}


def made_by(*packages: str) -> dict[str, Any]:
    """By what and where results are made now: the versions of these packages and of Python, the device, the date."""
    return {
        "versions": {name: version_of(name) for name in packages} | {"python": platform.python_version()},
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def version_of(package: str) -> str:
    """The version of an installed package; of this one also where it runs without being installed."""
    if package == "jaxconvex":
        import jaxconvex

        return jaxconvex.__version__
    return metadata.version(package)
