"""What is measured of one entry for the table of families: its latent, what its network is told, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from support.zoo.build import BuildError, build
from support.zoo.contract import CHECKS, Bench
from support.zoo.entry import Entry
from support.zoo.parties import Parties

TOLD: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "σ": lambda _, sigma: sigma,
    "1000·σ": lambda _, sigma: 1000 * sigma,
    "1 − σ": lambda _, sigma: 1 - sigma,
    "¼·ln σ": lambda _, sigma: 0.25 * sigma.log(),
    "σ/(1 + σ)": lambda _, sigma: sigma / (1 + sigma),
    "atan(σ)·2/π": lambda _, sigma: sigma.atan() * 2 / torch.pi,
    "the time of the cosine schedule": lambda sampling, sigma: _if(sampling, "cosine_s", sigma),
    "the number of the nearest of 1000 levels": lambda sampling, sigma: _if(sampling, "log_sigmas", sigma),
}
"""Candidates for what a network is told of σ, the simpler ones first."""


class Row(NamedTuple):
    """A line of the table."""

    family: str
    name: str
    latent: str
    told: str
    verdict: str


def measured(entry: Entry) -> Row:
    """Build the entry, sample it and run every check of the contract."""
    try:
        latent, told, verdict = _measured(entry)
    except BuildError as missing:
        latent, told, verdict = "—", "—", f"not built small: {missing}"
    return Row(entry.family, entry.name, latent, told, verdict)


# --- inside -------------------------------------------------------------------------------------------------------


def _measured(entry: Entry) -> tuple[str, str, str]:
    if not entry.generates:
        return "—", "—", _refusal(entry)
    bench = Bench(entry)
    failed = [name for name, check in CHECKS.items() if not _holds(check, bench)]
    return entry.rank, told_of(bench), f"wrong: {', '.join(failed)}" if failed else _right(bench)


def _refusal(entry: Entry) -> str:
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.errors import HostError
    from asyncdiff.tpm.policies import Constant

    try:
        attach(build(entry), Constant(0.4))
    except HostError as refused:
        return f"refused: {refused}"
    return "wrong: accepted, though it generates nothing"


def _holds(check: Callable[[Bench], None], bench: Bench) -> bool:
    try:
        check(bench)
    except Exception as fault:  # noqa: BLE001 - a check may fail in any way
        print(f"  {bench.entry.name}: {type(fault).__name__}: {fault}")
        return False
    return True


def _right(bench: Bench) -> str:
    """Right, and by which conversions of the pack."""
    from asyncdiff.nodes.retiming.families import CONVERSIONS, clock_of, family_of
    from asyncdiff.tpm.retiming.clock import FLOW

    family, clock = family_of(bench.model.model), clock_of(bench.sampling)
    steps = [] if family.conversion == "plain" else [CONVERSIONS[family.conversion]]
    steps += [] if clock is FLOW else [f"D acts on {clock.formula}"]
    if steps:
        return f"right with conversion: {'; '.join(steps)}"
    return f"right. {family.note}".removesuffix(". ")


def told_of(bench: Bench) -> str:
    """What the network is told of σ, from the calls of stock runs with and without a mask."""
    sigmas = torch.tensor([call.sigma for call in bench.calls], dtype=torch.float64)
    firsts = [_parts(call.timestep)[0] for call in bench.calls]
    told = torch.tensor([float(part.flatten()[0]) for part in firsts], dtype=torch.float64)
    rounded = firsts[0].dtype != torch.float32 and firsts[0].is_floating_point()
    fitting = (name for name, formula in TOLD.items() if _fits(formula(bench.sampling, sigmas), told))
    words = next(fitting, "something else")
    return words + (f", in {str(firsts[0].dtype).removeprefix('torch.')}" if rounded else "") + _with_mask(bench)


def _with_mask(bench: Bench) -> str:
    """How many timesteps an image gets where a mask keeps a part of it."""
    if bench.entry.mask is None:
        return ""
    calls = Parties(bench, masked=True).calls
    parts = _parts(calls[0].timestep)
    if all(part.ndim == 1 for part in parts):
        return ""
    counts = {part.shape[1] for part in parts if part.ndim > 1}
    per = "frame" if counts == {bench.entry.latent[0][1]} else "token"
    return f"; with a mask, one per {per}"


def _parts(timestep: Any) -> list[Tensor]:
    return list(timestep) if isinstance(timestep, list | tuple) else [timestep]


def _fits(expected: Tensor, told: Tensor) -> bool:
    return torch.allclose(expected.double(), told, rtol=5e-3, atol=1e-6)


def _if(sampling: Any, name: str, sigma: Tensor) -> Tensor:
    """The sampling's own timestep, where it is of the kind that has this attribute; else nothing that fits."""
    return sampling.timestep(sigma) if hasattr(sampling, name) else torch.full_like(sigma, torch.nan)
