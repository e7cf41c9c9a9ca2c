"""One pixel-wise run. A host asks it what to tell the network (`condition`), and shows it what came out (`observe`).

The run holds where every pixel is, where its regions come from, and a policy's deviation on top. A host translates: the
map into its network's unit, and the move into its own step. All maps are on the CPU: (B, 1, H, W), or (B, 1, T, H, W)
for videos; where only (B, 1, H, W) is written, T comes before H for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..retiming.contract import Policy, TextCondition
from ..retiming.equations import Value, distinct
from ..retiming.retimer import Retimer
from ..retiming.settings import Retiming
from .errors import RegionError
from .policy_map import conditioning_map, coupling_map, per_image
from .regions import Size, concave
from .requests import Regions
from .schedules import Levels, reaim, start

# --- regions ------------------------------------------------------------------------------------------------------


class RegionSource(Protocol):
    """Where a run's regions come from. They are bool masks (B, J, H, W) or (1, J, H, W), a partition."""

    first: Tensor  # the regions before the first call of the network

    def now(self) -> Tensor:
        """The regions after a step's call of the network; asked once a step."""


class FixedRegions:
    """Regions that stay what they are: drawn ones, or those of a whole run's attention."""

    def __init__(self, masks: Tensor) -> None:
        self.first = masks.cpu()

    def now(self) -> Tensor:
        """The same regions."""
        return self.first


class AttendedRegions:
    """Regions from the attention of each step. take: gives the step's maps; partition: makes regions of them."""

    def __init__(self, first: Tensor, take: Callable[[], Tensor], partition: Callable[[Tensor], Tensor]) -> None:
        self.first, self._take, self._partition = first, take, partition

    def now(self) -> Tensor:
        """The regions of the step that was just evaluated."""
        return self._partition(self._take().cpu())


def control(source: RegionSource, strengths: Sequence[float]) -> RegionSource:
    """The control in place of regions: every pixel in the region of the largest k, so that nothing is watched."""
    return FixedRegions(concave(source.first, strengths))


def static_regions(regions: Regions, maps: Sequence[Tensor], size: Size) -> FixedRegions:
    """Regions from the maps of all steps of a synchronous run. RegionError for a phrase that gets none."""
    masks = regions.attended(torch.stack(list(maps)).mean(dim=0), size)
    for name, mask in zip(regions.names, masks.unbind(1), strict=True):
        if not mask.any():
            raise RegionError(
                f"The phrase {name!r} got no region in the whole run; lower the threshold, raise its strength, or take"
                " another."
            )
    return FixedRegions(masks)


# --- a policy on top ----------------------------------------------------------------------------------------------


class Deviating:
    """A policy's deviation on top of a pixel-wise run of a flow model, for any number of runs.

    The policy decides one deviation for a step and image, from the background's σ, as in a run without regions; each
    pixel applies it to its own interval (`policy_map`). With γ = 0 nothing differs by a bit, and where all pixels share
    one σ it is the asynchronous run of `Retimer`.
    """

    def __init__(self, policy: Policy, retiming: Retiming | None = None) -> None:
        self.retimer = Retimer(policy, retiming)
        self._before: Tensor | None = None  # σ of the step before
        self._sigma = self._told = torch.zeros(0)
        self._here = 0.0  # σ of the background

    def begin(self, sigmas: Tensor, text: TextCondition | None) -> None:
        """A run starts on the background's grid (S + 1,)."""
        self.retimer.begin(distinct(sigmas.tolist()), text)
        self._before = None

    def end(self) -> None:
        """The run is over: forget its latents, its prompt and its maps."""
        self.retimer.end()
        self._before, self._sigma, self._told = None, torch.zeros(0), torch.zeros(0)

    def condition(self, here: float, sigma: Tensor, following: Callable[[], Tensor]) -> tuple[Tensor, Value]:
        """T* of every pixel at σ (B, 1, H, W), and of the background at `here`; `following` gives σ after the step."""
        background = self.retimer.condition(here)
        self._told = sigma if self._before is None else self._conditioned(self._before, sigma, following)
        self._before, self._sigma, self._here = sigma, sigma, here
        return self._told, background

    def _conditioned(self, before: Tensor, sigma: Tensor, following: Callable[[], Tensor]) -> Tensor:
        applied = self.retimer.retiming
        deviation = self.retimer.decision.deviation if applied.target == "timestep" else 0.0
        return conditioning_map(
            before,
            sigma,
            deviation,
            t_start=self.retimer.grid[0],
            sigma_min=applied.sigma_min,
            following=following() if applied.within_interval else None,
        )

    @property
    def omega(self) -> Value:
        """What `observe` says of the background: a number or (B,)."""
        return self.retimer.decision.omega

    def observe(self, sample: Tensor, velocity: Tensor) -> Value:
        """Show the policy a step; returns ω, by which the velocity is to be multiplied: a number or (B, 1, H, W)."""
        self.retimer.observe(sample, self._here, velocity)
        if self.retimer.retiming.target == "velocity":
            return per_image(self.omega, self._sigma)
        return coupling_map(self._told, self._sigma, self.retimer.retiming.velocity_coupling)


def scaled(velocity: Tensor, omega: Value) -> Tensor:
    """ω·v in the dtype and on the device of v; the same object where ω is the number 1."""
    if isinstance(omega, Tensor):
        return velocity * omega.to(velocity)
    return velocity if omega == 1.0 else velocity * omega


# --- the run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What the network is to be told at a step, in the unit of the run's levels (σ, or timesteps)."""

    level: Tensor  # where each pixel is
    told: Tensor  # what the network is told: the same without a policy
    background: Value  # what pixels outside all regions are told


@dataclass(frozen=True)
class Move:
    """Where a step takes every pixel: from the first of each pair to the second."""

    states: tuple[Tensor, Tensor]
    levels: tuple[Tensor, Tensor]
    omega: Value  # the velocity of a flow model is to be multiplied by it
    background: Value  # the same outside of the map, as for what is made together with a video
    last: bool  # whether the run ends with this step


class PixelwiseRun:
    """One run, from noise to image.

    levels: the host's schedule, which is the background's. strengths: k of each region. deviating: a policy on top,
    already begun. seen: takes in the regions of every step.
    """

    def __init__(
        self,
        levels: Levels,
        source: RegionSource,
        strengths: Sequence[float],
        deviating: Deviating | None = None,
        seen: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.masks = source.first  # the regions of the latest step
        self.index = 0  # number of the step in progress
        self._levels, self._source, self._strengths = levels, source, strengths
        self._deviating, self._seen = deviating, seen
        self._state = start(source.first, strengths, levels.pace)

    @property
    def steps(self) -> int:
        """S."""
        return self._levels.pace.steps

    @property
    def over(self) -> bool:
        """Whether the last step was taken."""
        return self.index >= self.steps

    def condition(self) -> Told:
        """What the network is told at the step in progress."""
        level, here = self._levels.level(self._state), float(self._levels.grid[self.index])
        if self._deviating is None:
            return Told(level, level, here)
        return Told(level, *self._deviating.condition(here, level, self._level_ahead))

    def observe(self, sample: Tensor, velocity: Callable[[], Tensor]) -> Move:
        """The network was called for the step in progress: take the step.

        sample: the latent (B, C, H, W) before it. velocity: gives the network's velocity; only a policy asks for it.
        """
        self.masks = self._source.now()
        if len(self.masks) > len(self._state):  # the number of images is known with the first step
            self._state = self._state.expand(len(self.masks), *self._state.shape[1:])
        if self._seen is not None:
            self._seen(self.masks)
        omega: Value = 1.0
        background: Value = 1.0
        if self._deviating is not None:
            omega, background = self._deviating.observe(sample, velocity()), self._deviating.omega
        states = self._state, self._following(self.masks)
        levels = self._levels.level(states[0]), self._levels.level(states[1])
        self._state, self.index = states[1], self.index + 1
        return Move(states, levels, omega, background, self.over)

    def _level_ahead(self) -> Tensor:
        """Where the step in progress ends, by the regions that are known before it."""
        return self._levels.level(self._following(self.masks))

    def _following(self, masks: Tensor) -> Tensor:
        return reaim(self._state, self.index, masks, self._strengths, self._levels.pace)
