"""What is decided for one step: the rule that makes t* and ω of an action r."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .equations import (
    Limits,
    Value,
    applied_deviation,
    conditioning_timestep,
    coupled_velocity_scale,
    deviation,
    is_clamped,
    velocity_scale,
)
from .settings import Retiming


@dataclass
class Decision:
    """What was decided for one step."""

    ratio: Value = 0.5  # r
    deviation: Value = 0.0  # D as decided, from r, γ and the bound; a host with a map applies it to every pixel
    applied: Value = 0.0  # D as applied: what t* stands for after its clamp
    t_star: Value = 0.0
    rho: Value = 1.0  # t*/t, held for every evaluation inside the step
    omega: Value = 1.0
    clamped: bool | Tensor = False


class Outcome(NamedTuple):
    """What an action means for the network and the velocity."""

    deviation: Value  # D as decided
    t_star: Value
    rho: Value
    omega: Value


def outcome(r: Value, retiming: Retiming, bound: float, t: Value, interval: Value, allowed: Limits) -> Outcome:
    """The part of `decide` that an evaluation needs. interval: t − t_before."""
    d = deviation(r, retiming.gamma, bound)
    if retiming.target == "velocity":
        return Outcome(d, t, 1.0, velocity_scale(d))
    t_star = conditioning_timestep(t, interval, d, allowed)
    rho = t_star / t
    return Outcome(d, t_star, rho, coupled_velocity_scale(rho, retiming.velocity_coupling))


def decide(r: Value, retiming: Retiming, bound: float, t: Value, t_before: Value, allowed: Limits) -> Decision:
    """What the action r means for the step at t = t_{k+1}, which follows t_k: Eq 12 and Eq 6, or Eq 20.

    r: a float or (B,). t, t_before and the limits: floats, or tensors () on the device of r.
    """
    interval = t - t_before
    d, t_star, rho, omega = outcome(r, retiming, bound, t, interval, allowed)
    if retiming.target == "velocity":
        return Decision(r, d, d, t_star, rho, omega)
    cut = t, interval, d, allowed
    return Decision(r, d, applied_deviation(*cut), t_star, rho, omega, is_clamped(*cut))


def plain(column: Sequence[Value | bool]) -> list[Any]:
    """Numbers as they are, tensors as lists with one entry per sample. One transfer for the whole column."""
    tensors = [value for value in column if isinstance(value, Tensor)]
    if not tensors:
        return list(column)
    rows = iter(torch.stack(tensors).tolist())
    return [next(rows) if isinstance(value, Tensor) else value for value in column]
