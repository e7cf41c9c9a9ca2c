"""LATENTs of every kind: pictures, video, audio, or several parts in one; and the pictures that a VAE makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.sample
import torch
from torch import Tensor

import nodes as core

from ..tpm.errors import HostError

RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")  # what the host's empty latents say of themselves
OF_ONE_BATCH = ("noise_mask", "batch_index", *RATIOS)
"""What a LATENT says of the samples that it holds now, so that it does not hold for those of several runs."""


def parts(latent: Any) -> list[Tensor]:
    """The tensors of a latent: one, or several where video and audio are made together."""
    return list(latent.unbind()) if getattr(latent, "is_nested", False) else [latent]


def picture_part(latent: Any) -> Tensor:
    """What core's VAE Decode decodes: the first part (B, C, H, W), or (B, C, T, H, W) of a video."""
    return parts(latent)[0]


def joined(latents: Sequence[Any]) -> Any:
    """Latents one after another along the batch, part by part."""
    columns = [torch.cat(column) for column in zip(*map(parts, latents), strict=True)]
    return type(latents[0])(columns) if getattr(latents[0], "is_nested", False) else columns[0]


def with_channels_of(model: Any, latent: Mapping[str, Any]) -> Any:
    """The samples of a LATENT; an empty one in the channels and the scale of the model, as core's KSampler makes it."""
    ratios = {name: latent[name] for name in RATIOS if name in latent}
    return comfy.sample.fix_empty_latent_channels(model, latent["samples"], **ratios)


def about(latent: dict[str, Any]) -> dict[str, Any]:
    """What a LATENT says beside its samples that holds for any number of them, such as the rate of its sound."""
    return {name: value for name, value in latent.items() if name not in ("samples", *OF_ONE_BATCH)}


def size_of(latent: Any) -> int:
    """The bytes of a latent, all its parts together."""
    return sum(part.nbytes for part in parts(latent))


def check_pictures(what: str, model: Any, vae: Any, latent: Any, instead: str) -> None:
    """Raise HostError where the VAE makes no pictures of the latent, before anything is sampled.

    what: who needs them and what for, such as "γ Sweep shows pictures"; instead: what to do, a sentence.
    """
    reason = why_no_pictures(model, vae, latent)
    if reason:
        raise HostError(f"{what}, and {reason}. {instead}")


def why_no_pictures(model: Any, vae: Any, latent: Any) -> str:
    """Half a sentence where the VAE makes no pictures of what the model samples, else ""."""
    return why_no_plane(model, latent) or ("" if makes_pictures(vae) else "this VAE decodes audio")


def why_no_plane(model: Any, latent: Any) -> str:
    """Half a sentence where what the model samples has no height and width, else ""."""
    kind, name = model.get_model_object("latent_format"), type(model.model).__name__
    if getattr(kind, "latent_dimensions", 2) == 1:
        return f"{name} makes none: its latents have a length, but no height and width"
    if "Audio" in type(kind).__name__:
        return f"{name} makes none: its latents are sound, whose height is a pitch"
    shape = tuple(picture_part(latent).shape)
    return "" if len(shape) in (4, 5) else f"this latent has no height and width: it is {shape}"


def makes_pictures(vae: Any) -> bool:
    """Whether a VAE decodes to red, green and blue, as far as the host says."""
    plane = getattr(vae, "latent_dim", 2) != 1 and getattr(vae, "extra_1d_channel", None) is None
    return plane and getattr(vae, "output_channels", 3) >= 3


def decoded(vae: Any, latent: Any) -> Tensor:
    """The pictures (B, T, H, W, 3) of a latent's picture part, by core's VAE Decode; T is 1 unless it is a video."""
    images: Tensor = core.VAEDecode().decode(vae, {"samples": latent})[0]
    return images.unflatten(0, (len(picture_part(latent)), -1))


def chosen_frames(count: int) -> list[int]:
    """Which frames stand for a video of `count` frames: the first, the middle and the last, each once."""
    return sorted({0, count // 2, count - 1})
