"""From images to what each reference model sees. The canonical form is an 8-bit RGB picture, as a saved file holds it.

Three references resize with Pillow (8-bit, antialiased), HPSv2 resizes floats. Centre crops of an odd margin differ by
a pixel: torchvision rounds half the margin to even, the Hugging Face processor rounds it down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..images import opened
from .base import RewardError

SIDE = 224
MOST_ELONGATED = 64
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "La", "RGBa")

Prepare = Callable[[Image.Image], Tensor]


def as_pictures(images: Tensor | Sequence[Tensor]) -> list[Image.Image]:
    """RGB pictures of ``images`` (n, c, H, W), values in [0, 1], rounded to 8 bits; clipped where out of range.

    c is 1 (gray), 3, or 4 (alpha is dropped, as the references do). Raises RewardError: other shapes, NaN.
    """
    return [_as_picture(image, number) for number, image in enumerate(images, start=1)]


def open_picture(path: str | Path) -> Image.Image:
    """The file as an RGB picture: first frame, alpha dropped, orientation tags ignored, as the references read it."""
    with opened(path, RewardError) as image:
        if image.mode not in _MODES:
            raise RewardError(f"{path} has more than 8 bits a channel ({image.mode}); save it with 8 bits first.")
        return image.convert("RGB")


def as_floats(pictures: Sequence[Image.Image]) -> list[Tensor]:
    """Each picture as (3, H, W), float32 in [0, 1]."""
    return [torch.from_numpy(np.array(picture, np.uint8)).permute(2, 0, 1).float().div(255) for picture in pictures]


def normalise(image: Tensor) -> Tensor:
    """CLIP's normalisation of ``image`` (3, H, W) in [0, 1]."""
    return (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def crop_torchvision(picture: Image.Image, side: int = SIDE) -> Tensor:
    """Short side to ``side`` pixels, centre crop at round(margin / 2): ImageReward and CLIP Score (3, side, side)."""
    resized = _short_side(picture, side)
    left, top = (round((length - side) / 2) for length in resized.size)
    return _cut(resized, left, top, side)


def crop_processor(picture: Image.Image, side: int = SIDE) -> Tensor:
    """Short side to ``side`` pixels, centre crop at margin // 2, as transformers' CLIP processor: PickScore."""
    resized = _short_side(picture, side)
    left, top = ((length - side) // 2 for length in resized.size)
    return _cut(resized, left, top, side)


def letterbox(picture: Image.Image, side: int = SIDE) -> Tensor:
    """Long side to ``side`` pixels in floats, not clamped, black bars around: HPSv2 (3, side, side)."""
    _check_shape(picture)
    image = as_floats([picture])[0][None]
    scale = side / max(image.shape[-2:])
    if scale != 1:
        size = [round(length * scale) for length in image.shape[-2:]]
        image = F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=True)
    height, width = (side - length for length in image.shape[-2:])
    bars = (width // 2, width - width // 2, height // 2, height - height // 2)
    return normalise(F.pad(image, bars)[0])


def _as_picture(image: Tensor, number: int) -> Image.Image:
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4) or 0 in image.shape:
        raise RewardError(f"Image {number} has shape {tuple(image.shape)}; give (1, 3 or 4, height, width).")
    values = image[:3].detach().float().cpu()
    if not torch.isfinite(values).all():
        raise RewardError(f"Image {number} holds NaN or infinite pixels; the sampling or decoding before it failed.")
    rounded = (values.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    return Image.fromarray(rounded.permute(1, 2, 0).contiguous().numpy())


def _short_side(picture: Image.Image, side: int) -> Image.Image:
    _check_shape(picture)
    short, long = sorted(picture.size)
    other = int(side * long / short)
    size = (side, other) if picture.width <= picture.height else (other, side)
    return picture.resize(size, Image.Resampling.BICUBIC)


def _check_shape(picture: Image.Image) -> None:
    if max(picture.size) > MOST_ELONGATED * min(picture.size):
        shape = f"{picture.width}×{picture.height}"
        raise RewardError(f"An image of {shape} pixels is too elongated to be judged; {MOST_ELONGATED}:1 is the most.")


def _cut(picture: Image.Image, left: int, top: int, side: int) -> Tensor:
    return normalise(as_floats([picture.crop((left, top, left + side, top + side))])[0])
