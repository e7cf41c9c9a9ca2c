"""What an asynchronous run of any family must hold, one function each: they return nothing, or fail with a sentence.

`CHECKS` lists them; `test_families` runs them one by one, and `tests/tools/families.py` makes docs/families.md of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from support.retiming_runs import asynchronous
from support.zoo import clocks
from support.zoo.build import build
from support.zoo.entry import Entry
from support.zoo.parties import Parties, PerImage, flat
from support.zoo.runs import sample
from support.zoo.watch import Call, blinded, calls_of

DEVIATION = 0.4
ROUNDING = 2e-5  # of the largest value, where a family computes with the timestep beside its network
LOWEST = 1e-3  # t* goes no lower


class Bench:
    """An entry with its MODEL and its stock run, which the checks share."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    @cached_property
    def model(self) -> Any:
        return build(self.entry)

    @cached_property
    def _stock(self) -> tuple[Tensor, list[Call]]:
        with calls_of(self.network, self.entry.inner) as calls:
            return sample(self.model, self.entry), calls

    @property
    def stock(self) -> Tensor:
        return self._stock[0]

    @property
    def calls(self) -> list[Call]:
        """What the network was called with in the stock run."""
        return self._stock[1]

    @property
    def network(self) -> Any:
        return self.model.model.diffusion_model

    @property
    def sampling(self) -> Any:
        return self.model.get_model_object("model_sampling")

    def family_timestep(self, timestep: Tensor, **given: Any) -> Any:
        """The family's own `process_timestep`, whatever patches the MODEL carries."""
        return type(self.model.model).process_timestep(self.model.model, timestep, **given)

    def moved(self, **options: Any) -> Tensor:
        """An asynchronous run."""
        return sample(asynchronous(self.model, **{"deviation": DEVIATION, **options}), self.entry)


def without_strength_is_synchronous(bench: Bench) -> None:
    """γ = 0 is the stock run, to the bit."""
    assert torch.equal(bench.moved(gamma=0.0), bench.stock)


def without_deviation_is_synchronous(bench: Bench) -> None:
    """D = 0 is the stock run, to the bit."""
    assert torch.equal(bench.moved(deviation=0.0), bench.stock)


def a_deviation_changes_it(bench: Bench) -> None:
    """The control of the two above: with D = 0.4 the run is another one, and finite."""
    moved = bench.moved()
    assert torch.isfinite(moved).all()
    assert not torch.equal(moved, bench.stock)


def the_network_is_told_t_star(bench: Bench) -> None:
    """Every call gets the family's own timestep of t*, masks and all; σ stays as it is for everybody else."""
    for masked in (False, True) if bench.entry.mask else (False,):
        stock, moved = Parties(bench, masked=masked), Parties(bench, DEVIATION, masked=masked)
        check_timesteps(bench, moved, torch.tensor([DEVIATION]))
        assert moved.sigmas == stock.sigmas, "σ moved"
        assert moved.shown == stock.shown, "what the sampler shows moved"


def every_image_has_its_own(bench: Bench) -> None:
    """A policy that decides per image sees the run's own x and v, and every row of a call is told its image's t*."""
    policy = PerImage()
    moved = Parties(bench, policy=policy)
    check_timesteps(bench, moved, policy.deviations(bench.entry.batch))
    for state, (denoised, x) in zip(policy.states, moved.callbacks, strict=False):
        sigma = moved.sigma_grid[state.index]
        shown = bench.sampling.calculate_input(torch.full((len(x),), sigma), x)
        assert torch.allclose(flat(state.v), (x - denoised) / sigma, rtol=1e-4, atol=1e-5), "v is not the run's own"
        assert torch.allclose(flat(state.x), shown, rtol=1e-5, atol=1e-6), "x is not what the network is shown"


def a_blind_network_is_synchronous(bench: Bench) -> None:
    """A network whose prediction does not depend on the timestep gives the synchronous result, whatever it is told."""
    with blinded(bench.network, bench.calls[0], bench.calls[-1], bench.entry.inner):
        stock = sample(bench.model, bench.entry)
        for moved in (bench.moved(), sample(attached(bench.model, PerImage()), bench.entry)):
            apart = float((moved - stock).abs().max() / stock.abs().max())
            assert apart <= ROUNDING, f"it moved by {apart:.1e} of the largest value"


CHECKS: dict[str, Callable[[Bench], None]] = {
    "gamma 0": without_strength_is_synchronous,
    "D 0": without_deviation_is_synchronous,
    "D 0.4": a_deviation_changes_it,
    "told": the_network_is_told_t_star,
    "per image": every_image_has_its_own,
    "blind": a_blind_network_is_synchronous,
}


# --- parts --------------------------------------------------------------------------------------------------------


def attached(model: Any, policy: Any) -> Any:
    from asyncdiff.nodes.retiming.patch import attach

    return attach(model, policy)


def check_timesteps(bench: Bench, run: Parties, deviations: Tensor) -> None:
    """Every call of the run was told the family's own timestep of t*, and t* is what D makes of the clock's grid."""
    units = [clocks.unit(bench.sampling, sigma) for sigma in run.sigma_grid]
    told = dict(run.log.steps)
    for call, given in zip(run.calls, run.processed, strict=True):
        step = nearest(run.sigma_grid, call.sigma)
        expected = t_star(units, step, deviations if step else torch.zeros(1))
        assert torch.allclose(as_rows(told[step]), expected, rtol=1e-4, atol=1e-6), f"step {step}: t* is {told[step]}"
        own = bench.family_timestep(in_family_units(bench, call, units[step], told[step]), **given)
        assert same(call.timestep, own), f"step {step}: the network was told {call.timestep}, not {own}"


def t_star(units: list[float], step: int, deviations: Tensor) -> Tensor:
    """u_k + D·(u_k − u_{k−1}) of each image, between the lowest t* and the first u."""
    u, before = units[step], units[step - 1] if step else units[step]
    return (u + deviations * (u - before)).clamp(min(LOWEST, u), max(units[0], u))


def in_family_units(bench: Bench, call: Call, unit: float, decided: Any) -> Tensor:
    """The timestep (n,) of t*, for all rows of a call; the stock's own where t* is u."""
    rows = as_rows(decided)
    rows = rows.repeat(call.rows // len(rows))
    stock = bench.sampling.timestep(torch.full_like(rows, call.sigma)).float()
    return torch.where((rows - unit).abs() < 1e-6, stock, clocks.timestep(bench.sampling, rows))


def as_rows(decided: Any) -> Tensor:
    return torch.as_tensor(decided, dtype=torch.float32).reshape(-1)


def nearest(grid: list[float], sigma: float) -> int:
    return min(range(len(grid)), key=lambda step: abs(grid[step] - sigma))


def same(one: Any, other: Any) -> bool:
    """Timesteps; a family may tell several."""
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=1e-5, atol=1e-6)
