"""What a policy says of how it was made: the settings that it was applied with, and the solver."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..documents import MOST_LETTERS, as_object, build
from ..errors import PolicyError
from ..retiming.contract import Policy
from ..retiming.settings import Retiming
from ..retiming.solvers import EULER
from .learned import Learned

APPLIED = ("tail_sync", "velocity_coupling", "within_interval", "target")
"""The fields of `Retiming` that a policy can bring with it."""


def retiming_of(policy: Policy, **given: Any) -> Retiming:
    """How the policy was made to be applied, at γ = 1, with every given field that is not None in place of its own.

    A search writes it into `about`, training into the card. Raises PolicyError for a document that says nonsense.
    """
    where = f"How the policy {policy.name!r} was applied"
    made = as_object(about_of(policy).get("training" if _trained(policy) else "retiming", {}), PolicyError, where)
    fields = {name: made[name] for name in APPLIED if name in made}
    fields |= {name: value for name, value in given.items() if value is not None}
    return build(Retiming, fields, PolicyError, where)


def solver_for(policy: Policy) -> str | None:
    """The solver that the policy was made for, in ComfyUI's word; None for a policy that nobody made for anything.

    Files of releases that knew one solver only do not name it: theirs is "euler".
    """
    return solver_told(about_of(policy))


def solver_told(about: Mapping[str, Any]) -> str | None:
    """The same from what a policy, or the card of a TPM, says about itself."""
    return (_word(about.get("solver")) or solver_in(about.get("sampling"))) if about else None


def solver_in(settings: Any) -> str:
    """The solver in what a studio says of itself; "euler" where nothing is said."""
    told = settings.get("solver", settings.get("sampler")) if isinstance(settings, Mapping) else None
    return _word(told) or EULER


def solver_note(policy: Policy, solver: str) -> str | None:
    """One sentence where the policy was made for another solver, else None."""
    made = solver_for(policy)
    if made is None or made == solver:
        return None
    return (
        f"The policy {policy.name} was made for the solver {made}, this run uses {solver}: it may do too much or harm"
        " there; compare with γ = 0, or make a policy for this solver."
    )


def about_of(policy: Policy) -> Mapping[str, Any]:
    """What a policy, or the card of a TPM, says about itself; empty where it says nothing."""
    if isinstance(policy, Learned):
        return policy.card.about if policy.card else {}
    about: Mapping[str, Any] = getattr(policy, "about", {})
    return about


def images_seen(policy: Policy) -> int | None:
    """How many images were judged to make the policy: 0 for a number that was typed, None where a file does not say."""
    about = about_of(policy)
    told, training = about.get("images"), about.get("training")
    if isinstance(told, int) or not about:
        return told if isinstance(told, int) else 0
    if not isinstance(training, Mapping):
        return None
    counts = [training.get(name) for name in ("iterations", "prompts_per_iteration", "group")]
    return math.prod(count for count in counts if isinstance(count, int)) if all(counts) else None


def made_with(policy: Policy) -> str:
    """The solver and the settings that differ from the plain ones, in words; "" where the policy says nothing."""
    solver, applied = solver_for(policy), retiming_of(policy)
    parts = [] if solver is None else [solver]
    parts += [f"tail_sync = {applied.tail_sync}"] if applied.tail_sync else []
    parts += [f"p = {applied.velocity_coupling:g}"] if applied.velocity_coupling else []
    parts += ["within the interval"] if applied.within_interval else []
    return ", ".join(parts)


def _word(told: Any) -> str | None:
    """A name of a solver that can stand in a sentence."""
    return told if isinstance(told, str) and told.isprintable() and 0 < len(told) <= MOST_LETTERS else None


def _trained(policy: Policy) -> bool:
    return isinstance(policy, Learned) and policy.card is not None
