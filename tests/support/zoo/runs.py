"""Sampling an entry's MODEL through the function behind the stock samplers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from support.zoo.build import CPU
from support.zoo.entry import Entry, normal

STEPS = 3


def sample(model: Any, entry: Entry, *, masked: bool = False, callback: Any = None) -> Tensor:
    """The latent of a run with Euler over the family's own "simple" grid; a nested one in one flat tensor."""
    import comfy.samplers

    stock = comfy.samplers.KSampler(model, STEPS, CPU, "euler", "simple", 1.0, model.model_options)
    with torch.inference_mode():
        done = comfy.samplers.sample(
            model, latent(entry, 7), conditioning(entry, 0), conditioning(entry, 1), entry.cfg, CPU,
            comfy.samplers.sampler_object("euler"), stock.sigmas, model.model_options,
            latent_image=latent(entry, 3 if masked else None),
            denoise_mask=mask(entry) if masked else None, callback=callback, disable_pbar=True, seed=7,
        )  # fmt: skip
    parts = done.unbind() if done.is_nested else [done]
    return torch.cat([part.flatten() for part in parts])


def latent(entry: Entry, seed: int | None) -> Any:
    """A latent of noise, or, without a seed, of zeros."""
    shapes = entry.shapes
    parts = [torch.zeros(*s) if seed is None else normal(*s, seed=seed + n) for n, s in enumerate(shapes)]
    return parts[0] if len(parts) == 1 else nested(parts)


def mask(entry: Entry) -> Any:
    """The entry's mask; for a nested latent, one for each of its parts."""
    made = entry.mask()
    return nested(made) if isinstance(made, list) else made


def nested(parts: list[Any]) -> Any:
    """Parts that are made together as one; hosts that have no such model have no such tensor."""
    from comfy.nested_tensor import NestedTensor

    return NestedTensor(parts)


def conditioning(entry: Entry, seed: int) -> list[Any]:
    """CONDITIONING; seed 0 is the positive one, 1 the negative one."""
    context = normal(1, entry.tokens, entry.text, seed=100 + seed) if entry.text else None
    extra = {name: value(seed) if callable(value) else value for name, value in entry.extra.items()}
    return [[context, extra]]
