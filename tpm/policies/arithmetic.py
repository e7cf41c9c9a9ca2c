"""The functions that a TPM is made of: nothing here has weights of its own."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SQUASH = 4.0


def squash(x: Tensor) -> Tensor:
    """4·tanh(x/4): the identity for ordinary values, bounded for outliers; stands in for a normalisation layer.

    The three maps are squashed in the same way, with the factor 4 in the weights that read them.
    """
    return SQUASH * torch.tanh(x / SQUASH)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention of (B, T, width) over (B, S, width) → (B, T, width)."""
    q, k, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (query, key, value))
    return merge_heads(F.scaled_dot_product_attention(q, k, v))


def merge_heads(heads: Tensor) -> Tensor:
    """(B, heads, T, size) → (B, T, heads·size)."""
    return heads.transpose(1, 2).flatten(2)


def sinusoid_frequencies(features: int, like: Tensor) -> Tensor:
    """`features`/2 geometric frequencies from 1 to 1/10,000, on the device and in the dtype of `like`."""
    half = features // 2
    return torch.exp(torch.arange(half, device=like.device, dtype=like.dtype) * (-math.log(10_000) / half))


def sinusoid(values: Tensor, frequencies: Tensor, scale: float) -> Tensor:
    """Sin and cos of `scale`·values at n frequencies: (…) → (…, 2n)."""
    angle = scale * values.unsqueeze(-1) * frequencies
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def grid_positions(grid: int, width: int, like: Tensor) -> Tensor:
    """Fixed 2-D sinusoidal positions (grid², width), half the channels for the row and half for the column."""
    places = torch.arange(grid, device=like.device, dtype=like.dtype)
    axis = sinusoid(places, sinusoid_frequencies(width // 2, like), scale=1.0)
    rows = axis.unsqueeze(1).expand(-1, grid, -1)
    columns = axis.unsqueeze(0).expand(grid, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def frame_positions(frames: int, most: int, width: int, like: Tensor) -> Tensor:
    """Fixed sinusoidal positions (frames, width) of a video's frames, evenly from 0 to `most`; zero for the first."""
    places = torch.arange(frames, device=like.device, dtype=like.dtype) * (most / frames)
    waves = sinusoid(places, sinusoid_frequencies(width, like), scale=1.0)
    return waves - waves[:1]


def fewer_frames(maps: Tensor, most: int) -> Tensor:
    """Maps (B, T, …) → (B, min(T, most), …): frames that follow each other are averaged."""
    if maps.shape[1] <= most:
        return maps
    joined = F.adaptive_avg_pool1d(maps.flatten(2).transpose(1, 2), most)
    return joined.transpose(1, 2).unflatten(2, maps.shape[2:])


def full_precision(device: str) -> AbstractContextManager[object]:
    """Autocast off; nothing to do on devices that have none (meta)."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def linear_fp32(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in fp32, whatever the precision of its weights and of x (…, inputs)."""
    x, weight, bias = (part if part.dtype == torch.float32 else part.float() for part in (x, layer.weight, layer.bias))
    return F.linear(x, weight, bias)
