"""Schedulers that make the steps of ComfyUI's samplers dpmpp_2m, res_multistep and heun, for every flow pipeline.

They take σ, shift and position from FlowMatchEulerDiscreteScheduler, so that all solvers walk down the same grid, and
replace its step only. Solvers of diffusers with the same names are others: DPMSolverMultistepScheduler integrates a
flow model in log((1 − σ)/σ), ComfyUI's dpmpp_2m in −log σ, and FlowMatchHeunDiscreteScheduler makes its own grid.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from torch import Tensor

from ...errors import HostError
from ...retiming.solvers import EULER, SOLVERS
from .schedulers import families_of


def with_solver(scheduler: Any, solver: str) -> Any:
    """A scheduler with the same grid that steps as `solver` does; for "euler" a pipeline's own scheduler itself.

    Raises HostError for an unknown solver, and for a scheduler that is not the deterministic Euler of flow models.
    """
    if solver not in SOLVERS:
        raise HostError(f"The solver {solver!r} is unknown; use one of {', '.join(SOLVERS)}.")
    ours = isinstance(scheduler, FlowSolver)
    if solver == EULER:
        return Euler.from_config(scheduler.config) if ours else scheduler
    family = families_of(scheduler)[0]
    if not ours and family != "FlowMatchEulerDiscreteScheduler":
        raise HostError(f"The solver {solver} takes the grid of FlowMatchEulerDiscreteScheduler, not of {family}.")
    config = scheduler.config
    if config.get("stochastic_sampling") or config.get("invert_sigmas"):
        raise HostError(
            f"The solver {solver} is deterministic and goes from noise to image; switch stochastic_sampling and"
            " invert_sigmas off, or use euler."
        )
    return CLASSES[solver].from_config(config)


Euler: Any = FlowMatchEulerDiscreteScheduler  # its attributes are not typed


class FlowSolver(Euler):
    """What the solvers share: position, precision, and a memory that lasts from one step to the next of one run."""

    solver: ClassVar[str]
    timesteps: Tensor
    sigmas: Tensor
    _memory: tuple[int, Any] | None = None  # (the step that may use it, what the step before left)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        """See FlowMatchEulerDiscreteScheduler. A new run remembers nothing."""
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)
        self._memory = None
        self.timesteps, self.sigmas = self.points(self.timesteps, self.sigmas)

    def points(self, timesteps: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps and σ by evaluation, from those by step."""
        return timesteps, sigmas

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        *_: Any,
        return_dict: bool = True,
        **__: Any,
    ) -> Any:
        """One step from x `sample` with the velocity `model_output`, summed in fp32; noise options do not apply."""
        if self.step_index is None:
            self._init_step_index(timestep)
        index = int(self.step_index)
        x, left = self.advance(index, sample.float(), model_output.float(), self._remembered(index))
        self._memory = None if index + 2 == len(self.sigmas) else (index + 1, left)
        self._step_index = index + 1
        x = x.to(model_output.dtype)
        output: Any = FlowMatchEulerDiscreteSchedulerOutput
        return output(prev_sample=x) if return_dict else (x,)

    def advance(self, index: int, x: Tensor, v: Tensor, before: Any) -> tuple[Tensor, Any]:
        """(x at the next σ, what the next step needs). before: what the previous step left, None at a run's start."""
        raise NotImplementedError

    def _remembered(self, index: int) -> Any:
        step, left = self._memory or (None, None)
        return left if step == index else None


class MultistepSolver(FlowSolver):
    """Second order from the previous clean estimate: an exponential integrator in λ = −log σ.

    x' = ρ·x + (1 − ρ)·D + w·(D − D_before) with D = x − σ·v, ρ = σ'/σ and a weight w that is the solver's own. The
    first step and the last one, which ends at σ = 0, have w = 0: then this is Euler.
    """

    def advance(self, index: int, x: Tensor, v: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """See FlowSolver. A step leaves its clean estimate."""
        sigma, after = self.sigmas[index].to(x.device), self.sigmas[index + 1].to(x.device)
        clean, shrink = x - sigma * v, after / sigma
        moved = shrink * x + (1 - shrink) * clean
        if before is None or index + 2 == len(self.sigmas):
            return moved, clean
        width = (sigma / after).log()
        width_before = (self.sigmas[index - 1].to(x.device) / sigma).log()
        return moved + self.weight(shrink, width, width_before) * (clean - before), clean

    @staticmethod
    def weight(shrink: Tensor, width: Tensor, width_before: Tensor) -> Tensor:
        """The weight w. Arguments: ρ, h = log(σ/σ') of this step and of the one before."""
        raise NotImplementedError


class DPMpp2M(MultistepSolver):
    """ComfyUI's dpmpp_2m: DPM-Solver++(2M), Lu et al. 2022 (arXiv 2211.01095), as k-diffusion has it."""

    solver = "dpmpp_2m"

    @staticmethod
    def weight(shrink: Tensor, width: Tensor, width_before: Tensor) -> Tensor:
        """See MultistepSolver: (1 − ρ)·h / 2h_before."""
        return (1 - shrink) * width / (2 * width_before)


class ResMultistep(MultistepSolver):
    """ComfyUI's res_multistep without noise: the second-order multistep of RES (arXiv 2308.02157)."""

    solver = "res_multistep"

    @staticmethod
    def weight(shrink: Tensor, width: Tensor, width_before: Tensor) -> Tensor:
        """See MultistepSolver: h²·φ₂(−h) / h_before, where h²·φ₂(−h) = h − (1 − ρ)."""
        return (width - (1 - shrink)) / width_before


class Heun(FlowSolver):
    """ComfyUI's heun: every step but the last takes the mean of the velocities at both ends (Karras et al. 2022).

    The timesteps are those of the evaluations: the first one once, each other one twice.
    """

    solver = "heun"
    order = 2

    def points(self, timesteps: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        """See FlowSolver: 2K − 1 evaluations for K steps."""
        return _twice(timesteps), torch.cat([_twice(sigmas[:-1]), sigmas[-1:]])

    def advance(
        self, index: int, x: Tensor, v: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """See FlowSolver. An even evaluation leaves where it started and its velocity, an odd one nothing."""
        if index % 2 and before is not None:
            start, first = before
            width = (self.sigmas[index] - self.sigmas[index - 1]).to(x.device)
            return start + width * (first + v) / 2, None
        width = (self.sigmas[index + 1] - self.sigmas[index]).to(x.device)
        return x + width * v, (x, v)


CLASSES: dict[str, type[FlowSolver]] = {kind.solver: kind for kind in (DPMpp2M, ResMultistep, Heun)}


def _twice(points: Tensor) -> Tensor:
    """The first point once, each other one twice."""
    return torch.cat([points[:1], points[1:].repeat_interleave(2)])
