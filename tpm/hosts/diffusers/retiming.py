"""Asynchronous conditioning on an unmodified diffusers pipeline: the stock pipelines of every family in `families`.

    with asynchronous(pipe, Constant(0.2)) as run:
        image = pipe("a lighthouse at dusk").images[0]
    run.trace

Two things are touched while the context is open, and put back after it: the `timestep` that the denoiser receives, and
the scheduler's `step`, which is watched. Scheduler, callbacks, previews and guidance see the true timesteps. Pipelines
that share the denoiser and the scheduler (`Pipeline.from_pipe`) run asynchronously as well. What a call of the denoiser
holds decides, never what a pipeline object says about itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import HostError
from ...retiming.contract import Policy, TextCondition, check_backbone
from ...retiming.equations import Value, distinct
from ...retiming.retimer import Retimer
from ...retiming.settings import Retiming
from ...retiming.trace import Trace
from .calls import Call, denoiser_call
from .dialects import Place
from .families import dialect_of
from .first import FirstEvaluation
from .hooks import CALL, Attachments, in_place_of, is_compiled, stock_call
from .position import Position


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
        self.dialect.check_scheduler(pipe.scheduler)
        check_backbone(policy, self.dialect.backbone)
        self.retimer = Retimer(policy, retiming)
        self.shared: tuple[FirstEvaluation, Sequence[int]] | None = None  # with other runs, and its equal samples
        self._begins = False  # whether the evaluation in progress is a run's first
        self._pipe = pipe
        self._hooks, self._attached = Attachments(), False
        self._finished: list[Trace] = []
        self._opening: tuple[TextCondition, Any] | None = None  # prompts and layout in a run's first call

    @property
    def traces(self) -> list[Trace]:
        """One trace for each run so far."""
        return [*self._finished, self.retimer.trace] if self.retimer.grid else [*self._finished]

    @property
    def trace(self) -> Trace:
        """The trace of the latest run. Raises HostError when nothing ran."""
        if self.retimer.grid:
            return self.retimer.trace
        if not self._finished:
            raise HostError("Nothing has run yet: call the pipeline inside the context, then read the trace.")
        return self._finished[-1]

    # --- attaching ------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Start watching the pipeline, and the assignment of other parts to it."""
        if is_driven(self._pipe.scheduler, getattr(self._pipe, self.dialect.part)):
            raise HostError("This pipeline already runs asynchronously; leave the outer context first, or use its run.")
        self._watch()
        self._attached, self._kind = True, type(self._pipe)
        watch_assignments(self._pipe, (self.dialect.part, "scheduler"), self.follow)

    def detach(self) -> None:
        """Put everything back, and forget the latest run's latents and prompt; the traces stay."""
        self._hooks.detach()
        self._attached = False
        if type(self._pipe) is not self._kind:
            self._pipe.__class__ = self._kind
        self._finished = self.traces
        self._opening = None
        self.retimer.end()

    def follow(self) -> None:
        """Watch what the pipeline holds now, where a part of it was replaced or compiled inside the context.

        Raises HostError for a part that cannot be driven, PolicyError for one of another backbone.
        """
        denoiser = getattr(self._pipe, self.dialect.part)
        parts_stay = denoiser is self._denoiser and self._pipe.scheduler is self._scheduler
        if parts_stay and self._hooks.holds(self._denoiser, CALL):
            return
        dialect = dialect_of(self._pipe)
        dialect.check_scheduler(self._pipe.scheduler)
        check_backbone(self.retimer.policy, dialect.backbone)
        self.dialect = dialect
        self._hooks.detach()
        self._watch()

    def _watch(self) -> None:
        self._denoiser, self._scheduler = getattr(self._pipe, self.dialect.part), self._pipe.scheduler
        self._position = Position(self._scheduler, self.dialect)
        self._compiled = is_compiled(self._denoiser)
        self._hooks.replace(self._denoiser, CALL, partial(self.call, stock_call(self._denoiser)))
        self._hooks.replace(self._denoiser, "compile", partial(self.compile, self._denoiser.compile))
        self._hooks.replace(self._scheduler, "step", in_place_of(self._scheduler.step, self.step))

    # --- the two calls --------------------------------------------------------------------------------------------

    def call(self, stock: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The denoiser's call with t* as its `timestep`. It stands outside of whatever is compiled."""
        if not self._attached:
            return stock(*args, **kwargs)
        args, kwargs = self._retimed(denoiser_call(self._denoiser, args, kwargs))
        if self.shared and self._begins:
            first, equal = self.shared
            return first.ask(stock, args, kwargs, equal)
        return stock(*args, **kwargs)

    def step(
        self,
        stock: Callable[..., Any],
        /,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The scheduler's step, with the state shown to the retimer first."""
        if self._attached:
            model_output = self._observed(sample, model_output, timestep)
        return stock(model_output, timestep, sample, *args, **kwargs)

    def compile(self, stock: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """`Module.compile`, which takes the place of the denoiser's call: watch the compiled one."""
        stock(*args, **kwargs)
        self.follow()

    def _retimed(self, call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
        dialect = self.dialect
        timestep = call.timestep(dialect.argument)
        self._begins = self._position.evaluate(timestep)
        if self._begins:
            self._begin(call)
        unit = self._position.unit
        t_star = self.retimer.condition(unit, getattr(self._scheduler, "state_in_first_order", None))
        if not isinstance(t_star, Tensor) and t_star == unit:
            return call.args, dict(call.kwargs)
        exact = dialect.exact(timestep, call, self._compiled)
        told = retimed(exact.timestep, t_star, unit, dialect.told, dialect.rows(call))
        return call.told(exact.kept(told), dialect.argument)

    def _begin(self, call: Call) -> None:
        """A run starts here. Its grid was copied to the host, once."""
        self._finished = self.traces
        opening = (self.dialect.prompt(call), self.dialect.layout(call))
        self._opening = opening if self.retimer.policy.needs_state else None
        self.retimer.begin(distinct(self._position.ahead))
        self.retimer.notes += filter(None, [self.dialect.note])

    def _observed(self, sample: Tensor, output: Tensor, timestep: Any) -> Tensor:
        """Show the retimer a step; returns the output to integrate."""
        if not self._position.step():
            return self._unseen(output)
        dialect, unit = self.dialect, self._position.unit
        place = Place(self._scheduler, timestep, self._position.index)
        velocity = dialect.velocity(output, sample, place)
        if self.retimer.policy.needs_state:
            self._read_opening(sample)
            v = dialect.to_map(velocity)
            scaled = self.retimer.observe(dialect.to_map(dialect.seen(sample, place)), unit, v)
            scaled = velocity if scaled is v else dialect.from_map(scaled)
        else:
            scaled = self.retimer.observe(sample, unit, velocity)
        return output if scaled is velocity else dialect.output(scaled, velocity, output, place)

    def _read_opening(self, sample: Tensor) -> None:
        """At a run's first step the number of samples is known, and with it which prompts are conditional."""
        if self._opening is not None:
            (prompts, layout), self._opening = self._opening, None
            self.dialect.read_layout(layout, sample)
            self.retimer.read_prompt(self.dialect.conditional(prompts, len(sample)))

    def _unseen(self, velocity: Tensor) -> Tensor:
        """A step without an evaluation before it: one that was skipped, or another denoiser's."""
        if self.retimer.active and not self._position.evaluated:
            raise HostError(
                "The scheduler made a step, but the denoiser that was called is not the one that the context watches;"
                " open the context on the pipeline that is called, after its parts are final."
            )
        return velocity


def retimed(
    timestep: Tensor, t_star: Value, unit: float, told: Callable[[Value], Value], rows: int | None = None
) -> Tensor:
    """`timestep` (n,) with t* in place of u, in fp32 or better: the same object, or elements, wherever t* is u.

    t* is a number or (B,) with n a multiple of B, since guidance repeats the batch, or n = 1, which stands for all.
    told: what the denoiser is told for a time. rows: of the call, where n = 1 stands for all of them.
    """
    dtype = torch.promote_types(timestep.dtype, torch.float32)
    if not isinstance(t_star, Tensor):
        if t_star == unit:
            return timestep
        return torch.full(timestep.shape, float(told(t_star)), dtype=dtype, device=timestep.device)
    n, batch = rows or len(timestep), len(t_star)
    if n > 1 and n % batch:
        raise HostError(f"The denoiser was called with {n} timesteps for {batch} latents; call it with a whole batch.")
    t_star = t_star.to(timestep.device).repeat(max(n // batch, 1))
    values = told(t_star)
    assert isinstance(values, Tensor)
    return torch.where(t_star == unit, timestep.to(dtype), values.to(dtype))


def watch_assignments(pipe: Any, parts: Sequence[str], then: Callable[[], None]) -> None:
    """Call `then` whenever one of these parts is assigned: the object's class becomes a subclass of the same name.

    An object whose class cannot be changed (a namespace, say) is left alone.
    """
    kind: Any = type(pipe)

    def assign(self: Any, name: str, value: Any) -> None:
        kind.__setattr__(self, name, value)
        if name in parts:
            then()

    with suppress(TypeError):
        pipe.__class__ = type(kind.__name__, (kind,), {"__setattr__": assign, "__module__": kind.__module__})


def is_driven(scheduler: Any, denoiser: nn.Module) -> bool:
    """Whether an `AsyncRun` watches this scheduler or this denoiser."""
    watchers = (scheduler.step, vars(denoiser).get(CALL))
    methods = (watcher.func for watcher in watchers if isinstance(watcher, partial))
    return any(isinstance(getattr(method, "__self__", None), AsyncRun) for method in methods)
