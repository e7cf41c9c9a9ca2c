"""What the sampler tells the patched model at every step, and how the host's models read their σ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_sampling
from torch import Tensor

from ...tpm.errors import HostError
from ...tpm.pixelwise.attention_maps import AttentionWatch
from ...tpm.pixelwise.parametrization import Kind
from ...tpm.retiming.equations import Value
from ..retiming.patch import PIXELWISE

KEY = PIXELWISE
"""Under which the patched model is found in transformer_options."""

STEP = "asyncdiff_pixelwise_step"
"""Under which a step's `Step` is found there."""


@dataclass(frozen=True)
class Step:
    """What one step tells the network. Without maps it is an ordinary step."""

    sigma: Tensor | None = None  # where the latent is, as it lies on the latent (`layout`)
    told: Tensor | None = None  # what the network is told of every pixel, (B, 1, H, W) or (B, 1, T, H, W)
    background: Value | None = None  # what pixels outside of all regions are told; None: σ of the call
    watch: AttentionWatch | None = None  # takes in the attention to the prompt


def kind_of(sampling: Any) -> Kind:
    """How a model's output becomes a denoised latent. Raises HostError for a kind that has no per-pixel form."""
    found = type(sampling).calculate_denoised
    kinds: dict[Any, Kind] = {
        comfy.model_sampling.CONST.calculate_denoised: "flow",
        comfy.model_sampling.EPS.calculate_denoised: "eps",
        comfy.model_sampling.V_PREDICTION.calculate_denoised: "v",
    }
    if found not in kinds or getattr(sampling, "sigma_data", 1.0) != 1.0:
        raise HostError(
            "Pixel-wise denoising is made for ε prediction, v prediction and flow matching; this model (or a"
            " ModelSampling node before it) uses another kind."
        )
    return kinds[found]


def timesteps(sampling: Any, sigma: Tensor) -> Tensor:
    """A map of σ in the network's unit, fp32, as the host makes its own timestep of σ; each distinct value once."""
    values, index = sigma.unique(return_inverse=True)
    return sampling.timestep(values).float()[index]
