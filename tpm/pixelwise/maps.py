"""How the coarser grids of a network read a per-pixel map (timesteps or σ), and what the text stream is told."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from ..retiming.equations import Value
from .errors import RegionError, ScheduleError

Reading = Literal["corner", "mean"]
TextTime = Literal["mean", "max", "min", "background"]


def check_divisible(latent: tuple[int, int], unit: int) -> None:
    """Raise RegionError unless both sides (height, width) of a latent are multiples of `unit` > 0."""
    if any(side < unit or side % unit for side in latent):
        raise RegionError(
            f"A latent of {latent[1]} × {latent[0]} cannot be divided into {unit} × {unit} patches; use an image whose"
            f" sides are multiples of {unit} latent pixels."
        )


def coarse(field: Tensor, factor: int, reading: Reading = "corner") -> Tensor:
    """A map (B, 1, H, W) on the grid of a layer that is `factor` times smaller: (B, 1, H/factor, W/factor).

    corner: the top-left pixel of every cell (the paper's stride); mean: the cell's mean. Raises RegionError for sides
    that are not multiples of the factor.
    """
    if reading not in get_args(Reading):
        raise ScheduleError(f"A map is read by {' or '.join(get_args(Reading))}, not {reading!r}.")
    height, width = field.shape[-2:]
    check_divisible((height, width), factor)
    if reading == "corner":
        return field[..., ::factor, ::factor]
    return field.unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor)).mean(dim=(-3, -1))


def fine(field: Tensor, factor: int) -> Tensor:
    """Every cell of (B, J, h, w) repeated to factor × factor pixels: constant inside the patches of a transformer."""
    return field.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def text_time(field: Tensor, rule: TextTime = "mean", background: Value | None = None) -> Tensor:
    """The timestep that text tokens are told, (B,), from a map (B, 1, H, W). The paper leaves this open.

    "background" is the value of pixels outside all regions, one or one per image (guidance repeats the batch), and must
    be given for that rule.
    """
    flat = field.flatten(1)
    if rule == "background" and background is not None:
        if isinstance(background, Tensor):
            return background.to(flat).repeat(len(flat) // len(background))
        return flat.new_full((len(flat),), background)
    if rule not in ("mean", "max", "min"):
        raise ScheduleError(f"The text's timestep is mean, max, min, or background with its value, not {rule!r}.")
    if rule == "mean":
        return flat[:, 0] + (flat - flat[:, :1]).mean(dim=1)  # exact where all are equal
    return flat.amax(dim=1) if rule == "max" else flat.amin(dim=1)
