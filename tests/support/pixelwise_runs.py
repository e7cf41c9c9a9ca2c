"""Models of every family that can be pixel-wise, and runs of them, for the tests beside this file."""

import pytest
import torch

from support import stand_ins

FAMILIES = {
    "sd15": {"channels": 4, "widths": (768, 768)},
    "sd21": {"channels": 4, "widths": (1024, 1024)},
    "sdxl": {"channels": 4, "widths": (2048, 1280)},
    "sd35": {"channels": 16, "widths": None},
    "sd35-two": {"channels": 16, "widths": None},
    "flux": {"channels": 16, "widths": None},
    "flux2": {"channels": 128, "widths": None},
    "flux2_klein": {"channels": 128, "widths": None},
    "longcat": {"channels": 16, "widths": (3584, 128)},
}
UNETS = ("sd15", "sd21", "sdxl")
TRANSFORMERS = ("sd35", "sd35-two", "flux", "flux2", "flux2_klein", "longcat")
SAMPLED = ("sd15", "sd35-two", "flux", "flux2", "flux2_klein")  # by the tests of the sampler
TOLERANCE = {family: 2.2e-6 if family in UNETS else 6e-7 for family in FAMILIES}


def load(family):
    """MODEL. "sd35" is one dual-attention block, "sd35-two" has an ordinary one after it."""
    weights = stand_ins.sd35(depth=2) if family == "sd35-two" else getattr(stand_ins, family)()
    try:
        model = stand_ins.load(weights)
    except TypeError as refused:  # hosts that know no Flux.2 take it for a Flux.1
        raise ValueError(f"this ComfyUI knows no {family}: {refused}") from refused
    if model is None:
        raise ValueError(f"this ComfyUI knows no {family}")
    return model


class Bench:
    """One family: its model, prompts and noise."""

    def __init__(self, family, model, side=8):
        self.family, self.model = family, model
        form = FAMILIES[family]
        self.shape = (2, form["channels"], side, side)
        self.size = self.shape[-2:]
        self.positive, self.negative = self.text(0), self.text(1)
        self.noise = torch.randn(self.shape, generator=torch.Generator().manual_seed(0))

    def text(self, seed, tokens=8):
        return stand_ins.conditioning(seed, tokens, FAMILIES[self.family]["widths"])

    def run(self, model, sampler, *, steps=4, cfg=4.0, scheduler="simple", **options):
        """The latent of SamplerCustom."""
        import comfy.sample
        import comfy.samplers

        sampler = comfy.samplers.ksampler(sampler) if isinstance(sampler, str) else sampler
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
        latent = options.pop("latent", torch.zeros(self.shape))
        positive, negative = options.pop("positive", self.positive), options.pop("negative", self.negative)
        with torch.no_grad():
            return comfy.sample.sample_custom(
                model, self.noise_for(latent), cfg, sampler, sigmas, positive, negative, latent,
                disable_pbar=True, seed=3, **options,
            )  # fmt: skip

    def noise_for(self, latent):
        if latent.shape[1:] == self.shape[1:]:
            return self.noise[: len(latent)]
        return torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))

    def evaluate(self, model, x, sigma_ref, step=None, cfg=1.0):
        """The denoised latent of one evaluation of the guider, as the sampler sees it."""
        return self.run(model, probe(x, sigma_ref, step), steps=2, cfg=cfg)

    def drawn(self, *strengths, **halves):
        """Regions: vertical stripes of the image, one for each strength; the last stripe is background."""
        from asyncdiff.tpm.pixelwise.requests import Drawn, Regions

        width, count = 8 * self.size[1], len(strengths) + 1
        stripes = []
        for number, strength in enumerate(strengths):
            mask = torch.zeros(8 * self.size[0], width)
            mask[:, width * number // count : width * (number + 1) // count] = 1
            stripes.append(Drawn(f"stripe {number + 1}", strength, mask))
        return Regions(tuple(stripes), **halves)

    def attached(self, *strengths, model=None, **options):
        from asyncdiff.nodes.pixelwise.patch import attach

        return attach(model or self.model, self.drawn(*strengths), **options)


def probe(x, sigma_ref, step):
    """A sampler that evaluates once at σ_ref, scalar or one per image, and returns what it got."""
    from asyncdiff.nodes.pixelwise.sampler import PixelwiseSampler
    from asyncdiff.nodes.pixelwise.step import STEP

    class Probe(PixelwiseSampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_, **__):
            options = extra_args["model_options"]
            transformer = {**options["transformer_options"]}
            if step is not None:
                transformer[STEP] = step
            sigma = torch.as_tensor(sigma_ref, dtype=torch.float32).expand(len(x))
            return model_wrap(x, sigma, model_options={**options, "transformer_options": transformer}, seed=1)

    return Probe("quadratic")


def sampler(curve="quadratic", **options):
    from asyncdiff.nodes.pixelwise.sampler import PixelwiseSampler

    return PixelwiseSampler(curve, **options)


def same_sigma(bench, *values):
    """A `Step` whose map is constant in each image."""
    from asyncdiff.nodes.pixelwise.step import Step

    field = torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 1, *bench.size).contiguous()
    return Step(field, field)


def relative(one, other):
    return float((one - other).abs().max() / other.abs().max())


def phrases(*items, **options):
    from asyncdiff.tpm.pixelwise.requests import Phrase, Regions

    made = tuple(Phrase(name, strength, tokens) for name, strength, tokens in items)
    return Regions(made, text_length=options.pop("length", 8), **options)


def attach(*args, **options):
    from asyncdiff.nodes.pixelwise import patch

    return patch.attach(*args, **options)


def refused(bench, model, reason, using=None, **options):
    from asyncdiff.tpm.errors import AsyncDiffError

    with pytest.raises(AsyncDiffError, match=reason):
        bench.run(model, using or sampler(), **options)
    assert torch.equal(bench.run(bench.model, "euler"), bench.run(bench.model, "euler"))
