"""Several γ of one sweep as one batch: what can be one, and how it is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.sample
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ..latents import joined, parts, with_channels_of
from .shared import can_share

SAME_FOR_EVERY_IMAGE = frozenset({
    *("euler", "euler_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0", "dpm_2", "lms", "dpmpp_2m", "dpmpp_2m_cfg_pp"),
    *("ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "gradient_estimation"),
    *("gradient_estimation_cfg_pp", "ddim", "uni_pc", "uni_pc_bh2"),
})  # fmt: skip
"""Samplers that add no noise of their own and make the steps of one image without a look at the others."""

NOTE = "Sampled as one batch with other strengths (γ): equal to a run of its own but for rounding."


def why_one_by_one(model: Any, sampler: str, texts: Sequence[Any], latent: Mapping[str, Any]) -> str:
    """Half a sentence where runs of several γ cannot be one batch, else ""."""
    if sampler not in SAME_FOR_EVERY_IMAGE:
        return f"{sampler} may add noise in its steps, which would differ between the images of a batch"
    if not can_share(model, texts):
        return "a node on the model or the prompts may want to see every run by itself"
    if len(parts(latent["samples"])) > 1:
        return "this latent has several parts"
    images = len(latent["samples"])
    rows = {len(value) for entries in texts for entry in entries for value in _tensors(entry)}
    return "" if rows <= {1, images} else "the prompts are a batch of another size"


def sampled_together(
    model: Any, seed: int, steps: int, cfg: float, sampler: str, scheduler: str, texts: Sequence[Any],
    latent: Mapping[str, Any], denoise: float, copies: int,
) -> list[Tensor]:  # fmt: skip
    """What core's KSampler gives for the latent, for each of so many runs from the same noise."""
    start = with_channels_of(model, latent)
    noise = comfy.sample.prepare_noise(start, seed, latent.get("batch_index"))
    mask = latent.get("noise_mask")
    if mask is not None and len(mask) == len(start):
        mask = joined([mask] * copies)
    samples = comfy.sample.sample(
        model, joined([noise] * copies), steps, cfg, sampler, scheduler, *texts, joined([start] * copies),
        denoise=denoise, noise_mask=mask, callback=latent_preview.prepare_callback(model, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed,
    )  # fmt: skip
    return [share.clone() for share in samples.chunk(copies)]


def _tensors(entry: Any) -> list[Tensor]:
    """The tensors of one part of a CONDITIONING that have a row for each prompt."""
    context, extra = entry
    return [value for value in (context, *extra.values()) if isinstance(value, torch.Tensor) and value.ndim]
