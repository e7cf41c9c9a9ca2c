"""Asynchronous conditioning on an unmodified diffusers pipeline: SD3, SD3.5 and Flux, also img2img and inpainting.

    with asynchronous(pipe, Constant(0.2)) as run:
        image = pipe("a lighthouse at dusk").images[0]
    run.trace

Two things are touched while the context is open, and put back after it: the `timestep` that the denoiser receives, and
the scheduler's `step`, which is watched. Scheduler, callbacks, previews and guidance see the true timesteps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import HostError
from ...policies.base import Policy, check_backbone
from ...retiming.equations import Value, distinct
from ...retiming.retimer import Retimer, Retiming
from ...retiming.trace import Trace
from .dialects import dialect_of
from .hooks import Attachments


@contextmanager
def asynchronous(pipe: Any, policy: Policy, retiming: Retiming | None = None) -> Iterator[AsyncRun]:
    """Run `pipe` asynchronously inside this context, any number of times.

    Raises HostError for a pipeline that cannot be driven or already is, PolicyError for a policy of another backbone.
    """
    run = AsyncRun(pipe, policy, retiming)
    run.attach()
    try:
        yield run
    finally:
        run.detach()


class AsyncRun:
    """A pipeline under asynchronous conditioning. Made by `asynchronous`; holds the traces of its runs."""

    def __init__(self, pipe: Any, policy: Policy, retiming: Retiming | None = None) -> None:
        self.dialect = dialect_of(pipe)
        check_scheduler(pipe.scheduler)
        check_backbone(policy, self.dialect.backbone)
        self.retimer = Retimer(policy, retiming)
        self._pipe, self._denoiser, self._scheduler = pipe, pipe.transformer, pipe.scheduler
        self._attached = Attachments()
        self._finished: list[Trace] = []
        self._sigmas: Tensor | None = None  # the scheduler's σ of the current run; another object is another run
        self._points: list[float] = []  # the same on the host
        self._sigma: float | None = None  # σ of the evaluation in progress

    @property
    def traces(self) -> list[Trace]:
        """One trace for each run so far."""
        return [*self._finished, self.retimer.trace] if self.retimer.grid else []

    @property
    def trace(self) -> Trace:
        """The trace of the latest run. Raises HostError when nothing ran."""
        if not self.retimer.grid:
            raise HostError("Nothing has run yet: call the pipeline inside the context, then read the trace.")
        return self.retimer.trace

    def attach(self) -> None:
        """Start watching the pipeline."""
        if is_driven(self._scheduler, self._denoiser):
            raise HostError("This pipeline already runs asynchronously; leave the outer context first, or use its run.")
        self._step = self._scheduler.step
        self._attached.replace(self._scheduler, "step", self.step)
        self._attached.add(self._denoiser.register_forward_pre_hook(self.before_denoiser, with_kwargs=True))

    def detach(self) -> None:
        """Put everything back."""
        self._attached.detach()

    def before_denoiser(
        self,
        module: nn.Module,  # noqa: ARG002 - the signature of a forward pre-hook
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace the `timestep` of one call of the denoiser."""
        timestep = kwargs.get("timestep")
        if not isinstance(timestep, Tensor):
            raise HostError("The pipeline calls its denoiser without timestep=…; use a stock SD3 or Flux pipeline.")
        index = grid_index(self._scheduler, timestep)
        if self._scheduler.sigmas is not self._sigmas:
            self._begin(index, kwargs)
        self._sigma = self._points[index]
        t_star = self.retimer.condition(self._sigma, getattr(self._scheduler, "state_in_first_order", None))
        return args, {**kwargs, "timestep": retimed(timestep, t_star, self._sigma, self.dialect.scale)}

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's step, with the state shown to the retimer first."""
        if self._sigma is not None:
            model_output = self._observe(sample, self._sigma, model_output)
        return self._step(model_output, timestep, sample, *args, **kwargs)

    def _begin(self, index: int, call: Mapping[str, Any]) -> None:
        """A run starts at this index of the scheduler's grid. The grid is copied to the host here, and only here."""
        self._finished = self.traces
        self._sigmas = self._scheduler.sigmas
        self._points = self._sigmas.tolist()
        text = self.dialect.begin(self._pipe, call) if self.retimer.policy.needs_state else None
        self.retimer.begin(distinct(self._points[index:]), text)

    def _observe(self, sample: Tensor, sigma: float, velocity: Tensor) -> Tensor:
        """Show the retimer a step; returns the velocity to integrate."""
        if not self.retimer.policy.needs_state:
            return self.retimer.observe(sample, sigma, velocity)
        v = self.dialect.to_map(velocity)
        scaled = self.retimer.observe(self.dialect.to_map(sample), sigma, v)
        return velocity if scaled is v else self.dialect.from_map(scaled)


def grid_index(scheduler: Any, timestep: Tensor) -> int:
    """Where a scheduler is in its grid, as it would find out itself."""
    for index in (scheduler.step_index, scheduler.begin_index):
        if index is not None:
            return int(index)
    return int(scheduler.index_for_timestep(timestep[0]))


def retimed(timestep: Tensor, t_star: Value, sigma: float, scale: float) -> Tensor:
    """`timestep` (n,) with t* in place of σ: the same object, or the same elements, wherever t* is σ.

    t* is a number or (B,) with n a multiple of B, since guidance repeats the batch.
    """
    if not isinstance(t_star, Tensor) and t_star == sigma:
        return timestep
    dtype = timestep.dtype if timestep.is_floating_point() else torch.float32
    if not isinstance(t_star, Tensor):
        return torch.full(timestep.shape, scale * t_star, dtype=dtype, device=timestep.device)
    t_star = t_star.to(timestep.device).repeat(len(timestep) // len(t_star))
    return torch.where(t_star == sigma, timestep, (scale * t_star).to(dtype))


def check_scheduler(scheduler: Any) -> None:
    """Raise HostError unless this is a flow-matching scheduler whose grid and position can be read."""
    config = getattr(scheduler, "config", {})
    families = [family.__name__ for family in type(scheduler).__mro__]
    flow = any(name.startswith("FlowMatch") for name in families) or config.get("use_flow_sigmas", False)
    if not flow or not all(hasattr(scheduler, name) for name in ("sigmas", "step_index", "begin_index")):
        raise HostError(
            f"The scheduler {type(scheduler).__name__} is not a flow-matching one; use FlowMatchEulerDiscreteScheduler"
            " or FlowMatchHeunDiscreteScheduler."
        )


def is_driven(scheduler: Any, denoiser: nn.Module) -> bool:
    """Whether an `AsyncRun` watches this scheduler or this denoiser."""
    watchers = [scheduler.step, *denoiser._forward_pre_hooks.values()]
    return any(isinstance(getattr(watcher, "__self__", None), AsyncRun) for watcher in watchers)
