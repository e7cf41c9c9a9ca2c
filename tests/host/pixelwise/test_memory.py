"""A checkpoint that is replaced is freed at once, although its modules hold the stand-ins of a pixel-wise model."""

import weakref

import pytest

from support.pixelwise_runs import Bench, load, sampler
from support.pixelwise_videos import VideoBench

pytestmark = pytest.mark.host


@pytest.mark.parametrize("family", ["sd15", "sd35-two", "flux"])
def test_old_checkpoints_die(comfy, collector, family):
    from asyncdiff.nodes.pixelwise import patch
    from asyncdiff.tpm.pixelwise.requests import Phrase, Regions

    def loaded():
        try:
            return load(family)
        except (ValueError, RuntimeError):
            pytest.skip(f"this ComfyUI loads no small model of the family {family}")

    networks, alive, patched = [], [], None
    for _ in range(4):
        bench = Bench(family, loaded(), 16 if family == "sd15" else 8)
        patched = patch.attach(bench.model, Regions((Phrase("cat", 0.5, (1, 2)),), text_length=8))
        networks.append([weakref.ref(module) for module in patched.model.modules()])
        bench.run(patched, sampler())
        del bench
        alive.append(sum(any(module() is not None for module in network) for network in networks))
    assert alive == [1] * 4


def test_old_video_models_die(comfy, collector):
    alive, networks, patched = [], [], None
    for _ in range(3):
        bench = VideoBench("ltxv")
        patched = bench.attached(0.5)
        networks.append([weakref.ref(module) for module in patched.model.modules()])
        bench.run(patched, sampler())
        del bench
        alive.append(sum(any(module() is not None for module in network) for network in networks))
    assert alive == [1] * 3
