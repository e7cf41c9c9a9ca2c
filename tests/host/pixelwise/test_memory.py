"""A checkpoint that is replaced is freed at once, although its modules hold the stand-ins of a pixel-wise model."""

import weakref

import pytest

from support.pixelwise_runs import Bench, load, sampler

pytestmark = pytest.mark.host


@pytest.mark.parametrize("family", ["sd15", "sd35-two", "flux"])
def test_old_checkpoints_die(comfy, collector, family):
    from asyncdiff.nodes.pixelwise import patch
    from asyncdiff.tpm.pixelwise.requests import Phrase, Regions

    networks, alive, patched = [], [], None
    for _ in range(4):
        bench = Bench(family, load(family), 16 if family == "sd15" else 8)
        patched = patch.attach(bench.model, Regions((Phrase("cat", 0.5, (1, 2)),), text_length=8))
        networks.append([weakref.ref(module) for module in patched.model.modules()])
        bench.run(patched, sampler())
        del bench
        alive.append(sum(any(module() is not None for module in network) for network in networks))
    assert alive == [1] * 4
