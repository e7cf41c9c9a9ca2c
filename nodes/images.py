"""Between pictures and ComfyUI's IMAGE."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

log = logging.getLogger("asyncdiff")


def to_image(picture: Image.Image) -> torch.Tensor:
    """IMAGE (1, H, W, 3) in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]


def drawn(draw: Callable[[], Image.Image | None]) -> Image.Image | None:
    """What `draw` makes. A page that cannot be drawn loses no sampling, scoring or training: the log says why; None."""
    try:
        return draw()
    except Exception:  # whatever it is, the work is worth more than the page
        log.exception("A page could not be drawn. The other outputs of the node are complete.")
        return None


def page(draw: Callable[[], Image.Image], instead: torch.Tensor | None = None) -> torch.Tensor:
    """IMAGE of the page that `draw` makes; where it cannot be drawn, `instead` or a blank."""
    picture = drawn(draw)
    if picture is not None:
        return to_image(picture)
    return torch.ones(1, 64, 64, 3) if instead is None else instead
