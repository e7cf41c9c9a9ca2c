"""Between pictures and ComfyUI's IMAGE."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image


def to_image(picture: Image.Image) -> torch.Tensor:
    """IMAGE (1, H, W, 3) in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]
