"""Pictures as PNG files."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from ..files import write_atomically


def as_png(image: Image.Image, *, small: bool = False) -> bytes:
    """The bytes of a PNG file; `small` spends time on a smaller one."""
    data = io.BytesIO()
    image.save(data, "PNG", optimize=small)
    return data.getvalue()


def save_png(path: Path, image: Image.Image) -> Path:
    """Write a PNG file atomically. Raises WriteError."""
    return write_atomically(path, as_png(image))
