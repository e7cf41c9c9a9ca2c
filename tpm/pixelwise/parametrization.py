"""A host that knows one σ, a latent in which every pixel has its own: what goes in, what comes out, how noise is added.

The host calls its network at a scalar σ_ref and turns the output into a denoised latent D with it. `presented` is the
latent to give the host so that the network sees each pixel as its own σ scales it; `denoised` corrects the host's D.
Latents are (B, C, H, W), maps of σ (B, 1, H, W), σ_ref a number or (B, 1, 1, 1), of videos with T before H; flow models
x = (1 − σ)·x_0 + σ·ε, others x = x_0 + σ·ε.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["flow", "eps", "v"]


def presented(kind: Kind, x: Tensor, sigma: Tensor, sigma_ref: Tensor) -> Tensor:
    """x, or x·√((σ_ref² + 1)/(σ² + 1)) where the host divides by √(σ_ref² + 1) before the network."""
    return x if kind == "flow" else x * ((sigma_ref.square() + 1) / (sigma.square() + 1)).sqrt()


def denoised(kind: Kind, x: Tensor, d_ref: Tensor, sigma: Tensor, sigma_ref: Tensor) -> Tensor:
    """The denoised latent of each pixel's own σ, from the host's D_ref for `presented(x)`. Exactly D_ref at σ_ref.

    The network's output o is recovered from D_ref. flow: D = x − σ·o. eps: D = x − σ·o. v: D = x/(σ² + 1) −
    σ·o/√(σ² + 1).
    """
    if kind == "flow":
        return d_ref + (sigma_ref - sigma) * ((x - d_ref) / sigma_ref)
    shown = presented(kind, x, sigma, sigma_ref)
    if kind == "eps":
        own = x - sigma * ((shown - d_ref) / sigma_ref)
    else:
        whole = sigma_ref.square() + 1
        output = (shown / whole - d_ref) * (whole.sqrt() / sigma_ref)
        own = x / (sigma.square() + 1) - output * (sigma / (sigma.square() + 1).sqrt())
    return torch.where(sigma == sigma_ref, d_ref, own)


def noised(kind: Kind, latent: Tensor, noise: Tensor, sigma: Tensor, scale: float = 1.0) -> Tensor:
    """A clean latent with every pixel at its own σ. scale: what a flow model multiplies its noise by."""
    return sigma * (scale * noise) + (1 - sigma) * latent if kind == "flow" else latent + sigma * noise
