"""Options, markers and data for the tests; the shapes in the package's signatures are checked here and nowhere else."""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import os
import sys
import zlib
from collections import Counter
from pathlib import Path

# Before JAX is imported. Most of the time goes into compiling, so XLA optimises less here (users have level 3), and all
# workers, and the next run, share what is compiled. At 0, the level of the quick tests, programs that compute the same
# do not all round alike, as some of those marked long ask for. Workers take the level of the process that starts them.
LEVEL = 1 if {"--all", "--part"} & {argument.partition("=")[0] for argument in sys.argv} else 0
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxconvex-tests"
os.environ.setdefault("XLA_FLAGS", f"--xla_backend_optimization_level={LEVEL}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import hypothesis
import jax
import jaxtyping
import pytest

CHECKED = ["_internal.checks", "neighbors", "paths", "scores"]

jaxtyping.install_import_hook([f"jaxconvex.{name}" for name in CHECKED], "beartype.beartype")
gc.freeze()  # what stands now stays, so the collector need not look at it again and again
gc.set_threshold(20_000, 20, 20)
LIBC = ctypes.CDLL(None) if os.name == "posix" else None
SLOW_EXAMPLES = (  # long, as a docstring cannot be marked
    "evaluation.measuring.asked_measures",
    "encoders.convolutions.ConvolutionalEncoder",
    "statistics.concept_errors.concept_jackknife",
    "statistics.concept_errors.concept_null",
    "statistics.resampling.replicates_of",
    "statistics.trees.path_losses",
    "study.analyses.measures.simple_measures",
    "study.analyses.sensitivity.sensitivity",
    "study.training.probes.probe",
)
hypothesis.settings.register_profile("all", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.register_profile("fewer", hypothesis.settings.get_profile("all"), max_examples=15)


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also run the tests marked long, and draw more examples")
    parser.addoption(
        "--part", metavar="K/N", type=part, help="also run one in N of the tests marked long, with K in 1 to N"
    )


def part(text):
    """The part K of N as (K - 1, N)."""
    try:
        number, parts = map(int, text.split("/"))
    except ValueError:
        number, parts = 0, 0
    if not 1 <= number <= parts:
        raise argparse.ArgumentTypeError(f"K/N with K in 1 to N is wanted, 3/16 say; got {text}")
    return number - 1, parts


def pytest_configure(config):
    config.addinivalue_line("markers", "check_shapes(on=True): check arguments and results against the signatures")
    hypothesis.settings.load_profile("all" if config.getoption("--all") else "fewer")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--all"):
        return
    number, parts = config.getoption("--part") or (0, 0)
    cases = Counter()
    for item in items:
        marker = (
            pytest.mark.long
            if item.name.removeprefix("jaxconvex.") in SLOW_EXAMPLES
            else item.get_closest_marker("long")
        )
        function = item.nodeid.partition("[")[0]
        cases[function] += 1
        chosen = parts and zlib.crc32(item.nodeid.encode()) % parts == number
        if marker and cases[function] > marker.kwargs.get("after", 0) and not chosen:
            item.add_marker(pytest.mark.skip(reason="long: run with --all"))


@pytest.fixture(autouse=True)
def shapes(request):
    """Checks shapes where a test asks for it: it must then pass JAX arrays, since that is what the signatures say."""
    marker = request.node.get_closest_marker("check_shapes")
    on = marker is not None and (marker.args[0] if marker.args else True)
    jaxtyping.config.update("jaxtyping_disable", not on)
    yield
    jaxtyping.config.update("jaxtyping_disable", True)


@pytest.fixture(scope="module")
def unexplained():
    """`evaluate` tells what scores are lost to only where it is asked: each new shape would compile another program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxconvex.evaluation.beside.LOOKED_AT", 0)
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with the real data sets, named by the environment variable JAXCONVEX_DATA."""
    folder = os.environ.get("JAXCONVEX_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip(
            "set JAXCONVEX_DATA to a folder that holds fashion_mnist/ (the idx files of Zalando Research), fsdd/ (Free "
            "Spoken Digit Dataset), hmp/ (UCI, HMP recognition with wrist-worn accelerometer), banking77/ (PolyAI) and "
            "bccd/ (BCCD)"
        )
    return Path(folder)


def release():
    """Drop compiled functions, and give the memory that they took back to the system, where its C library can."""
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux" and hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)


@pytest.fixture(scope="module", autouse=True)
def forget():
    """Let go of what a module has compiled: it takes memory, and what the next one needs of it lies in the cache."""
    yield
    release()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Let go of compiled functions, before fixtures compile more: the kernel refuses a process more mappings of memory.

    Linux allows 65,530, and the largest fixture makes about 20,000.
    """
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
        release()


@pytest.fixture(autouse=True)
def no_hang():
    """Ends the process if a test takes ten minutes: compiled code heeds no signal."""
    faulthandler.dump_traceback_later(600, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
