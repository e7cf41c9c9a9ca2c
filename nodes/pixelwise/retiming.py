"""A policy's deviation on top of the pixel-wise map, inside a run of the sampler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ...tpm.pixelwise.course import Course
from ...tpm.pixelwise.policy_map import conditioning_map, coupling_map
from ...tpm.retiming.contract import TextCondition
from ...tpm.retiming.equations import distinct
from ...tpm.retiming.retimer import Retimer


class Synchronous:
    """Without a policy: the network is told where each pixel is."""

    def told(self, course: Course, sigma_ref: float) -> Tensor:  # noqa: ARG002 (as in Retimed)
        """The σ map (B, 1, H, W) that the network is told at the step that the background is at σ_ref."""
        return course.sigma

    def observed(self, x: Tensor, denoised: Tensor, sigma: Tensor, told: Tensor) -> Tensor:  # noqa: ARG002
        """The denoised latent as the step is to use it."""
        return denoised


class Retimed(Synchronous):
    """With a policy: D of the step, applied to each pixel's own interval. The `Retimer` keeps the books at σ_ref."""

    def __init__(self, retimer: Retimer) -> None:
        self._retimer = retimer
        self._sigma_ref = 0.0

    def told(self, course: Course, sigma_ref: float) -> Tensor:
        """See `Synchronous`."""
        self._sigma_ref = sigma_ref
        self._retimer.condition(sigma_ref)
        deviation = self._retimer.decision.deviation
        deviation = deviation.to(course.sigma.device) if isinstance(deviation, Tensor) else deviation
        return conditioning_map(
            course.before, course.sigma, deviation, t_start=self._retimer.grid[0],
            sigma_min=self._retimer.retiming.sigma_min,
        )  # fmt: skip

    def observed(self, x: Tensor, denoised: Tensor, sigma: Tensor, told: Tensor) -> Tensor:
        """See `Synchronous`. The policy sees the velocity of each pixel."""
        velocity = (x - denoised) / sigma
        self._retimer.observe(x, self._sigma_ref, velocity)
        scale = coupling_map(told, sigma, self._retimer.retiming.velocity_coupling)
        return denoised if isinstance(scale, float) else x - sigma * (scale * velocity)


@contextmanager
def retimed(retimer: Retimer | None, sigmas: Tensor, text: TextCondition | None) -> Iterator[Synchronous]:
    """A run on the host's grid, with or without a policy."""
    if retimer is None:
        yield Synchronous()
        return
    retimer.begin(distinct(sigmas.tolist()), text)
    try:
        yield Retimed(retimer)
    finally:
        retimer.end()
