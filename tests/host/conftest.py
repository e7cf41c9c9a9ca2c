"""Tests inside ComfyUI's own code: the host as modules of this process, beside the `server` of tests/conftest.py."""

import gc

import pytest

from support.host import without_host
from support.inside import enter, use_checkout

use_checkout()  # before a test file imports the pack: this folder, not an installed copy, which has no nodes


@pytest.fixture(scope="session")
def comfy():
    """ComfyUI's `nodes` module on the CPU; skips with one line where there is no host."""
    core = enter()
    if isinstance(core, str):
        without_host(core)
    return core


@pytest.fixture(params=["with the garbage collector", "without"])
def collector(request):
    """Memory that must be free with and without the help of Python's collector of cycles."""
    gc.collect()
    if request.param == "without":
        gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def info(server):
    """The server's description of its nodes."""
    return server.object_info()


@pytest.fixture
def new_log(server):
    """What the server has printed since the test began."""
    before = len(server.log())
    return lambda: server.log()[before:]
