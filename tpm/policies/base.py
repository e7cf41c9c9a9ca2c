"""The contract between the retimer and whoever decides r, and the checks that all policies share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from ..errors import PolicyError
from ..retiming.contract import StepState
from ..retiming.equations import Value
from ..retiming.trace import Entry

FORMAT, VERSION = "asyncdiff-policy", 1


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
        """The model family it was made for, "sd3" or "flux"; None fits both."""

    @property
    def needs_state(self) -> bool:
        """Whether `ratio` reads x, v or the batch size."""

    def begin(self, sigmas: Sequence[float]) -> None:
        """A run on this grid (K + 1 points) starts: forget the previous one. May refuse the grid (GridError)."""

    def ratio(self, state: StepState) -> Value:
        """The action r in [0, 1] for step state.index + 1: a float, or a tensor (B,)."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description; enough to rebuild the policy, except a TPM's weights."""


def check_deviation(deviation: float, bound: float) -> None:
    """Raise PolicyError unless |D| ≤ B."""
    if not (isinstance(deviation, int | float) and math.isfinite(deviation)):
        raise PolicyError(f"A deviation must be a finite number, got {deviation}.")
    if abs(deviation) > bound:
        raise PolicyError(
            f"A deviation of {deviation:+g} is outside the bound ±{bound:g}; use a smaller one or a larger bound."
        )


def check_ratio(entry: Entry) -> None:
    """Raise PolicyError unless every r is in [0, 1]."""
    if not all(0 <= r <= 1 for r in (entry if isinstance(entry, list) else [entry])):
        raise PolicyError("A trace holds an action outside 0 … 1; save it again from a run.")


def check_backbone(policy: Policy, backbone: str) -> None:
    """Raise PolicyError when the policy was made for another model family than `backbone`."""
    if policy.backbone is not None and policy.backbone != backbone:
        raise PolicyError(
            f"The policy {policy.name!r} was made for {policy.backbone}, the model is {backbone}; choose another policy"
            " or another model."
        )


def describe(policy: Any, kind: str, **body: Any) -> dict[str, Any]:
    """The JSON document of a policy."""
    document = {"format": FORMAT, "version": VERSION, "kind": kind, "name": policy.name, "bound": policy.bound}
    document |= {"backbone": policy.backbone, **body, "about": dict(getattr(policy, "about", {}))}
    return document
