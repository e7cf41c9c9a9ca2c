"""A run whose σ is on a device: the steps are found there, so that the host never waits to know them.

`StateOnDevice` is the twin of `Retimer.condition` and `observe`, with tensors where that has numbers: the same rules,
the same answers. What a TPM decides is computed at each evaluation, from the last state that was seen, and kept where
its step has no decision yet. For policies that read no state see `foretold`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .contract import DevicePolicy, DeviceState, StepState
from .decisions import Decision, decide
from .equations import Limits, Value, same_range
from .evaluation import Seen
from .retimer import Retimer

FIELDS = ("ratio", "deviation", "applied", "t_star", "rho", "omega", "clamped")
ASKED = len(FIELDS)  # the last column of a record: whether the policy was asked


class DeviceCourse(ABC):
    """One run, driven evaluation by evaluation where σ and t* are tensors on the latent's device."""

    def __init__(self, like: Tensor) -> None:
        """like: a latent of the run."""
        self.precision = _precision(like.device)  # for σ, where a clock computes with it
        self._device = like.device

    def upload(self, values: object) -> Tensor:
        """Numbers, on the device and in its precision."""
        return torch.tensor(values, dtype=self.precision).to(self._device, non_blocking=True)

    @abstractmethod
    def condition(self, sigma: Tensor) -> Tensor:
        """t* (B,) or (1,) for the evaluation at σ (1,), in `precision`; exactly σ where nothing deviates."""

    @abstractmethod
    def observe(self, x: Tensor, denoised: Tensor, seen: Seen | None = None) -> Tensor:
        """Take in an evaluation of x (B, …); returns the denoised latent, with the velocity scaled by ω.

        seen: where σ is not what `condition` was asked with, or the network is shown another latent than x.
        """

    @abstractmethod
    def withdraw(self) -> None:
        """In place of `observe`: the denoiser was not asked."""

    @abstractmethod
    def report(self) -> Tensor:
        """Where the latest evaluation is and what was decided for it, for `read_report`."""

    @abstractmethod
    def read_report(self, report: Tensor) -> tuple[int, Decision] | None:
        """The step and its decision, from a report that is on the host; None where the evaluation was of no step."""

    @abstractmethod
    def settle(self) -> None:
        """The run is over: hand what was decided, and seen, to the retimer. The host waits here."""


class Place(NamedTuple):
    """Where an evaluation is. A step K stands for none: σ is 0."""

    sigma: Tensor  # ()
    step: Tensor  # (1,), k
    on_grid: Tensor  # (1,), whether σ is t_k
    grid: Tensor  # (6,), the row of `Grid` for step k


class Grid:
    """The grid t_0 > … > t_K on a device, and where in it a σ is. Uploaded once."""

    def __init__(self, retimer: Retimer, course: DeviceCourse) -> None:
        self.steps = len(retimer.grid) - 1
        ranges = [same_range(t) for t in retimer.grid[: self.steps]]
        rows = [[low, high, *self._row(retimer, k)] for k, (low, high) in enumerate(ranges)]
        self._rows = course.upload([*rows, [2.0, 2.0, 1.0, 1.0, 0.0, 1.0, 0.0]])
        self._edges = course.upload([0.0, *(high for _, high in reversed(ranges))])
        self.numbers = torch.arange(self.steps + 1, device=self._rows.device)

    def place(self, sigma: Tensor) -> Place:
        """As `equations.locate` and `same_point`. sigma: (), in the precision of the course."""
        step = self.steps - torch.bucketize(sigma, self._edges).clamp(max=self.steps).view(1)
        low, high, *grid = self._rows.index_select(0, step)[0].split([1, 1, 5])
        return Place(sigma, step, (sigma >= low) & (sigma <= high), grid[0])

    def _row(self, retimer: Retimer, k: int) -> list[float]:
        """t_k, the point before it, the limits of t*, and whether a deviation is decided there."""
        low, high = retimer.limits(k)
        return [retimer.grid[k], retimer.grid[max(k - 1, 0)], float(low), float(high), float(retimer.acts_on(k))]


class StateOnDevice(DeviceCourse):
    """One run by a `DevicePolicy`."""

    def __init__(self, retimer: Retimer, like: Tensor) -> None:
        """`retimer` has begun. like: a latent (B, …) of the run."""
        super().__init__(like)
        self._retimer, self._grid = retimer, Grid(retimer, self)
        self._synchronous = self._synchronous_records(len(like))
        self._records = self._synchronous.clone()  # (K + 1, fields, B or 1)
        self._made = torch.zeros(self._grid.steps + 1, dtype=torch.bool, device=like.device)
        self._held = retimer.held_range
        self._place: Place | None = None
        self._last = self._observed = torch.full_like(self._grid.numbers[:1], -1)  # steps
        self._state: DeviceState | None = None
        self._seen = torch.zeros_like(self._made[:1])  # whether the state is one of this block
        if retimer.observed is not None:
            self._resume(retimer.observed, like)

    def condition(self, sigma: Tensor) -> Tensor:
        """See `DeviceCourse`."""
        place = self._place = self._grid.place(sigma.view(()))
        self._restart(place)
        self._decide(place)
        self._made = self._made | (self._grid.numbers == place.step)
        t_star, rho = self._field("t_star"), self._field("rho")
        low, high = place.sigma.clamp(max=self._held[0]), place.sigma.clamp(min=self._held[1])
        answer = torch.where(place.on_grid, t_star, (rho * place.sigma).clamp(low, high))
        return torch.where(rho == 1, place.sigma.to(answer), answer)

    def observe(self, x: Tensor, denoised: Tensor, seen: Seen | None = None) -> Tensor:
        """See `DeviceCourse`."""
        place = self._now
        sigma, shown = seen or Seen(place.sigma, x)
        retiming = self._retimer.retiming
        velocity = (x - denoised) / sigma
        self._remember(shown, velocity, place)
        self._observed = torch.where(place.step < self._grid.steps, place.step, self._observed)
        if retiming.target != "velocity" and retiming.velocity_coupling == 0:
            return denoised
        omega = self._field("omega").to(x).reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(omega == 1, denoised, x - sigma * (velocity * omega))

    def withdraw(self) -> None:
        """See `DeviceCourse`."""
        place = self._now
        self._made = self._made & ((self._grid.numbers != place.step) | (place.step == self._observed))

    def report(self) -> Tensor:
        """See `DeviceCourse`."""
        record = self._records.index_select(0, self._now.step)[0]
        return torch.cat([self._now.step.to(record).expand(1, record.shape[1]), record])

    def read_report(self, report: Tensor) -> tuple[int, Decision] | None:
        """See `DeviceCourse`."""
        step = int(report[0, 0])
        return (step, self._decision(step, report[1:])) if step < self._grid.steps else None

    def settle(self) -> None:
        """See `DeviceCourse`."""
        self._hand_back()
        made, records = self._made.tolist(), self._records.cpu()
        self._retimer.settle([self._decision(k, records[k]) if made[k] else None for k in range(self._grid.steps)])

    # --- inside ---------------------------------------------------------------------------------------------------

    @property
    def _now(self) -> Place:
        assert self._place is not None, "condition comes first"
        return self._place

    def _synchronous_records(self, batch: int) -> Tensor:
        """What holds where no TPM decided, (K + 1, fields, B)."""
        decisions = [Decision(t_star=t) for t in self._retimer.grid[:-1]]
        rows = [[float(getattr(decision, name)) for name in FIELDS] + [0.0] for decision in decisions]
        rows.append([0.5, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])  # of no step
        return self.upload(rows).float().unsqueeze(-1).repeat(1, 1, batch)

    def _field(self, name: str) -> Tensor:
        """One column of the record of the evaluation in progress, (B,) or (1,)."""
        return self._records.index_select(0, self._now.step)[0, FIELDS.index(name)]

    def _restart(self, place: Place) -> None:
        """A grid that starts again after its last step is a new run (one block of a video after another)."""
        valid = place.step < self._grid.steps
        first, stop = self._retimer.part
        again = (self._last == stop - 1) & (place.step == first) & place.on_grid & (stop - first > 1)
        self._made, self._seen = self._made & ~again, self._seen & ~again
        self._records = torch.where(again, self._synchronous, self._records)
        self._last = torch.where(valid, place.step, self._last)

    def _decide(self, place: Place) -> None:
        """Ask the policy, and keep its answer where the step has none."""
        if self._state is None:
            return
        t, before, low, high, acts = place.grid.unbind()
        progress = (place.step[0].to(t) - 1) / self._grid.steps
        state, retimer = replace(self._state, sigma_next=t, progress=progress), self._retimer
        assert isinstance(retimer.policy, DevicePolicy)
        r = retimer.policy.ratio_on_device(state)
        decision = decide(r, retimer.retiming, retimer.bound, t, before, Limits(low, high))
        columns = [_column(getattr(decision, name), r) for name in FIELDS]
        record = torch.stack([*columns, torch.ones_like(r)])
        made = self._made.index_select(0, place.step)
        nothing = torch.where(
            made, self._records.index_select(0, place.step)[0], self._synchronous.index_select(0, place.step)[0]
        )
        acts = ~made & self._seen & (acts > 0)
        self._records = self._records.index_copy(0, place.step, torch.where(acts, record, nothing)[None])

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
        self._seen = torch.ones_like(self._seen)
        self._observed = torch.full_like(self._observed, seen.index)

    def _hand_back(self) -> None:
        """Tell the retimer the last state, where another part of the run needs it."""
        retimer, state = self._retimer, self._state
        if state is None or retimer.part.stop == self._grid.steps:
            return
        step, sigma = int(self._observed), float(state.sigma)
        after = retimer.grid[step + 1]
        retimer.remember(StepState(state.x, state.v, sigma, after, state.t_star, step, self._grid.steps, state.text))

    def _remember(self, x: Tensor, velocity: Tensor, place: Place) -> None:
        """Keep the state at the first stage of a step."""
        new = DeviceState(x, velocity, place.sigma, place.sigma, self._field("t_star"), place.sigma, self._retimer.text)
        valid = place.step < self._grid.steps
        first = (place.on_grid | (self._observed != place.step)) & valid
        self._seen = self._seen | valid
        self._state = new if self._state is None else _chosen(first, new, self._state)

    def _decision(self, step: int, record: Tensor) -> Decision:
        """The decision for a step as the retimer would have made it; record: (fields, B) on the host."""
        if not record[ASKED].any():
            return Decision(t_star=self._retimer.grid[step])
        values: dict[str, Any] = dict(zip(FIELDS, record, strict=False))
        if self._retimer.retiming.target == "velocity":
            return Decision(values["ratio"], values["deviation"], values["applied"], self._retimer.grid[step])
        return Decision(**{**values, "clamped": values["clamped"] > 0})


def _chosen(first: Tensor, new: DeviceState, old: DeviceState) -> DeviceState:
    """The new state where `first`, else the old one."""
    names = ("x", "v", "sigma", "t_star")
    x, v, sigma, t_star = (torch.where(first, getattr(new, name), getattr(old, name)) for name in names)
    return replace(new, x=x, v=v, sigma=sigma.view(()), t_star=t_star)


def _column(value: Value | bool, like: Tensor) -> Tensor:
    """`value` as (B,)."""
    return value.to(like).expand_as(like) if isinstance(value, Tensor) else torch.full_like(like, float(value))


def _precision(device: torch.device) -> torch.dtype:
    """As Python's numbers, where the device has them."""
    return torch.float64 if device.type in ("cpu", "cuda", "meta") else torch.float32
