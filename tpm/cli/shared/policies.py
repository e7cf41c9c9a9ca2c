"""``--policy``: a constant, a file, or the name of a shipped policy."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ...errors import PolicyError

if TYPE_CHECKING:
    from ...policies import Policy

HELP = "constant:D, a file (.json policy or trace, .safetensors TPM), or a shipped policy's name"


def choose(text: str, backbone: str | None = None) -> Policy:
    """The policy, checked against the backbone where that is known."""
    from ...policies import Constant, find_policy
    from ...retiming.equations import DEFAULT_BOUND, LIFTED_BOUND

    kind, colon, value = text.partition(":")
    if kind != "constant":
        return find_policy(text, backbone)
    try:
        deviation = float(value)
    except ValueError:
        example = "constant:0.4" if colon else "constant:0.4 (a colon and the deviation)"
        raise PolicyError(f"{text!r} is not a constant policy; write for example {example}.") from None
    if not abs(deviation) <= LIFTED_BOUND:
        raise PolicyError(f"A constant deviation must be between −1 and 1, got {value}; --gamma scales it further.")
    bound = DEFAULT_BOUND if abs(deviation) <= DEFAULT_BOUND else LIFTED_BOUND
    return Constant(deviation, bound=bound, name=f"constant D = {deviation:+g}")


def warn_of_solver(policy: Policy, solver: str) -> None:
    """One line on stderr where the policy was made for another solver."""
    from ...policies import solver_note

    note = solver_note(policy, solver)
    if note:
        print(f"Warning: {note}", file=sys.stderr)


def short_description(policy: Policy) -> str:
    """Name and bound on one line."""
    return f"{policy.name}, bound {policy.bound:g}"
