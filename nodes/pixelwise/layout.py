"""How a map of pixels lies on the latent that a sampler moves.

Images and videos have their own form, and a map that of their pixels. Parts that are made together, a video and its
sound, come to a sampler as one row of numbers (B, 1, n), the video first: there a map has one number for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...tpm.pixelwise.regions import Size
from ...tpm.retiming.equations import Value


@dataclass(frozen=True)
class Layout:
    """The shapes of a latent's parts, (B, C, …) each; the first has the pixels."""

    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, latent: Tensor, shapes: Sequence[Sequence[int]] | None) -> Layout:
        """Of the latent of a run. shapes: what the host says of its parts, if it does."""
        return cls(tuple(tuple(shape) for shape in shapes) if shapes else (tuple(latent.shape),))

    @property
    def size(self) -> Size:
        """(H, W), or (T, H, W) of a video."""
        return self.shapes[0][2:]

    @property
    def packed(self) -> bool:
        """Whether the parts are one row."""
        return len(self.shapes) > 1

    def laid(self, field: Tensor, rest: Value) -> Tensor:
        """A map (b, 1, *size) on the latent, the same map unless parts are packed. rest: what holds beside the map."""
        if not self.packed:
            return field
        others = sum(math.prod(shape[1:]) for shape in self.shapes[1:])
        row = field.expand(-1, self.shapes[0][1], *self.size).flatten(1)[:, None]
        beside = torch.as_tensor(rest, dtype=field.dtype, device=field.device).reshape(-1, 1, 1)
        batch = max(len(row), len(beside))
        return torch.cat([row.expand(batch, -1, -1), beside.expand(batch, -1, others)], dim=2)

    def picture(self, latent: Tensor) -> Tensor:
        """The part that has the pixels, (B, C, *size)."""
        if not self.packed:
            return latent
        count = math.prod(self.shapes[0][1:])
        return latent.flatten(1)[:, :count].reshape(-1, *self.shapes[0][1:])
