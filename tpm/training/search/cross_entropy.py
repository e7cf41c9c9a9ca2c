"""The cross-entropy method over policies of a few numbers: a curve of D, the synchronous tail, the coupling p."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...policies import Curve
from ...retiming.settings import Retiming

SMOOTHING = 0.7  # how far a generation moves to its best candidates
LEAST_SHARE = 0.05  # a choice is never given up altogether


@dataclass(frozen=True)
class Candidate:
    """A policy and how it is applied."""

    values: tuple[float, ...]  # D at the knots, the highest σ first
    tail_sync: int = 0
    coupling: float = 0.0

    @property
    def retiming(self) -> Retiming:
        """How the curve is applied."""
        return Retiming(tail_sync=self.tail_sync, velocity_coupling=self.coupling)

    def curve(self, sigmas: Sequence[float], bound: float, **words: Any) -> Curve:
        """The policy. σ at the knots, then what `Curve` takes."""
        return Curve(list(zip(sigmas, self.values, strict=True)), bound=bound, **words)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON."""
        return {**asdict(self), "values": list(self.values)}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Candidate:
        """The inverse of `to_dict`."""
        return cls(tuple(document["values"]), document["tail_sync"], document["coupling"])


@dataclass
class Belief:
    """Where good candidates are thought to be: a normal distribution of each D, and shares of the choices."""

    mean: list[float]
    std: list[float]
    tails: dict[int, float]
    couplings: dict[float, float]

    @classmethod
    def around(cls, d: float, std: float, knots: int, tails: Sequence[int], couplings: Sequence[float]) -> Belief:
        """A constant D, give or take; every choice is equally likely."""
        return cls([d] * knots, [std] * knots, _even(tails), _even(couplings))

    def centre(self) -> Candidate:
        """The mean, with the likeliest choices."""
        return Candidate(tuple(self.mean), max(self.tails, key=self._share), max(self.couplings, key=self._odds))

    def draw(self, count: int, bound: float, seed: int) -> list[Candidate]:
        """The centre and count − 1 draws, limited to ±bound."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count - 1, len(self.mean), generator=generator, dtype=torch.float64)
        values = (torch.tensor(self.mean) + noise * torch.tensor(self.std)).clamp(-bound, bound).tolist()
        tails, couplings = (_pick(shares, count - 1, generator) for shares in (self.tails, self.couplings))
        return [self.centre(), *map(Candidate, map(tuple, values), tails, couplings)]

    def learn(self, elite: Sequence[Candidate]) -> None:
        """Move towards the elite."""
        rows = torch.tensor([candidate.values for candidate in elite], dtype=torch.float64)
        mean, std = rows.mean(0).tolist(), rows.std(0, correction=0).tolist()
        self.mean = [_towards(old, new) for old, new in zip(self.mean, mean, strict=True)]
        self.std = [_towards(old, new) for old, new in zip(self.std, std, strict=True)]
        self.tails = _learned(self.tails, [candidate.tail_sync for candidate in elite])
        self.couplings = _learned(self.couplings, [candidate.coupling for candidate in elite])

    def _share(self, tail: int) -> float:
        return self.tails[tail]

    def _odds(self, coupling: float) -> float:
        return self.couplings[coupling]


def knots_in_log_snr(sigmas: Sequence[float], count: int) -> list[float]:
    """σ of knots that are evenly spaced in log-SNR over a grid's actions t_1 … t_{K−1}, the highest σ first.

    For a flow model the SNR is ((1 − σ)/σ)², so log-SNR = −2·logit(σ). One or two actions give as many knots.
    """
    actions = sigmas[1:-1]
    count = min(count, len(actions))
    first, last = (math.log(sigma / (1 - sigma)) for sigma in (actions[0], actions[-1]))
    if count == 1:
        return [actions[0]]
    logits = [first + (last - first) * n / (count - 1) for n in range(count)]
    return [1 / (1 + math.exp(-logit)) for logit in logits]


def _even(choices: Sequence[Any]) -> dict[Any, float]:
    return {choice: 1 / len(choices) for choice in choices}


def _towards(old: float, new: float) -> float:
    return (1 - SMOOTHING) * old + SMOOTHING * new


def _pick(shares: dict[Any, float], count: int, generator: torch.Generator) -> list[Any]:
    choices = list(shares)
    weights = torch.tensor([shares[choice] for choice in choices], dtype=torch.float64)
    if len(choices) == 1 or not count:
        return choices[:1] * count
    return [choices[n] for n in torch.multinomial(weights, count, replacement=True, generator=generator).tolist()]


def _learned(shares: dict[Any, float], chosen: Sequence[Any]) -> dict[Any, float]:
    """Shares moved towards those among the elite; none falls below `LEAST_SHARE`."""
    if len(shares) == 1:
        return shares
    counts = Counter(chosen)
    moved = {c: max(LEAST_SHARE, _towards(share, counts[c] / len(chosen))) for c, share in shares.items()}
    total = sum(moved.values())
    return {choice: share / total for choice, share in moved.items()}
