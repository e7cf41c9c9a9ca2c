"""Small models of the families that pixel-wise denoising drives, each with a bench to run it on."""

import contextlib

import pytest

from support.pixelwise_runs import SAMPLED, Bench, load


@pytest.fixture(scope="session")
def benches(comfy):
    found = {}
    for family in SAMPLED:
        with contextlib.suppress(ValueError, RuntimeError):  # hosts before 0.26 fix the number of Flux's heads
            found[family] = Bench(family, load(family), 16 if family == "sd15" else 8)
    return found


@pytest.fixture
def bench(benches):
    return benches["sd35-two"]


@pytest.fixture(params=SAMPLED)
def each(request, benches):
    if request.param not in benches:
        pytest.skip(f"this ComfyUI loads no small model of the family {request.param}")
    return benches[request.param]
