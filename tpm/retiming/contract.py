"""The contract between a run and whoever decides r: what a policy sees, what it answers, and the checks of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from ..errors import PolicyError
from .equations import LIFTED_BOUND, Value

Backbone: TypeAlias = str
"""A model family: "sd3" (SD3 and SD3.5), "flux" (Flux.1), and for any other ComfyUI's name of it, such as "WAN21"."""

BACKBONES: tuple[Backbone, ...] = ("sd3", "flux")
"""The families that have a word of this project."""

MOST_LETTERS_OF_A_BACKBONE = 64


@dataclass(frozen=True)
class TextCondition:
    """The prompt as the denoiser sees it (conditional branch only): context (B, n, C) and pooled (B, P), or None."""

    context: Tensor | None = None
    pooled: Tensor | None = None


@dataclass(frozen=True)
class StepState:
    """What was observed at the first evaluation of step `index`, on which the next timestep is decided."""

    x: Tensor | None  # latent (B, C, …); None for policies with needs_state False
    v: Tensor | None  # velocity (B, C, …) after guidance, unscaled
    sigma: float  # t_k
    sigma_next: float  # t_{k+1}, whose conditioning t*_{k+1} is being decided
    t_star: Value  # t*_k
    index: int  # k
    steps: int  # K
    text: TextCondition | None = None

    @property
    def progress(self) -> float:
        """The part of the steps that is done, k/K."""
        return self.index / self.steps


@dataclass(frozen=True)
class DeviceState:
    """A `StepState` whose numbers are on the latent's device, where the host does not read them."""

    x: Tensor  # latent (B, C, …)
    v: Tensor  # velocity (B, C, …)
    sigma: Tensor  # t_k, ()
    sigma_next: Tensor  # t_{k+1}, ()
    t_star: Tensor  # t*_k, (B,)
    progress: Tensor  # k/K, ()
    text: TextCondition | None = None


class Policy(Protocol):
    """What the retimer asks of a policy."""

    @property
    def name(self) -> str:
        """A short name for tables."""

    @property
    def bound(self) -> float:
        """B at which r was chosen."""

    @property
    def backbone(self) -> str | None:
        """The model family it was made for, see `Backbone`; None fits every one."""

    @property
    def needs_state(self) -> bool:
        """Whether `ratio` reads x, v or the batch size."""

    def begin(self, sigmas: Sequence[float]) -> None:
        """A run on this grid (K + 1 points) starts: forget the previous one. May refuse the grid (GridError)."""

    def ratio(self, state: StepState) -> Value:
        """The action r in [0, 1] for step state.index + 1: a float, or a tensor (B,)."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description; enough to rebuild the policy, except a TPM's weights."""


@runtime_checkable
class DevicePolicy(Policy, Protocol):
    """A policy that also decides where only the device knows the step."""

    def ratio_on_device(self, state: DeviceState) -> Tensor:
        """As `ratio`: (B,), without a wait of the host for the device."""


def check_bound(bound: float) -> None:
    """Raise PolicyError unless 0 < B ≤ 1."""
    number = isinstance(bound, int | float) and not isinstance(bound, bool)
    if not (number and math.isfinite(bound) and 0 < bound <= LIFTED_BOUND):
        raise PolicyError(f"The deviation bound must be above 0 and at most 1 (0.5, or 1 when lifted), got {bound}.")


def check_backbone_name(backbone: str | None) -> None:
    """Raise PolicyError unless the backbone is none or a name that could be one: a letter, then letters, digits, _, -.

    At most 64 characters.
    """
    if backbone is None:
        return
    named = isinstance(backbone, str) and backbone.isascii() and backbone.replace("-", "_").isidentifier()
    if not named or len(backbone) > MOST_LETTERS_OF_A_BACKBONE or backbone[:1] == "-":
        raise PolicyError(
            f"A backbone is a word such as sd3, flux, sdxl or qwen-image, or ComfyUI's name of a model family such as"
            f" WAN21: at most {MOST_LETTERS_OF_A_BACKBONE} letters, digits, _ and -, not {str(backbone)[:40]!r}."
        )


def check_backbone(policy: Policy, backbone: str) -> None:
    """Raise PolicyError when the policy was made for another model family than `backbone`."""
    if policy.backbone is not None and policy.backbone != backbone:
        raise PolicyError(
            f"The policy {policy.name!r} was made for {policy.backbone}, the model is {backbone}; choose another policy"
            " or another model."
        )
