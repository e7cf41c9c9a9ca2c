"""What a policy sees of a run, and the words that every room shares: backbones, bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..errors import PolicyError
from .equations import LIFTED_BOUND, Value

Backbone = Literal["sd3", "flux"]
BACKBONES: tuple[Backbone, ...] = ("sd3", "flux")


@dataclass(frozen=True)
class TextCondition:
    """The prompt as the denoiser sees it (conditional branch only): context (B, n, C) and pooled (B, P), or None."""

    context: Tensor | None = None
    pooled: Tensor | None = None


@dataclass(frozen=True)
class StepState:
    """What was observed at the first evaluation of step `index`, on which the next timestep is decided."""

    x: Tensor | None  # latent (B, C, H, W); None for policies with needs_state False
    v: Tensor | None  # velocity (B, C, H, W) after guidance, unscaled
    sigma: float  # t_k
    sigma_next: float  # t_{k+1}, whose conditioning t*_{k+1} is being decided
    t_star: Value  # t*_k
    index: int  # k
    steps: int  # K
    text: TextCondition | None = None


def check_bound(bound: float) -> None:
    """Raise PolicyError unless 0 < B ≤ 1."""
    if not (isinstance(bound, int | float) and math.isfinite(bound) and 0 < bound <= LIFTED_BOUND):
        raise PolicyError(f"The deviation bound must be above 0 and at most 1 (0.5, or 1 when lifted), got {bound}.")


def check_backbone_name(backbone: str | None) -> None:
    """Raise PolicyError unless the backbone is one that exists here."""
    if backbone is not None and backbone not in BACKBONES:
        raise PolicyError(f"The backbone {backbone!r} is unknown; use sd3, flux, or none.")
