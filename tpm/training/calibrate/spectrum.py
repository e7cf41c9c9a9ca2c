"""How much a latent varies at each spatial frequency: log energy of its cosine transform in radial bands."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BANDS = 8


def band_spectrum(latents: Tensor, bands: int = BANDS) -> Tensor:
    """Log of the mean over channels and places of |DCT2|² in `bands` radial bands, (n, bands) in float64.

    latents: (n, C, H, W), or videos (n, C, T, H, W) whose frames count like channels, of at least 2 · `bands` places
    along the shorter side. Band 0 holds the slowest changes, the mean among them; radius 1 is the highest frequency
    along one side, and the last band also has the corners.
    """
    n, height, width = len(latents), *latents.shape[-2:]
    x = latents.double().flatten(1, -3)
    energy = (_cosines(height) @ x @ _cosines(width).T).square().mean(1).reshape(n, -1)
    which = _bands(height, width, bands).flatten()
    total = torch.zeros(n, bands, dtype=torch.float64).index_add_(1, which, energy)
    return (total / torch.bincount(which, minlength=bands)).log()


def _cosines(size: int) -> Tensor:
    """The orthonormal DCT-II (size, size) in float64."""
    k, place = torch.arange(size, dtype=torch.float64), torch.arange(size, dtype=torch.float64) + 0.5
    matrix = (math.pi / size * k[:, None] * place).cos() * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def _bands(height: int, width: int, bands: int) -> Tensor:
    """The band of every frequency, (height, width)."""
    radius = torch.hypot(torch.arange(height)[:, None] / height, torch.arange(width) / width)
    return (radius * bands).long().clamp(max=bands - 1)
