"""What one step does to the latent when every pixel goes from its own noise level to its own next one.

DDIM in the form of AsynDM (arXiv 2510.04504), elementwise in ᾱ; the same in the σ of k-diffusion; Euler for flow
models. x and a network's output are (B, C, H, W), or (B, C, T, H, W) of a video; maps broadcast to them, normally
(B, 1, H, W) or (B, 1, T, H, W). Arithmetic is in the widest dtype given, the result in that of x. Only first-order
steps: a multistep history is invalid when σ differs between pixels from step to step.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .errors import ScheduleError

Prediction = Literal["eps", "v"]

TINY = 1e-20  # keeps 0/0 out of pixels that are already clean; they do not move


def alpha_bar_at(t: Tensor, alphas_cumprod: Tensor, clean: bool = False) -> Tensor:
    """ᾱ[t] elementwise; t int64 of any shape, alphas_cumprod (T,). `clean`: t = 0 is the image itself, ᾱ = 1.

    The paper ends at ᾱ[0] ≈ .999; the default of a run here is clean=True for t′ of its last step.
    """
    values = alphas_cumprod[t.to(alphas_cumprod.device)]
    return torch.where(t.to(values.device) == 0, torch.ones_like(values), values) if clean else values


def estimates(x: Tensor, output: Tensor, alpha_bar: Tensor, prediction: Prediction = "eps") -> tuple[Tensor, Tensor]:
    """(x̂_0, ε̂) from the network's output at ᾱ = a, elementwise.

    eps: x0 = (x − √(1−a)·o)/√a, ε = o. v: x0 = √a·x − √(1−a)·o, ε = √a·o + √(1−a)·x.
    """
    if prediction not in get_args(Prediction):
        raise ScheduleError(f'The prediction is "eps" or "v", not {prediction!r}; flow models use flow_step.')
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction == "eps":
        return (x - noise * output) / signal, output
    return signal * x - noise * output, signal * output + noise * x


def fresh_noise(alpha_bar: Tensor, alpha_bar_next: Tensor, eta: float) -> Tensor:
    """σ = η·√[(1−b)/(1−a)·(1 − a/b)], the noise that a step from ᾱ = a to ᾱ = b ≥ a adds."""
    a, b = alpha_bar, alpha_bar_next
    return eta * ((1 - b) / (1 - a).clamp(min=TINY) * (1 - a / b).clamp(min=0)).sqrt()


def ddim_step(
    x: Tensor,
    output: Tensor,
    alpha_bar: Tensor,
    alpha_bar_next: Tensor,
    *,
    prediction: Prediction = "eps",
    eta: float = 1.0,
    noise: Tensor | None = None,
) -> Tensor:
    """x′ = √b·x̂_0 + √(1 − b − σ²)·ε̂ + σ·z per pixel; pixels with b = a stay as they are, bit by bit.

    eta: 0 deterministic … 1 (the paper's). noise: z like x, needed when eta > 0. Raises ScheduleError.
    """
    check_step(x, (alpha_bar, alpha_bar_next), eta, noise)
    x0, eps = estimates(x, output, alpha_bar, prediction)
    sigma = fresh_noise(alpha_bar, alpha_bar_next, eta)
    direction = (1 - alpha_bar_next - sigma.square()).clamp(min=0).sqrt()
    moved = alpha_bar_next.sqrt() * x0 + direction * eps
    moved = moved if noise is None else moved + sigma * noise
    return torch.where(alpha_bar_next == alpha_bar, x, moved.to(x.dtype))


def sigma_step(
    x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor, *, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """`ddim_step` in k-diffusion's space (x = x_0 + σ·ε) from the denoised estimate D, per pixel.

    x′ = D + (σ_down/σ)·(x − D) + σ_up·z with σ_up² = η²·σ′²·(σ² − σ′²)/σ² and σ_down² = σ′² − σ_up²: Euler at η = 0,
    ancestral Euler at η = 1. Pixels with σ′ = σ stay as they are. Arguments and errors as for `ddim_step`.
    """
    check_step(x, (sigma, sigma_next), eta, noise)
    ratio = (sigma_next / sigma.clamp(min=TINY)).clamp(max=1)
    up = eta * sigma_next * (1 - ratio.square()).sqrt()
    down = (sigma_next.square() - up.square()).clamp(min=0).sqrt()
    moved = denoised + down / sigma.clamp(min=TINY) * (x - denoised)
    moved = moved if noise is None else moved + up * noise
    return torch.where(sigma_next == sigma, x, moved.to(x.dtype))


def flow_step(x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """x′ = x + (σ′ − σ)·v per pixel: Euler for flow models (x = (1 − σ)·x_0 + σ·ε, v = ε − x_0)."""
    check_step(x, (sigma, sigma_next), 0.0, None)
    return (x + (sigma_next - sigma) * velocity).to(x.dtype)


def check_step(x: Tensor, maps: tuple[Tensor, ...], eta: float, noise: Tensor | None) -> None:
    """Raise ScheduleError unless the maps broadcast to x, η is in [0, 1], and noise is there when it is needed."""
    for each in maps:
        if not broadcasts(each, x):
            raise ScheduleError(
                f"A map of {tuple(each.shape)} does not fit a latent of {tuple(x.shape)}; it needs one value per pixel."
            )
    if not 0 <= eta <= 1:
        raise ScheduleError(f"η must be from 0 (deterministic) to 1 (ancestral), got {eta!r}.")
    if eta > 0 and (noise is None or noise.shape != x.shape):
        raise ScheduleError(f"η = {eta:g} adds noise: give noise of shape {tuple(x.shape)}, or use η = 0.")


def broadcasts(small: Tensor, large: Tensor) -> bool:
    """Whether `small` broadcasts to the shape of `large`. Shapes only."""
    pairs = zip(reversed(small.shape), reversed(large.shape), strict=False)
    return small.ndim <= large.ndim and all(a in (1, b) for a, b in pairs)
