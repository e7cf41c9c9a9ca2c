"""A studio without a network: exact velocities of Gaussian data, driven like any host, in milliseconds.

A latent is 4 channels of independent noise with the standard deviation `SPREAD` as its data; the prompt is ignored but
for its length, which is the pooled text. Telling the denoiser another timestep changes the spread of the images.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch

from asyncdiff.tpm.policies.network import TPMConfig
from asyncdiff.tpm.retiming.contract import TextCondition
from asyncdiff.tpm.retiming.retimer import Retimer
from asyncdiff.tpm.retiming.trace import Trace

SPREAD = 0.3
SIDE = 8
SMALL = {"width": 16, "heads": 2, "layers": 1, "patch": 2, "grid": 2, "readout_width": 16, "time_features": 8}


@dataclass
class Rendering:
    images: torch.Tensor
    trace: Trace | None
    seconds: float = 0.0


class ToyStudio:
    """`Studio` with a shift of 3 or a grid of its own, and a count of what was rendered."""

    backbone = "sd3"
    device = torch.device("cpu")
    saved_evaluations = 0

    def __init__(self, name="toy", grid=None):
        self.name, self.rendered, self._grid = name, 0, grid

    def describe(self):
        return {"model": self.name}

    def tpm_config(self, **size):
        return TPMConfig("sd3", 4, 6, 3, **{**SMALL, **size})

    def sigma_grid(self, steps):
        if self._grid:
            return self._grid
        even = [1 - k / steps for k in range(steps + 1)]
        return [3 * t / (1 + 2 * t) for t in even]

    def render(self, prompts, seeds, policy=None, retiming=None, *, steps):
        self.rendered += len(prompts)
        grid = self.sigma_grid(steps)
        x = torch.stack([torch.randn(4, SIDE, SIDE, generator=torch.Generator().manual_seed(s)) for s in seeds])
        retimer = Retimer(policy, retiming) if policy else None
        if retimer:
            retimer.begin(grid, text_of(prompts))
        for t, after in pairwise(grid):
            t_star = retimer.condition(t) if retimer else t
            v = velocity(x, t_star)
            x = x + (after - t) * (retimer.observe(x, t, v) if retimer else v)
        return Rendering(as_images(x), retimer.trace if retimer else None)


def velocity(x, t):
    """E[noise − data | x] for x = (1 − t)·data + t·noise."""
    t = t.view(-1, 1, 1, 1) if isinstance(t, torch.Tensor) else t
    return x * (t - (1 - t) * SPREAD**2) / (t**2 + (1 - t) ** 2 * SPREAD**2)


def text_of(prompts):
    lengths = torch.tensor([[float(len(prompt))] for prompt in prompts])
    return TextCondition(lengths.unsqueeze(1).expand(-1, 5, 6) / 10, lengths.expand(-1, 3) / 10)


def as_images(x):
    """Images (n, 3, 32, 32): the latent's first channels, enlarged."""
    return (0.5 + x[:, :3] / 4).clamp(0, 1).repeat_interleave(4, -1).repeat_interleave(4, -2)


def spread_scorer(target):
    """Prefers images whose pixels have this standard deviation."""

    def score(images, prompts):
        assert len(images) == len(prompts)
        return {"spread": -(images.std((1, 2, 3)) - target).abs()}

    return score
