"""A TPM on the latents of every family: it decides on videos and sounds, and what it cannot read is refused at once."""

import pytest
import torch

from support import other_latents
from support.retiming_runs import Log

pytestmark = pytest.mark.host


@pytest.fixture
def go(comfy):
    """A run with a TPM whose output layer is not zero; its log, or what it raised before the network was asked."""
    from asyncdiff.nodes.retiming.families import backbone_of
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.errors import AsyncDiffError
    from asyncdiff.tpm.policies import Learned
    from asyncdiff.tpm.policies.network import TPM, TPMConfig
    from asyncdiff.tpm.retiming.settings import Retiming

    def run(name, channels, context=32, gamma=1.0):
        model, log, asked = other_latents.model(name), Log(), []
        torch.manual_seed(0)
        tpm = TPM(TPMConfig(backbone_of(model), channels, context, 1, width=16, heads=2, layers=1, grid=2))
        torch.nn.init.normal_(tpm.head.last.weight)
        model.model.diffusion_model.register_forward_pre_hook(lambda *_: asked.append(1))
        patched = attach(model, Learned(tpm), Retiming(gamma=gamma), log)
        texts = [other_latents.conditioning(name, seed) for seed in (0, 1)]
        latent = {"samples": other_latents.latent(name, 2)}
        try:
            with torch.inference_mode():
                comfy.common_ksampler(patched, 1, 4, 1.0, "euler", "simple", *texts, latent)
        except AsyncDiffError as error:
            assert not asked, "it was refused after an evaluation"
            return error
        return log

    return run


@pytest.mark.parametrize(("name", "channels"), [("wan", 16), ("ace", 64), ("hunyuan-image", 64)])
def test_it_decides_for_each_video_sound_and_image(go, name, channels):
    (trace,) = go(name, channels).traces
    assert [len(entry) for entry in trace.deviation[1:]] == [2, 2, 2]
    assert all(abs(d) > 1e-6 for d in trace.deviation[1])


@pytest.mark.parametrize(
    ("name", "channels", "context", "reason"),
    [
        ("wan", 4, 32, r"This TPM reads latents \(batch, 4"),
        ("wan", 16, 12, "a context of width 12, the model's has 32"),
        ("ltxav", 128, 64, r"the model's are \(2, 1, "),
    ],
)
def test_what_it_cannot_read_is_refused_before_the_network_is_asked(go, name, channels, context, reason):
    from asyncdiff.tpm.errors import PolicyError

    with pytest.raises(PolicyError, match=reason):
        raise go(name, channels, context)


def test_at_gamma_0_nothing_is_asked_of_it(go):
    assert len(go("wan", 4, gamma=0.0).traces) == 1
