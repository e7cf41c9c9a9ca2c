"""Regions and schedules as IMAGE."""

from __future__ import annotations

import torch
from PIL import Image

from ...tpm.drawing import to_pil
from ...tpm.pixelwise import pictures
from ...tpm.pixelwise.errors import RegionError, ScheduleError
from ...tpm.pixelwise.requests import Regions
from ...tpm.pixelwise.schedules import SlowCurve
from ..images import to_image
from ..latents import chosen_frames


def labels_of(regions: Regions, latent: torch.Tensor, step: int) -> torch.Tensor:
    """The regions of one step, (B, H, W) of 0 (background), 1, 2, …, for a latent (B, C, H, W).

    A prompt's regions are those of the run that put this latent out. Raises RegionError where none did, or not in so
    many steps.
    """
    run = regions.seen.of(latent)
    if run is not None:
        if step >= len(run.labels):
            raise RegionError(
                f"The run had {len(run.labels)} steps; give a step from 0 to {len(run.labels) - 1}, or −1."
            )
        return run.labels[step]
    if regions.tokens:
        raise RegionError(
            "Regions from a prompt belong to the run that put a latent out, and no run with these regions put out this"
            " one (the concave control has none): run Pixel-wise Asynchronous Sampler with them, and connect the LATENT"
            " of that sampler, unchanged."
        )
    masks = regions.drawn((latent.shape[-2], latent.shape[-1]), 1, len(latent))
    return (masks * torch.arange(1, masks.shape[1] + 1)[:, None, None]).sum(dim=1)


def of_videos(labels: torch.Tensor, images: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The labels (B, H, W) or (1, H, W) of B = `count` videos for their first, middle and last frames, and the frames.

    images: all frames (B·T, H, W, 3). Raises RegionError for frames that do not belong to so many videos.
    """
    if len(images) % count:
        raise RegionError(f"The regions are of {count} videos, and {len(images)} frames are connected.")
    frames = images.unflatten(0, (count, -1))
    chosen = frames[:, chosen_frames(frames.shape[1])]
    return labels.expand(count, -1, -1).repeat_interleave(chosen.shape[1], 0), chosen.flatten(0, 1)


def overlay(labels: torch.Tensor, regions: Regions, images: torch.Tensor | None) -> torch.Tensor:
    """IMAGE (B, H, W, 3): each image's regions over it, or over grey."""
    below: list[Image.Image | None] = [None] * len(labels)
    if images is not None:
        if len(images) not in (1, len(labels)) and len(labels) != 1:
            raise RegionError(f"The regions are of {len(labels)} images, and {len(images)} are connected.")
        below = [to_pil(image.cpu().movedim(-1, 0)) for image in images]
    count = max(len(labels), len(below))
    drawn = [
        pictures.overlay(labels[n % len(labels)], regions.names, regions.strengths, below[n % len(below)])
        for n in range(count)
    ]
    return torch.cat([to_image(picture) for picture in drawn])


def schedule_chart(
    sigmas: torch.Tensor, regions: Regions, curve: SlowCurve, concave: bool, scale: float
) -> Image.Image:
    """The chart of one setting; ScheduleError where there is no step."""
    if sigmas.numel() < 2:
        raise ScheduleError("These SIGMAS hold no step; use a scheduler with one step or more.")
    return pictures.schedule_chart(sigmas, regions.names, regions.scaled(scale), curve, concave)
