"""What a host shows of one evaluation, where a policy reads it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .equations import Value


class Seen(NamedTuple):
    """The latent and the noise level of an evaluation, beyond its place on the line from 1 to 0."""

    sigma: Value  # σ as the sampler has it: a float, or () on the latent's device
    x: Tensor  # the latent as the network is shown it, (B, …): scaled, where the family scales its input
