"""A studio without a model: it paints what was decided, so that a scorer can know the best policy exactly."""

import math
from dataclasses import dataclass

import torch

from asyncdiff.tpm.policies.network import TPMConfig
from asyncdiff.tpm.retiming.retimer import Retimer
from asyncdiff.tpm.retiming.trace import Trace

SIDE = 32


@dataclass(frozen=True)
class ToyRendering:
    images: torch.Tensor
    trace: Trace | None
    seconds: float = 0.001


class ToyStudio:
    """Drives a real `Retimer` over a grid. Row k of an image is 0.5 + D_k / 4; the rest is the seed's noise."""

    backbone = "sd3"
    device = torch.device("cpu")
    saved_evaluations = 0

    def __init__(self, name="toy"):
        self.name, self.calls = name, []

    def describe(self):
        return {"model": self.name}

    def tpm_config(self, **size):
        return TPMConfig("sd3", 4, 8, 8, **size)

    def sigma_grid(self, steps):
        return [1 - k / steps for k in range(steps)] + [0.0]

    def render(self, prompts, seeds, policy=None, retiming=None, *, steps):
        self.calls.append((policy.name if policy else "synchronous", list(seeds)))
        images = torch.cat([_noise(seed) for seed in seeds])
        if policy is None:
            images[:, :, :steps] = 0.5
            return ToyRendering(images, None)
        trace = self._sample(policy, retiming, steps, len(seeds))
        for k, entry in enumerate(trace.deviation):
            images[:, :, k] = 0.5 + torch.as_tensor(entry).reshape(-1, 1, 1) / 4
        return ToyRendering(images, trace)

    def _sample(self, policy, retiming, steps, count):
        retimer = Retimer(policy, retiming)
        grid = self.sigma_grid(steps)
        retimer.begin(grid)
        x = torch.zeros(count, 4, 8, 8)
        for sigma in grid[:-1]:
            retimer.condition(sigma)
            retimer.observe(x, sigma, x)
        return retimer.trace


def _noise(seed):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + 0.1 * torch.randn(1, 3, SIDE, SIDE, generator=generator)


def deviations(images, steps):
    """D (n, K) as painted."""
    return (images[:, 0, :steps, 0] - 0.5) * 4


def wanted(steps):
    """The best D of each step: falls with log-SNR from +.4 to −.3, and 0 in the last step."""
    sigmas = [1 - k / steps for k in range(1, steps)]
    logits = [math.log(sigma / (1 - sigma)) for sigma in sigmas]
    span = logits[0] - logits[-1]
    inner = [0.4 - 0.7 * (logits[0] - value) / span for value in logits[:-1]]
    return torch.tensor([0.0, *inner, 0.0])


def closeness(steps, seed_matters=0.01):
    """A scorer: minus the squared distance to `wanted`, and a term of the noise that no policy moves."""

    def scores(images, prompts):
        distance = (deviations(images, steps) - wanted(steps)).square().mean(1)
        return {"closeness": -distance + seed_matters * images[:, 0, -1, 0]}

    return scores
