"""One update of a TPM by group-relative policy optimisation: the paper's Eq 14 on whole trajectories (Eq 15).

The denoiser takes no part: what it showed was recorded, and only the TPM is evaluated again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...policies.network import TPM
from ...retiming.contract import TextCondition
from ...retiming.equations import beta_entropy, beta_log_prob, beta_parameters
from ..distributed import Processes
from .rollout import Batch, Step

GRADIENT_LIMIT = 1.0
LARGEST = 100.0  # logarithm of a ratio beyond which a number need not be exact
STEP = 1.5  # factor of a change of the learning rate


@dataclass
class UpdateStats:
    """What one iteration's updates looked like. Lists hold this process' trajectories, in the order of their use."""

    ratio: list[float] = field(default_factory=list)  # π / π_old of each trajectory
    log_ratio: list[float] = field(default_factory=list)
    clipped: list[bool] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)  # nats a step, mean over the trajectory
    concentration: list[float] = field(default_factory=list)  # α + β, likewise
    first_ratio_error: float = 0.0  # |ratio − 1| of the first minibatch, which must be 0 up to rounding
    gradient_norm: list[float] = field(default_factory=list)  # before the limit, per minibatch
    skipped: int = 0  # minibatches whose gradient was not finite
    left: int = 0  # minibatches that were left out, because the policy had moved as far as it may
    learning_rate: float = 0.0  # of this update


def surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """−min(ρA, clip(ρ, 1 − ε, 1 + ε)A), Eq 14, with ρ = exp(log_ratio). Shapes (n,)."""
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def divergence(log_ratios: Sequence[float]) -> float:
    """KL of π_old to π in nats, estimated from log(π/π_old) of trajectories that π_old drew: Schulman's k3."""
    return math.fsum(math.expm1(min(log, LARGEST)) - log for log in log_ratios) / max(len(log_ratios), 1)


@dataclass(frozen=True)
class TrustRegion:
    """How far one iteration may move the policy, which Eq 14's clip alone does not limit.

    A minibatch that finds the policy farther than `limit` (approximate KL a trajectory, nats) ends the iteration's
    update, as in Stable-Baselines3's target_kl. The learning rate falls after an iteration beyond half of it and rises
    after one below an eighth, never above `learning_rate`, as in RSL-RL's adaptive schedule.
    """

    limit: float
    learning_rate: float

    def adapt(self, optimizer: torch.optim.Optimizer, moved: float) -> None:
        """Set the next iteration's learning rate. moved: the mean KL of this one."""
        for group in optimizer.param_groups:
            if moved > self.limit / 2:
                group["lr"] /= STEP
            elif moved < self.limit / 8:
                group["lr"] = min(group["lr"] * STEP, self.learning_rate)


@dataclass
class Learner:
    """A TPM under training, with what its updates need."""

    tpm: TPM
    optimizer: torch.optim.Optimizer
    clip: float  # PPO's ε
    processes: Processes = field(default_factory=Processes)
    average: Averaged | None = None
    trust: TrustRegion | None = None

    def update(self, batches: Sequence[Batch], advantage: Tensor, minibatches: Sequence[Sequence[int]]) -> UpdateStats:
        """One optimiser step for each minibatch of trajectories.

        batches: this process' trajectories; advantage (N,): of all processes' trajectories. The gradient of a minibatch
        is its mean over all processes, so that several processes and one agree.
        """
        stats = UpdateStats(learning_rate=self.optimizer.param_groups[0]["lr"])
        for number, minibatch in enumerate(map(frozenset, minibatches)):
            seen = len(stats.log_ratio)
            self._accumulate(batches, advantage, minibatch, stats)
            if number == 0:
                stats.first_ratio_error = max((abs(ratio - 1) for ratio in stats.ratio), default=0.0)
            if self.trust and self._divergence(stats.log_ratio[seen:]) > self.trust.limit:
                stats.left = len(minibatches) - number
                break
            self.processes.sum_gradients(self.tpm)
            self._step(stats)
        if self.trust:
            self.trust.adapt(self.optimizer, self._divergence(stats.log_ratio))
        return stats

    def _accumulate(
        self, batches: Sequence[Batch], advantage: Tensor, minibatch: frozenset[int], stats: UpdateStats
    ) -> None:
        """The gradient of a minibatch, as far as this process' trajectories make it."""
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            rows = [row for row, trajectory in enumerate(batch.numbers) if trajectory in minibatch]
            if rows:
                loss = self._loss(batch, rows, advantage[[batch.numbers[row] for row in rows]], stats)
                (loss / len(minibatch)).backward()

    def _divergence(self, log_ratios: Sequence[float]) -> float:
        """The approximate KL of trajectories, the same on every process."""
        return divergence([value for part in self.processes.gather(list(log_ratios)) for value in part])

    def _loss(self, batch: Batch, rows: Sequence[int], advantage: Tensor, stats: UpdateStats) -> Tensor:
        """The summed surrogate of some trajectories of a batch."""
        a, b = replay(self.tpm, batch, rows)
        r, free, before = (torch.stack([getattr(step, name)[rows] for step in batch.steps]) for name in _RECORDED)
        log_ratio = ((beta_log_prob(a, b, r.to(a.device)) - before.to(a.device)) * free.to(a.device)).sum(0)
        losses = surrogate(log_ratio, advantage.to(log_ratio), self.clip)
        _note(stats, a.detach(), b.detach(), log_ratio.detach(), self.clip)
        return losses.sum()

    def _step(self, stats: UpdateStats) -> None:
        """Apply the gradient, unless it is not finite: then every process skips, since all have the same sum."""
        norm = float(nn.utils.clip_grad_norm_(self.tpm.parameters(), GRADIENT_LIMIT))
        stats.gradient_norm.append(norm)
        if not math.isfinite(norm):
            stats.skipped += 1
            return
        self.optimizer.step()
        if self.average:
            self.average.update(self.tpm)


_RECORDED = ("r", "free", "log_prob")


def replay(tpm: TPM, batch: Batch, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(a, b), each (steps, n), of n trajectories of a batch under the TPM as it is now."""
    chosen = list(rows)
    text = TextCondition(*(_rows_of(part, chosen) for part in (batch.text.context, batch.text.pooled)))
    tokens = tpm.encode_text(text, len(chosen)).repeat(len(batch.steps), 1, 1)
    x, v, x0, times = (torch.cat(parts) for parts in zip(*(_seen(step, chosen) for step in batch.steps), strict=True))
    a, b = tpm(x, v, x0, times, tokens)
    return a.view(len(batch.steps), -1), b.view(len(batch.steps), -1)


def _seen(step: Step, rows: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, v = step.x[rows], step.v[rows]
    return x, v, x - step.sigma * v, step.times[rows]


def _rows_of(part: Tensor | None, rows: list[int]) -> Tensor | None:
    return part if part is None or len(part) == 1 else part[rows]


def _note(stats: UpdateStats, a: Tensor, b: Tensor, log_ratio: Tensor, clip: float) -> None:
    ratio = log_ratio.exp()
    alpha, beta = beta_parameters(a, b)
    stats.ratio += ratio.tolist()
    stats.log_ratio += log_ratio.tolist()
    stats.clipped += ((ratio - 1).abs() > clip).tolist()
    stats.entropy += beta_entropy(a, b).mean(0).tolist()
    stats.concentration += (alpha + beta).mean(0).tolist()


class Averaged:
    """An exponential moving average of a TPM's weights."""

    def __init__(self, tpm: TPM, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in tpm.state_dict().items()}

    @torch.no_grad()
    def update(self, tpm: TPM) -> None:
        """Move a little towards the TPM as it is now."""
        current = tpm.state_dict()
        for name, value in self.weights.items():
            self.weights[name] = value.to(current[name].device).lerp_(current[name], 1 - self.decay)


def minibatches(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """All trajectories once, shuffled, in groups of `size`."""
    order = torch.randperm(count, generator=generator).tolist()
    return (order[start : start + size] for start in range(0, count, size))
