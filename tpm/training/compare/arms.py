"""The arms of an evaluation: every policy at several γ, with and without its tail, with the other coupling."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...policies import Learned, Policy, retiming_of
from ...retiming.settings import Retiming
from .measure import Arm

SYNCHRONOUS, OTHER_NOISE = "synchronous", "synchronous, other noise"
VARIANTS = ("tail", "coupling", "mean")
GAMMAS = (0.0, 0.5, 1.0, 2.0)


def baselines(steps: int, more_steps: Sequence[int]) -> list[Arm]:
    """The synchronous sampler: with the steps of all arms, from other noises, and with more steps."""
    plain = [Arm(name, steps, label=SYNCHRONOUS) for name in (SYNCHRONOUS, OTHER_NOISE)]
    return plain + [Arm(f"synchronous, {more} steps", more, label=SYNCHRONOUS) for more in more_steps]


def arms_of(
    label: str, policy: Policy, steps: int, gammas: Sequence[float] = GAMMAS, variants: Sequence[str] = VARIANTS
) -> list[Arm]:
    """A policy as it was made for, at every other γ > 0, and its variants at γ = 1.

    "tail": tail_sync on where the policy was made without, else off. "coupling": p = 1 (lying sigma) where it was made
    without, else 0. "mean": the mean of a TPM's distribution instead of its mode.
    """
    applied = retiming_of(policy)
    arms = [_at(label, policy, steps, replace(applied, gamma=gamma)) for gamma in gammas if gamma]
    if "tail" in variants and steps > 2:
        tail = 0 if applied.tail_sync else 1
        arms.append(_at(label, policy, steps, replace(applied, tail_sync=tail), f"tail_sync = {tail}"))
    if "coupling" in variants:
        power = 0.0 if applied.velocity_coupling else 1.0
        arms.append(_at(label, policy, steps, replace(applied, velocity_coupling=power), f"p = {power:g}"))
    if "mean" in variants and isinstance(policy, Learned):
        mean = Learned(policy.tpm, "mean", card=policy.card)
        arms.append(_at(label, mean, steps, applied, "mean"))
    return arms


def with_solver(arms: Sequence[Arm], solver: str) -> list[Arm]:
    """The same arms once more, stepped by another solver; one set of other noises is enough."""
    return [
        replace(arm, name=f"{solver}: {arm.name}", label=f"{solver}: {arm.label}", solver=solver)
        for arm in arms
        if arm.name != OTHER_NOISE
    ]


def facts_of(arm: Arm) -> dict[str, Any]:
    """What decides an arm's images, as JSON; of a TPM's weights a hash."""
    facts: dict[str, Any] = {"steps": arm.steps, "retiming": arm.retiming.to_dict()}
    if arm.policy is None:
        return {**facts, "policy": None}
    facts["policy"] = arm.policy.to_dict()
    if isinstance(arm.policy, Learned):
        facts["weights"] = _digest(arm.policy)
    return facts


def _at(label: str, policy: Policy, steps: int, retiming: Retiming, variant: str = "") -> Arm:
    name = label if retiming.gamma == 1 else f"{label}, γ = {retiming.gamma:g}"
    return Arm(f"{name}, {variant}" if variant else name, steps, policy, retiming, label, variant)


def _digest(policy: Learned) -> str:
    made = hashlib.sha256()
    for name, value in sorted(policy.tpm.state_dict().items()):
        made.update(name.encode())
        made.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return made.hexdigest()[:16]
