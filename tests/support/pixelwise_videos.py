"""Small video models of every family that can be pixel-wise, and runs of them."""

from types import SimpleNamespace

import torch

from support import other_latents
from support.other_latents import LTXAV, WAN

LTXV = {
    "num_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2, "cross_attention_dim": 64,
    "caption_channels": 32,
}  # fmt: skip
VIDEO, WIDE, LTX = (16, 3, 8, 8), (48, 3, 8, 8), (128, 3, 4, 4)
SOUND = (8, 6, 16)


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def frames(*values, shape):
    """A mask of the video: one value for each frame."""
    return torch.tensor(values).view(1, 1, -1, 1, 1).expand(1, 1, *shape[1:]).contiguous()


def family(kind, sizes, *shapes, width=32, **given):
    """given: mask, what is painted; extra, what the conditioning holds."""
    return SimpleNamespace(kind=kind, sizes=sizes, shapes=shapes, width=width, **{"mask": None, "extra": {}} | given)


ltx_extra = {"frame_rate": 25, "attention_mask": torch.ones(1, 6, dtype=torch.long)}
picture = draw(1, 16, 3, 8, 8, seed=9)
posed = {"reference_latents": [picture[:, :, :1]], "pose_video_latent": picture[..., :4, :4]}
FAMILIES = {
    "ltxv": family("LTXV", LTXV, LTX, extra=ltx_extra),
    "ltxv-i2v": family("LTXV", LTXV, LTX, extra=ltx_extra, mask=frames(0.0, 0.5, 1.0, shape=LTX)),
    "ltxav": family("LTXAV", LTXAV, LTX, SOUND, width=64, extra=ltx_extra),
    "ltxav-i2v": family("LTXAV", LTXAV, LTX, SOUND, width=64, extra=ltx_extra, mask=frames(0.0, 0.5, 1.0, shape=LTX)),
    "wan": family("WAN21_T2V", WAN, VIDEO),
    "wan-i2v": family(
        "WAN21_I2V", {**WAN, "in_dim": 36}, VIDEO,
        extra={"concat_latent_image": picture, "concat_mask": torch.ones(1, 1, 3, 8, 8)},
    ),
    "wan-reference": family("WAN21_T2V", {**WAN, "in_dim_ref_conv": 16}, VIDEO, extra={"reference_latents": [picture]}),
    "wan-beside": family(
        "WAN21_T2V", WAN, VIDEO, extra={"time_dim_concat": picture[:, :, :1], "context_latents": [picture[..., :4]]}
    ),
    "wan22": family("WAN22_T2V", {**WAN, "in_dim": 48, "out_dim": 48}, WIDE),
    "wan22-i2v": family(
        "WAN22_T2V", {**WAN, "in_dim": 48, "out_dim": 48}, WIDE, mask=frames(0.0, 1.0, 1.0, shape=WIDE)
    ),
    "causal": family("WAN21_CausalAR_T2V", WAN, VIDEO),
    "scail": family("WAN21_SCAIL", {**WAN, "in_dim": 20}, VIDEO, extra=posed),
    "scail2": family(
        "WAN21_SCAIL2", {**WAN, "in_dim": 20}, VIDEO, extra=posed, mask=frames(0.0, 1.0, 1.0, shape=VIDEO)
    ),
}  # fmt: skip


class VideoBench:
    """One family: its model, prompts and noise. side: pixels of a drawn mask that one latent pixel is."""

    def __init__(self, name, batch=2):
        self.family = FAMILIES[name]
        self.model = other_latents.build(self.family.kind, self.family.sizes)
        self.batch = batch
        self.size = self.family.shapes[0][1:]
        self.positive, self.negative = self.text(0), self.text(1)

    def text(self, seed):
        return [[draw(1, 6, self.family.width, seed=100 + seed), dict(self.family.extra)]]

    def nested(self, parts):
        return parts[0] if len(parts) == 1 else other_latents.nested(parts)

    def noise(self, latent):
        parts = latent.unbind() if latent.is_nested else [latent]
        return self.nested([draw(*part.shape, seed=7 + n) for n, part in enumerate(parts)])

    def latent(self):
        """The given video where a part of it is given, else an empty one."""
        filled = self.family.mask is not None
        return self.nested(
            [
                draw(self.batch, *s, seed=3 + n) if filled else torch.zeros(self.batch, *s)
                for n, s in enumerate(self.family.shapes)
            ]
        )

    def run(self, model, sampler, *, steps=4, cfg=4.0, sigmas=None, **options):
        """The latent of SamplerCustom."""
        import comfy.sample
        import comfy.samplers

        sampler = comfy.samplers.ksampler(sampler) if isinstance(sampler, str) else sampler
        if sigmas is None:
            sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
        latent = options.pop("latent", None)
        latent = self.latent() if latent is None else latent
        with torch.no_grad():
            return comfy.sample.sample_custom(
                model, self.noise(latent), cfg, sampler, sigmas, options.pop("positive", self.positive), self.negative,
                latent, noise_mask=self.family.mask, disable_pbar=True, seed=3,
                **options,
            )  # fmt: skip

    def drawn(self, *strengths, frames=None):
        """Regions: vertical stripes of the frames, one for each strength; the last stripe is background."""
        from asyncdiff.tpm.pixelwise.requests import Drawn, Regions

        height, width = (8 * side for side in self.size[1:])
        count, items = len(strengths) + 1, []
        for number, strength in enumerate(strengths):
            mask = torch.zeros(height, width)
            mask[:, width * number // count : width * (number + 1) // count] = 1
            mask = mask if frames is None else torch.stack([mask * share for share in frames])
            items.append(Drawn(f"stripe {number + 1}", strength, mask))
        return Regions(tuple(items))

    def attached(self, *strengths, model=None, frames=None, **options):
        from asyncdiff.nodes.pixelwise.patch import attach

        return attach(model or self.model, self.drawn(*strengths, frames=frames), **options)

    def evaluate(self, patched, x, sigma_ref, step=None, cfg=4.0):
        """The denoised latent, one row (B, 1, n), of one evaluation of the guider at σ_ref, as the sampler sees it."""
        kept = []
        self.run(patched, evaluation(x, sigma_ref, step, kept), steps=1, cfg=cfg)
        return kept[0].flatten(1)


def evaluation(x, sigma_ref, step, kept):
    """A sampler that evaluates once. x: the latent as the host's sampler has it, or a function of its noise."""
    from asyncdiff.nodes.pixelwise.sampler import PixelwiseSampler
    from asyncdiff.nodes.pixelwise.step import STEP

    class Once(PixelwiseSampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_, **__):
            options = extra_args["model_options"]
            made = step(self.layout) if callable(step) else step
            transformer = {**options["transformer_options"]} | ({} if made is None else {STEP: made})
            sigma = torch.as_tensor(sigma_ref, dtype=torch.float32).expand(len(noise))
            options = {**options, "transformer_options": transformer}
            kept.append(model_wrap(x(noise), sigma, model_options=options, seed=1))
            return kept[-1]

    return Once("quadratic")


def flat(made):
    """Samples as one row for each video."""
    parts = made.unbind() if made.is_nested else [made]
    return torch.cat([part.flatten(1) for part in parts], dim=1)
