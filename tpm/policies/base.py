"""What all policies share: the checks of their numbers, and the JSON document that describes one."""

from __future__ import annotations

import math
from typing import Any

from ..errors import PolicyError
from ..retiming.contract import Policy

FORMAT, VERSION = "asyncdiff-policy", 1
NEWEST = 2  # the version that this release reads, and writes where version 1 would be misread


def check_deviation(deviation: float, bound: float) -> None:
    """Raise PolicyError unless |D| ≤ B."""
    if not (isinstance(deviation, int | float) and math.isfinite(deviation)):
        raise PolicyError(f"A deviation must be a finite number, got {deviation}.")
    if abs(deviation) > bound:
        raise PolicyError(
            f"A deviation of {deviation:+g} is outside the bound ±{bound:g}; use a smaller one or a larger bound."
        )


def describe(policy: Policy, kind: str, **body: Any) -> dict[str, Any]:
    """The JSON document of a policy."""
    document = {"format": FORMAT, "version": VERSION, "kind": kind, "name": policy.name, "bound": policy.bound}
    document |= {"backbone": policy.backbone, **body, "about": dict(getattr(policy, "about", {}))}
    return document
