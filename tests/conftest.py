"""Options, markers and data for the tests; the shapes in the package's signatures are checked here and nowhere else."""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path

import hypothesis
import jax
import jaxtyping
import pytest

CORE = ["neighbors", "paths", "scores", "statistics", "losses", "_internal.checks"]  # their signatures tell shapes

jaxtyping.install_import_hook([f"jaxconvex.{folder}" for folder in CORE], "beartype.beartype")
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.register_profile("fewer", hypothesis.settings.get_profile("tests"), max_examples=15)
hypothesis.settings.load_profile("tests")


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than some seconds; run with --runslow")
    config.addinivalue_line("markers", "long: trains networks or starts processes; continuous integration runs it once")
    config.addinivalue_line("markers", "check_shapes(on=True): check arguments and results against the signatures")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--runslow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run with --runslow"))


@pytest.fixture(autouse=True)
def shapes(request):
    """Checks shapes where a test asks for it: it must then pass JAX arrays, since that is what the signatures say."""
    marker = request.node.get_closest_marker("check_shapes")
    on = marker is not None and (marker.args[0] if marker.args else True)
    jaxtyping.config.update("jaxtyping_disable", not on)
    yield
    jaxtyping.config.update("jaxtyping_disable", True)


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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Lets go of compiled functions, before fixtures compile more: the kernel refuses a process more mappings of memory.

    Linux allows 65,530, and the largest fixture makes about 20,000.
    """
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def no_hang():
    """Ends the process if a test takes five minutes: compiled code heeds no signal."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
