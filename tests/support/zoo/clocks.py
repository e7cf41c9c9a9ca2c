"""Where σ of a family is between 0 and 1, and what its network is told there: the oracle of the contract.

Written from the host's `comfy.model_sampling` alone, not from the pack's own clocks.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

OWN_TIME = ("StableCascadeSampling", "ModelSamplingContinuousV", "ModelSamplingCosmosRFlow")
"""Samplings that tell their networks a time from 0 to 1."""


def unit(sampling: Any, sigma: float) -> float:
    """u of σ."""
    if sigma == 0:
        return sigma
    if _is(sampling, *OWN_TIME):
        return float(sampling.timestep(torch.tensor(sigma, dtype=torch.float64)))
    if _is(sampling, "ModelSamplingContinuousEDM"):
        return sigma / (1 + sigma)
    if not _is(sampling, "ModelSamplingDiscrete"):
        return sigma  # flow matching
    levels = sampling.log_sigmas.double().numpy()
    return float(np.interp(math.log(sigma), levels, np.arange(1, len(levels) + 1))) / len(levels)


def timestep(sampling: Any, u: Tensor) -> Tensor:
    """What the network is told for u (n,), in the family's own units."""
    if _is(sampling, *OWN_TIME):
        return u
    if _is(sampling, "ModelSamplingContinuousEDM"):
        return (0.25 * (u / (1 - u)).log()).float()
    if not _is(sampling, "ModelSamplingDiscrete"):
        return sampling.timestep(u).float()
    return (len(sampling.sigmas) * u - 1).clamp(min=0).float()


def _is(sampling: Any, *names: str) -> bool:
    return any(kind.__name__ in names for kind in type(sampling).__mro__)
