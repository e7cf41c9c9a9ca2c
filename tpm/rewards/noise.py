"""Residual noise: how much unstructured high-frequency noise is left in an image, with no weights at all.

A two-scale, block-quantile form of Immerkær's estimator (J. Immerkær, *Fast Noise Variance Estimation*, CVIU 1996). The
difference of two Laplacians cancels constant and linear structure; its mean absolute value over an 8×8 block estimates
the noise there; a low quantile over blocks looks where the image itself is flat. The half-scale copy catches noise that
a decoder has smeared over neighbouring pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 8
QUANTILE = 0.02
_MASK = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])


def residual_noise(images: Tensor, quantile: float = QUANTILE) -> Tensor:
    """Noise standard deviation in 8-bit levels (n,) of ``images`` (n, 3, H, W) in [0, 1], sides of 32 or more."""
    gray = images.float().mean(1, keepdim=True) * 255
    return torch.hypot(_block_noise(gray, quantile), _block_noise(F.avg_pool2d(gray, 2), quantile))


def _block_noise(gray: Tensor, quantile: float) -> Tensor:
    """Low quantile over blocks of the noise std of ``gray`` (n, 1, H, W)."""
    response = F.conv2d(gray, _MASK.to(gray).view(1, 1, 3, 3)).abs()
    blocks = F.avg_pool2d(response, BLOCK).flatten(1) * (math.sqrt(math.pi / 2) / 6)
    return blocks.quantile(quantile, dim=1)
