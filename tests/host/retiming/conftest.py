"""Small models of the real families, a TPM, and a run through the function behind stock KSampler."""

import contextlib

import pytest
import torch

from support import stand_ins, sweeps


@pytest.fixture(scope="module")
def models(comfy):
    found = {"sd35": stand_ins.load(stand_ins.sd35())}
    with contextlib.suppress(ValueError, RuntimeError):  # hosts before 0.26 fix the number of Flux's heads
        found["flux"] = stand_ins.load(stand_ins.flux())
    return found


@pytest.fixture(params=["sd35", "flux"])
def model(request, models):
    if request.param not in models:
        pytest.skip(f"this ComfyUI loads no small model of the family {request.param}")
    return models[request.param]


@pytest.fixture
def run(comfy):
    """Sample through the function behind stock KSampler."""

    def go(model, *, sampler="euler", scheduler="simple", cfg=5.0, batch=1, steps=3, seed=7, **options):
        latent = {"samples": torch.zeros(batch, 16, 8, 8)}
        if options.pop("filled", False):
            latent["samples"] = torch.randn(batch, 16, 8, 8, generator=torch.Generator().manual_seed(3))
        if options.pop("masked", False):
            latent["noise_mask"] = torch.zeros(1, 1, 64, 64)
            latent["noise_mask"][..., 20:44, 20:44] = 1
        positive = options.pop("positive", stand_ins.conditioning(0))
        negative = options.pop("negative", stand_ins.conditioning(1))
        done = comfy.common_ksampler(model, seed, steps, cfg, sampler, scheduler, positive, negative, latent, **options)
        return done[0]["samples"]

    return go


@pytest.fixture(scope="module")
def tpm():
    """A TPM whose output layer is not zero, so that every sample gets its own t*."""
    from asyncdiff.tpm.policies.network import TPM, TPMConfig

    torch.manual_seed(0)
    context, pooled = stand_ins.text_widths()
    module = TPM(
        TPMConfig(
            backbone="sd3", latent_channels=16, context_dim=context, pooled_dim=pooled, width=32,
            heads=2, layers=1,
        )
    )  # fmt: skip
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return module.eval()


class PassOn:
    """A VAE whose decoding is replaced."""

    decode = None


class Swept:
    """Runs γ Sweep; `evaluations` of the network and `decodings` since the latest call are counted."""

    def __init__(self, node, inputs):
        self.node, self.inputs = node, inputs
        self.evaluations, self.decodings = [], []

    def __call__(self, gammas, **changes):
        """(latents, number of evaluations, the document of the strip)."""
        self.evaluations.clear()
        output = self.node.execute(**{**self.inputs, **changes}, gammas=gammas)
        return output.args[2]["samples"], len(self.evaluations), output.ui["asyncdiff_explorer"][0]


@pytest.fixture
def explored(comfy, model, monkeypatch, tmp_path):
    """γ Sweep on a small model, with nothing remembered; its VAE passes latents on as pictures."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    go = Swept(sweeps.forgetful(monkeypatch, "7"), sweeps.inputs_of(model, vae=PassOn()))

    def decode(self, vae, latent):
        go.decodings.append(1)
        return (latent["samples"][:, :3].movedim(1, -1),)

    monkeypatch.setattr(comfy.VAEDecode, "decode", decode)
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda *_: go.evaluations.append(1))
    yield go
    hook.remove()
