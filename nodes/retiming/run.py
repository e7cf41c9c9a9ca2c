"""One asynchronous run inside ComfyUI, as its hooks drive it: begin, condition, observe, end (the `Retimer` decides).

The host never waits for the device: where σ is on one, the steps are found there (`course_on_device`). Where γ is 0
and nobody looks on, an evaluation is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import comfy.utils
from torch import Tensor

from ...tpm.errors import GridError, HostError
from ...tpm.policies import Learned, Policy, TextCondition
from ...tpm.retiming.clock import FLOW, Clock, described
from ...tpm.retiming.courses import Course, course_of, course_on_device
from ...tpm.retiming.equations import distinct
from ...tpm.retiming.evaluation import Seen
from ...tpm.retiming.foretold import ForetoldRun
from ...tpm.retiming.on_device import DeviceCourse
from ...tpm.retiming.parts import rises
from ...tpm.retiming.retimer import Retimer
from ...tpm.retiming.rising import RisingRun
from ...tpm.retiming.settings import Retiming
from ...tpm.retiming.trace import Trace
from .families import Family, clock_of
from .fit import solver_remark
from .record import RunRecord
from .reports import Reports, Watcher
from .told import Moment

log = logging.getLogger("asyncdiff")


def waits_for(tensor: Tensor) -> bool:
    """Whether the host would wait to read this tensor."""
    return tensor.device.type != "cpu"


class HostRun:
    """What decides in the runs of one patched model. Node outputs are cached: many runs, one after the other."""

    copies = 1

    def __init__(self, family: Family, policy: Policy, retiming: Retiming | None, watcher: Watcher | None) -> None:
        self._family = family
        self.decide_by(policy, retiming)
        self.whole: Sequence[float] | None = None  # σ of the whole run that the runs of this model are parts of
        self.before: RunRecord | None = None
        self.published: Callable[[Trace], None] | None = None  # told of the trace of every run
        self.note = ""  # a sentence for the trace of every run
        self._watcher = watcher
        self._reports = Reports(watcher)
        self._clock: Clock = FLOW
        self._sampling: Any = None  # the model sampling of the run, where its input is scaled
        self._course: Course | DeviceCourse | None = None  # finds the steps of the run, from its first evaluation on
        self._ahead: Sequence[float] = ()  # t* of all its steps, where they are known
        self._unwatched = False  # nothing is to be changed and nobody looks on: every evaluation is left alone
        self._passed = 0  # evaluations that were left alone

    def decide_by(self, policy: Policy, retiming: Retiming | None) -> None:
        """Who decides in the runs from now on, and how it is applied."""
        self.retimer = Retimer(policy, _for_family(retiming or Retiming(), self._family))

    @property
    def active(self) -> bool:
        """Whether anything is changed."""
        return self.retimer.active

    def begin(self, guider: Any, noise: Tensor, sampler: Any, sigmas: Tensor) -> bool:
        """Start the retimer; False where there is nothing to retime. The grid is copied to the host, once a run."""
        self._passed, self._course, self._ahead = 0, None, ()
        self.retimer.end()
        points = distinct(sigmas.tolist())
        if len(points) < 2:
            return False
        sampling = guider.model_patcher.get_model_object("model_sampling")
        try:
            self._clock = clock_of(sampling)
            self._start(guider, noise, points)
        except (GridError, HostError):
            if self.retimer.active:
                raise
            return False
        self._sampling = None if self._clock is FLOW or not self.retimer.policy.needs_state else sampling
        remark = solver_remark(self.retimer.policy, sampler) if self.retimer.active else ""
        self._note(self.note, self._family.note, described(self._clock), remark)
        self._reports.begin(self.retimer.grid, self.retimer.part)
        self._unwatched = not self.retimer.active and not self._reports.wanted
        return True

    def condition(self, x: Tensor, timestep: Tensor) -> Moment | None:
        """Ask for t*; None where this evaluation is none to retime."""
        if self._unwatched:
            self._passed += 1
            return None
        if self._course is None:
            self._course = self._course_for(x, timestep)
        first = timestep if timestep.numel() == 1 else timestep.flatten()[:1]
        if isinstance(self._course, DeviceCourse):
            unit: Any = self._clock.to_unit(first.to(self._course.precision))
        else:
            unit = self._clock.to_unit(first.item())
            if unit <= 0:  # a finished frame on its way into a video model's memory
                return None
        return Moment(unit, self._course.condition(unit), self._clock, self._ahead)

    def observe(self, x: Tensor, timestep: Tensor, denoised: Tensor) -> Tensor:
        """Report the step, and take in what came out of it."""
        assert self._course is not None
        if self._reports.wanted:
            self._report()
        seen = None if self._sampling is None else self._seen(x, timestep)
        return self._course.observe(x, denoised, seen)

    def withdraw(self) -> None:
        """In place of `observe`: a cache answered in the network's place."""
        assert self._course is not None
        self._course.withdraw()

    def end(self, completed: bool) -> None:
        """The run is over. What a device knows of it is read here."""
        if isinstance(self._course, DeviceCourse):
            self._reports.arrived(self._course, wait=True)
        if self._course:
            self._course.settle()
        elif self._unwatched:
            first, stop = self.retimer.part
            self.retimer.pass_steps(stop - first if completed else min(self._passed, stop - first))
        trace = self.retimer.trace
        if self.before is not None and self.before.trace is not None:
            trace = trace.after(self.before.trace)
        if isinstance(self._watcher, RunRecord):
            self._watcher.carried = self.retimer.carried
        self._course, self._sampling = None, None
        self.retimer.end()
        self._reports.finish(trace)
        if self.published:
            self.published(trace)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _start(self, guider: Any, noise: Tensor, points: list[float]) -> None:
        units = [float(self._clock.to_unit(sigma)) for sigma in points]
        text = self._text(guider, noise)
        if self.retimer.active and isinstance(self.retimer.policy, Learned):
            self.retimer.policy.check_run(noise.shape, text)  # before the first evaluation, not after it
        if rises(units):
            if self.whole is not None:
                raise GridError("σ rises in this run, so it is no part of a whole run: leave the whole SIGMAS away.")
            self.retimer.begin_rising(units, text)
            return
        whole = None if self.whole is None else [float(self._clock.to_unit(sigma)) for sigma in self.whole]
        self.retimer.begin(units, text, whole)
        self._resume()

    def _resume(self) -> None:
        """Go on from what the part before this one saw; without it, a policy that reads a state starts anew."""
        if not self.retimer.part.first or not self.retimer.policy.needs_state or not self.retimer.active:
            return
        seen = self.before.carried if self.before else None
        if seen is not None and seen.index in (self.retimer.part.first - 1, self.retimer.part.first):
            self.retimer.resume(seen)
            return
        self._note(
            "This part of a run was not given the trace of the part before it: the policy has seen nothing yet, and the"
            " first step is synchronous."
        )

    def _note(self, *sentences: str) -> None:
        """Say it in the trace, and once in the log."""
        for sentence in filter(None, sentences):
            log.info(sentence)
            self.retimer.notes.append(sentence)

    def _seen(self, x: Tensor, timestep: Tensor) -> Seen:
        """What a policy reads, where the sampler's σ is not on the unit line."""
        sigma = timestep.flatten()[0]
        shown = self._sampling.calculate_input(timestep, x)
        return Seen(sigma if isinstance(self._course, DeviceCourse) else float(sigma), shown)

    def _course_for(self, x: Tensor, timestep: Tensor) -> Course | DeviceCourse:
        """What finds the steps of this run."""
        if rises(self.retimer.grid):
            return RisingRun(self.retimer)
        there = course_on_device(self.retimer, x) if waits_for(timestep) else None
        course = there or course_of(self.retimer)
        self._ahead = course.ahead if isinstance(course, ForetoldRun) else ()
        return course

    def _text(self, guider: Any, noise: Tensor) -> TextCondition | None:
        """The prompt of the conditional branch; only the first where several are combined."""
        if not self.retimer.policy.needs_state:
            return None
        positive = guider.conds.get("positive") or next(iter(guider.conds.values()), None)
        if not positive:
            return None
        batch = noise.shape[0]
        parts = (positive[0].get("cross_attn"), positive[0].get("pooled_output"))
        return TextCondition(*(_for_batch(part, batch) for part in parts))

    def _report(self) -> None:
        """Tell the watcher what was decided for a step, once a step."""
        if isinstance(self._course, DeviceCourse):
            self._reports.post(self._course)
        elif self._course:
            self._reports.tell(self._course.step, self._course.decision)


def _for_family(retiming: Retiming, family: Family) -> Retiming:
    """A network that is told the end of a step as well may not be told a timestep beyond it."""
    return replace(retiming, within_interval=True) if family.conversion == "mean flow" else retiming


def _for_batch(part: Tensor | None, batch: int) -> Tensor | None:
    """The prompts of a batch as the host repeats them: as they are for one, or for one each."""
    if part is None or len(part) in (1, batch):
        return part
    return comfy.utils.repeat_to_batch_size(part, batch)
