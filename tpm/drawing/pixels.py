"""From arrays to images."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def to_pil(image: Any) -> Image.Image:
    """A (3, H, W) array or CPU tensor with values in [0, 1] as an RGB image; NaN becomes black."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32)).clip(0, 1)
    return Image.fromarray((values * 255).round().astype(np.uint8).transpose(1, 2, 0).copy(), "RGB")


def fitted(image: Image.Image, width: int) -> Image.Image:
    """``image`` about ``width`` pixels wide: a whole multiple of a smaller one, a larger one reduced."""
    if image.width > width:
        size = width, max(1, round(image.height * width / image.width))
    else:
        factor = max(1, round(width / image.width))
        size = image.width * factor, image.height * factor
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS) if size != image.size else image.convert("RGB")
