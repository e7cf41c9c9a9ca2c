"""A run whose σ is on a device: where an evaluation is, is found there, so that the host never waits to know it.

`StateOnDevice` is the twin of the `Retimer` with tensors where that has numbers: the same rules, the same answers. A
TPM is asked at each evaluation, with the last state that was seen; within a step its first answer holds. What else is
to be told of a decision is computed on the host. For policies that read no state see `foretold`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .contract import DevicePolicy, DeviceState, StepState
from .decisions import Decision, decide, outcome
from .equations import Limits, Value
from .evaluation import Seen
from .pieces import Place, deciding, places
from .retimer import Retimer


class DeviceCourse(ABC):
    """One run, driven evaluation by evaluation where σ and t* are tensors on the latent's device."""

    def __init__(self, like: Tensor) -> None:
        """like: a latent of the run."""
        self.precision = _precision(like.device)  # for σ, where a clock computes with it
        self.numbers: list[Tensor] = []  # of the pieces of σ's line (`pieces`), (1,) each, one for each evaluation
        self._device = like.device
        self._withdrawn: set[int] = set()  # evaluations

    def upload(self, values: object, dtype: torch.dtype | None = None) -> Tensor:
        """Numbers, on the device and in its precision, or another one."""
        return torch.tensor(values, dtype=dtype or self.precision).to(self._device, non_blocking=True)

    def evaluations(self) -> list[tuple[int, bool]]:
        """The piece of each evaluation, and whether the denoiser was asked. The host waits here."""
        numbers = torch.cat(self.numbers).tolist() if self.numbers else []
        return [(number, n not in self._withdrawn) for n, number in enumerate(numbers)]

    def withdraw(self) -> None:
        """In place of `observe`: the denoiser was not asked."""
        self._withdrawn.add(len(self.numbers) - 1)

    @abstractmethod
    def condition(self, sigma: Tensor) -> Tensor:
        """t* (B,) or (1,) for the evaluation at σ (1,), in `precision`; exactly σ where nothing deviates."""

    @abstractmethod
    def observe(self, x: Tensor, denoised: Tensor, seen: Seen | None = None) -> Tensor:
        """Take in an evaluation of x (B, …); returns the denoised latent, with the velocity scaled by ω.

        seen: where σ is not what `condition` was asked with, or the network is shown another latent than x.
        """

    @abstractmethod
    def report(self) -> Tensor:
        """Where the latest evaluation is and what was decided for it, for `read_report`."""

    @abstractmethod
    def read_report(self, report: Tensor) -> tuple[int, Decision] | None:
        """The step and its decision, from a report that is on the host; None where the evaluation was of no step."""

    @abstractmethod
    def settle(self) -> None:
        """The run is over: hand what was decided, and seen, to the retimer. The host waits here."""


class Numbers(NamedTuple):
    """What holds on a piece, () each; of no step where σ is 0."""

    sigma: Tensor
    step: Tensor  # k
    t: Tensor  # t_k
    interval: Tensor  # t_k − t_{k−1}
    low: Tensor  # the limits of t*
    high: Tensor
    progress: Tensor  # (k − 1)/K, when step k is decided


class Flags(NamedTuple):
    """What a piece is, (1,) each."""

    on_grid: Tensor  # a point
    between: Tensor  # of a step, and no point
    acts: Tensor  # of a step whose deviation is decided


class StateOnDevice(DeviceCourse):
    """One run by a `DevicePolicy`."""

    def __init__(self, retimer: Retimer, like: Tensor) -> None:
        """`retimer` has begun. like: a latent (B, …) of the run."""
        super().__init__(like)
        self._retimer, self._places = retimer, places(retimer.grid)
        self._edges = self.upload([place.end for place in self._places[:-1]])
        self._numbers = self.upload([_numbers(retimer, place.step) for place in self._places])
        self._flags = self.upload([_flags(retimer, place) for place in self._places], torch.bool)
        self._here: tuple[Numbers, Flags] | None = None
        self._last = self._observed = self.upload(-1.0)  # steps, (), of the latest evaluation, and that was observed
        self._undecided = torch.full((len(like),), torch.nan, device=like.device)
        self._ratios: list[Tensor] = []  # r (B,) of each evaluation; no number where nothing was decided
        self._t_star: Tensor = self._undecided
        self._omega: Value = 1.0
        self._state: DeviceState | None = None
        if retimer.observed is not None:
            self._resume(retimer.observed, like)

    def condition(self, sigma: Tensor) -> Tensor:
        """See `DeviceCourse`."""
        number, sigma = torch.bucketize(sigma, self._edges), sigma.view(())
        here = Numbers(sigma, *self._numbers.index_select(0, number).view(-1).unbind())
        flags = Flags(*self._flags.index_select(0, number).unbind(1))
        r = self._ratio(here, flags)
        self._here, self._last = (here, flags), here.step
        self.numbers.append(number)
        self._ratios.append(r)
        return self._told(r.nan_to_num(0.5), here, flags)

    def observe(self, x: Tensor, denoised: Tensor, seen: Seen | None = None) -> Tensor:
        """See `DeviceCourse`."""
        assert self._here is not None, "condition comes first"
        here, flags = self._here
        sigma, shown = seen or Seen(here.sigma, x)
        velocity = (x - denoised) / sigma
        new = DeviceState(shown, velocity, here.sigma, here.sigma, self._t_star, here.sigma, self._retimer.text)
        first = flags.on_grid | (flags.between & (self._observed != here.step))
        self._state = new if self._state is None else _chosen(first, new, self._state)
        self._observed = torch.where(first, here.step, self._observed)
        if not isinstance(self._omega, Tensor):
            return denoised
        omega = self._omega.to(x).reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(omega == 1, denoised, x - sigma * (velocity * omega))

    def report(self) -> Tensor:
        """See `DeviceCourse`."""
        return torch.cat([self.numbers[-1].to(self._ratios[-1]), self._ratios[-1]])

    def read_report(self, report: Tensor) -> tuple[int, Decision] | None:
        """See `DeviceCourse`."""
        step = self._places[int(report[0])].step
        return (step, self._decision(step, report[1:])) if step < self._places[0].step else None

    def settle(self) -> None:
        """See `DeviceCourse`."""
        self._hand_back()
        found = deciding(self._places, self._retimer.part, self.evaluations())
        ratios = torch.stack([*self._ratios, self._undecided]).cpu()
        decisions = [None if n is None else self._decision(step, ratios[n]) for step, n in enumerate(found)]
        self._retimer.settle(decisions)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _ratio(self, here: Numbers, flags: Flags) -> Tensor:
        """What the policy decides for the step, once; no number where it does not."""
        r = self._undecided
        if self._state is not None:
            policy, part = self._retimer.policy, self._retimer.part
            assert isinstance(policy, DevicePolicy)
            state = replace(self._state, sigma_next=here.t, progress=here.progress)
            r = torch.where(flags.acts, policy.ratio_on_device(state), r)
            if part.first:  # a run that starts again there has seen nothing yet
                again = (self._observed == part.stop - 1) & (here.step == part.first) & flags.on_grid
                r = torch.where(again, self._undecided, r)
        return torch.where(here.step == self._last, self._ratios[-1], r) if self._ratios else r

    def _told(self, r: Tensor, here: Numbers, flags: Flags) -> Tensor:
        """t* (B,), as `Retimer.condition` has it."""
        retimer, sigma = self._retimer, here.sigma
        limits = Limits(here.low, here.high)
        _, t_star, rho, self._omega = outcome(r, retimer.retiming, retimer.bound, here.t, here.interval, limits)
        assert isinstance(t_star, Tensor)
        if not isinstance(rho, Tensor):  # the velocity is scaled, and the network is told σ
            self._t_star = t_star.to(r).expand_as(r)
            return sigma.to(r).expand_as(r)
        self._t_star = t_star
        lowest, highest = retimer.held_range
        held = (rho * sigma).clamp(sigma.clamp(max=lowest), sigma.clamp(min=highest))
        return torch.where(rho == 1, sigma.to(r), torch.where(flags.on_grid, t_star, held))

    def _decision(self, step: int, r: Tensor) -> Decision:
        """The decision for a step as the retimer would have made it; r: (B,) on the host."""
        retimer = self._retimer
        t = retimer.grid[step]
        if r.isnan().any():
            return Decision(t_star=t)
        return decide(r, retimer.retiming, retimer.bound, t, retimer.grid[step - 1], retimer.limits(step))

    def _resume(self, seen: StepState, like: Tensor) -> None:
        """Go on from what the part before this one saw."""
        if seen.x is None or seen.v is None:
            return
        number = partial(torch.full, (), dtype=self.precision, device=like.device)
        t_star = torch.as_tensor(seen.t_star).to(like).float().expand(len(like))
        state = DeviceState(
            seen.x.to(like), seen.v.to(like), number(seen.sigma), number(seen.sigma), t_star, number(0.0)
        )
        self._state = replace(state, text=self._retimer.text)
        self._observed = number(seen.index)

    def _hand_back(self) -> None:
        """Tell the retimer the last state, where another part of the run needs it."""
        retimer, state, steps = self._retimer, self._state, self._places[0].step
        if state is None or retimer.part.stop == steps:
            return
        step, sigma = int(self._observed), float(state.sigma)
        after = retimer.grid[step + 1]
        retimer.remember(StepState(state.x, state.v, sigma, after, state.t_star, step, steps, state.text))


def _numbers(retimer: Retimer, k: int) -> list[float]:
    """See `Numbers`, without σ; where there is no step, what makes t* = σ."""
    steps = len(retimer.grid) - 1
    if k == steps:
        return [k, 1.0, 0.0, 0.0, 1.0, 0.0]
    t, before = retimer.grid[k], retimer.grid[max(k - 1, 0)]
    low, high = retimer.limits(k)
    return [k, t, t - before, float(low), float(high), (k - 1) / steps]


def _flags(retimer: Retimer, place: Place) -> list[bool]:
    """See `Flags`."""
    some = place.step < len(retimer.grid) - 1
    return [place.on_grid, some and not place.on_grid, some and retimer.acts_on(place.step)]


def _chosen(first: Tensor, new: DeviceState, old: DeviceState) -> DeviceState:
    """The new state where `first`, else the old one."""
    names = ("x", "v", "sigma", "t_star")
    x, v, sigma, t_star = (torch.where(first, getattr(new, name), getattr(old, name)) for name in names)
    return replace(new, x=x, v=v, sigma=sigma.view(()), t_star=t_star)


def _precision(device: torch.device) -> torch.dtype:
    """As Python's numbers, where the device has them."""
    return torch.float64 if device.type in ("cpu", "cuda", "meta") else torch.float32
