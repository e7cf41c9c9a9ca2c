"""Regions and schedules as IMAGE."""

from __future__ import annotations

from math import ceil

import torch
from PIL import Image

from ...tpm.drawing import to_pil
from ...tpm.pixelwise import pictures
from ...tpm.pixelwise.errors import RegionError, ScheduleError
from ...tpm.pixelwise.requests import Regions, numbered
from ...tpm.pixelwise.schedules import SlowCurve
from ..images import to_image
from ..latents import chosen_frames


def labels_of(regions: Regions, latent: torch.Tensor, step: int) -> torch.Tensor:
    """The regions of one step, (B, H, W) of 0 (background), 1, 2, …, for a latent (B, C, H, W); videos: T before H.

    A prompt's regions are those of the run that put this latent out; the concave control and scale 0 have none. Raises
    RegionError where no run did, or not in so many steps.
    """
    run = regions.seen.of(latent)
    if run is not None and run.labels:
        if step >= len(run.labels):
            raise RegionError(
                f"The run had {len(run.labels)} steps; give a step from 0 to {len(run.labels) - 1}, or −1."
            )
        return _for_each(run.labels[step], latent)
    if regions.tokens and run is not None:
        return torch.zeros(len(latent), *latent.shape[2:], dtype=torch.uint8)
    if regions.tokens:
        raise RegionError(
            "Regions from a prompt belong to the run that put a latent out, and no run with these regions put out this"
            " one: run Pixel-wise Asynchronous Sampler with them, and connect the LATENT of that sampler, unchanged."
        )
    return _for_each(numbered(regions.drawn(latent.shape[2:], 1, len(latent))), latent)


def _for_each(labels: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """Labels of videos for each of them, where all have the same; those of images as they are."""
    return labels.expand(len(latent), *labels.shape[1:]) if latent.ndim == 5 else labels


def overlay(labels: torch.Tensor, regions: Regions, images: torch.Tensor | None, frame: int = -1) -> torch.Tensor:
    """IMAGE (B, H, W, 3): each image's regions over it, or over grey.

    Of videos, labels (B, T, H, W), only the frame of the latent with this number; at −1 the first, middle and last.
    """
    if labels.ndim == 4:
        return _frames(labels, regions, images, frame)
    below: list[Image.Image | None] = [None] * len(labels)
    if images is not None:
        if len(images) not in (1, len(labels)) and len(labels) != 1:
            raise RegionError(f"The regions are of {len(labels)} images, and {len(images)} are connected.")
        below = [to_pil(image.cpu().movedim(-1, 0)) for image in images]
    count = max(len(labels), len(below))
    caption = "" if labels.any() else "no region in this run"
    drawn = [
        pictures.overlay(labels[n % len(labels)], regions.names, regions.strengths, below[n % len(below)], caption)
        for n in range(count)
    ]
    return torch.cat([to_image(picture) for picture in drawn])


def _frames(labels: torch.Tensor, regions: Regions, images: torch.Tensor | None, frame: int) -> torch.Tensor:
    """The pictures of chosen frames, one video after another.

    labels: (B, T, H, W). images: the frames of all videos (B·F, H, W, 3), one video after another.
    """
    videos, count = labels.shape[:2]
    if frame >= count:
        raise RegionError(f"The latent has {count} frames; give a frame from 0 to {count - 1}, or −1.")
    if images is not None and len(images) % videos:
        raise RegionError(f"The regions are of {videos} videos, and {len(images)} frames are connected.")
    shown = count if images is None else len(images) // videos
    made = []
    for n in range(videos):
        for each in chosen_frames(shown) if frame < 0 else [_first_shown(frame, shown, count)]:
            picture = None if images is None else to_pil(images[n * shown + each].cpu().movedim(-1, 0))
            caption = f"video {n + 1}, {'latent frame' if images is None else 'frame'} {each + 1} of {shown}"
            inside = labels[n, _frame_of_latent(each, shown, count)]
            made.append(pictures.overlay(inside, regions.names, regions.strengths, picture, caption))
    return torch.cat([to_image(picture) for picture in made])


def _frame_of_latent(shown: int, frames: int, count: int) -> int:
    """The frame of a latent of `count` that holds a frame of the video: the first alone, the others in groups."""
    return 0 if frames == 1 else ceil(shown * (count - 1) / (frames - 1))


def _first_shown(frame: int, frames: int, count: int) -> int:
    """The first frame of the video that a frame of its latent holds."""
    return next(n for n in range(frames) if _frame_of_latent(n, frames, count) >= frame or n == frames - 1)


def schedule_chart(
    sigmas: torch.Tensor, regions: Regions, curve: SlowCurve, concave: bool, scale: float
) -> Image.Image:
    """The chart of one setting; ScheduleError where there is no step."""
    if sigmas.numel() < 2:
        raise ScheduleError("These SIGMAS hold no step; use a scheduler with one step or more.")
    return pictures.schedule_chart(sigmas, regions.names, regions.scaled(scale), curve, concave)
