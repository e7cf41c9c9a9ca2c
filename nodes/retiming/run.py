"""One asynchronous run inside ComfyUI: the hooks of a patched model, and no logic of its own (the `Retimer` has it).

- OUTER_SAMPLE: a run starts; read the grid and the prompt, forget the previous run.
- ON_PRE_RUN: the model is about to be evaluated; refuse it where no run of its own has started.
- PREDICT_NOISE: one evaluation after guidance and every post-CFG function; ask for t*, show (x, σ, v).
- `process_timestep`: put t* where the model's own timestep was (`told`, `families`).
- CALC_COND_BATCH, for policies that decide per image: which images are in a call (context windows over a batch).
- DIFFUSION_MODEL, only beside another pack's hook there: see whether a cache answers in the network's place.

The host never waits for the device: where σ is on one, the steps are found there (`on_device`). Where γ is 0 and nobody
looks on, an evaluation is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import comfy.utils
from comfy.patcher_extension import WrappersMP
from torch import Tensor, arange

from ...tpm.errors import GridError, HostError
from ...tpm.policies import Learned, Policy, TextCondition
from ...tpm.retiming.clock import FLOW, Clock, described
from ...tpm.retiming.courses import Course, course_of
from ...tpm.retiming.equations import distinct
from ...tpm.retiming.evaluation import Seen
from ...tpm.retiming.on_device import DeviceRun, fits
from ...tpm.retiming.parts import rises
from ...tpm.retiming.retimer import Retimer
from ...tpm.retiming.rising import RisingRun
from ...tpm.retiming.settings import Retiming
from ...tpm.retiming.trace import Trace
from .companions import check_leads, companions
from .families import clock_of
from .fit import solver_remark
from .record import RunRecord
from .reports import Reports, Watcher
from .shared import FirstEvaluation
from .told import INSIDE, KEY, Moment, Told

log = logging.getLogger("asyncdiff")


def waits_for(tensor: Tensor) -> bool:
    """Whether the host would wait to read this tensor."""
    return tensor.device.type != "cpu"


class HostRun:
    """One patched model under way. Node outputs are cached, so it serves many runs, one after the other."""

    def __init__(self, patched: Any, policy: Policy, retiming: Retiming | None, watcher: Watcher | None) -> None:
        self.told = Told(patched)
        self.decide_by(policy, retiming)
        self.first: FirstEvaluation | None = None
        self.whole: Sequence[float] | None = None  # σ of the whole run that the runs of this model are parts of
        self.before: RunRecord | None = None
        self.published: Callable[[Trace], None] | None = None  # told of the trace of every run
        self.note = ""  # a sentence for the trace of every run
        self._watcher = watcher
        self._reports = Reports(watcher)
        self._clock: Clock = FLOW
        self._sampling: Any = None  # the model sampling of the run, where its input is scaled
        self._course: Course | DeviceRun | None = None  # finds the steps of the run, from its first evaluation on
        self._batch = 0  # of the evaluation
        self._evaluations = 0
        self._asked = False  # whether anything was evaluated in this run
        self._looks_inside = False  # whether `network` is in place in this run
        self._reached = False  # whether `network` was called in this evaluation

    def decide_by(self, policy: Policy, retiming: Retiming | None) -> None:
        """Who decides in the runs from now on, and how it is applied."""
        self.retimer = Retimer(policy, _for_family(retiming or Retiming(), self.told))

    def outer_sample(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """A run of the guider from the first σ to the last."""
        guider = executor.class_obj
        begun, completed = self._begin(guider, noise, sampler, sigmas), False
        if begun:
            self._look_inside(guider.model_options)
        try:
            with companions(guider, self.told):
                result = executor(noise, latent, sampler, sigmas, *args, **kwargs)
            completed = True
            return result
        finally:
            if begun:
                self._end(completed)

    def pre_run(self, _: Any) -> None:
        """A guider is about to evaluate this model. Raises HostError where nothing would be asynchronous."""
        if self.retimer.active:
            check_leads(self.told)

    def predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None
    ) -> Tensor:
        """One evaluation: x, σ (B,) → the denoised latent, with the velocity scaled where ω is not 1."""
        if not self._condition(x, timestep):
            return self._ask(executor, x, timestep, model_options, seed)
        self.told.asked = self._reached = False
        self._batch = len(x)
        try:
            denoised = self._ask(executor, x, timestep, model_options, seed)
        finally:
            self.told.moment = self.told.rows = None
        asked = self._network_was_asked()
        self._evaluations += 1
        assert self._course is not None
        if asked:
            self._report()
            return self._course.observe(x, denoised, self._seen(x, timestep))
        self._course.withdraw()
        return denoised

    def calc_cond_batch(
        self, executor: Any, model: Any, conds: Any, x: Tensor, timestep: Tensor, model_options: Any
    ) -> Any:
        """The conditionings of a part of the batch, or of all of it: remember which images."""
        window = model_options.get("transformer_options", {}).get("context_window")
        rows = window.get_tensor(arange(self._batch)).tolist() if window is not None and window.dim == 0 else []
        self.told.rows = rows if len(rows) == len(x) else None
        return executor(model, conds, x, timestep, model_options)

    def network(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """The network is asked: no cache around it has answered."""
        self._reached = True
        return executor(*args, **kwargs)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _begin(self, guider: Any, noise: Tensor, sampler: Any, sigmas: Tensor) -> bool:
        """Start the retimer; False where there is nothing to retime. The grid is copied to the host, once a run."""
        self._evaluations, self._course, self._asked = 0, None, False
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
        self._note(self.note, self.told.family.note, described(self._clock), remark)
        self._reports.begin(self.retimer.grid, self.retimer.part)
        return True

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

    def _end(self, completed: bool) -> None:
        """The run is over. What a device knows of it is read here."""
        if isinstance(self._course, DeviceRun):
            self._reports.arrived(self._course, wait=True)
        if self._course:
            self._course.settle()
        elif self._unwatched():
            first, stop = self.retimer.part
            self.retimer.pass_steps(stop - first if completed else min(self._evaluations, stop - first))
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

    def _unwatched(self) -> bool:
        """Whether nothing is to be changed and nobody looks on: then an evaluation is left alone."""
        return not self.retimer.active and not self._reports.wanted

    def _condition(self, x: Tensor, timestep: Tensor) -> bool:
        """Ask for t*; False where this evaluation is none to retime."""
        if not self.retimer.grid:
            return False
        if self._unwatched():
            self._evaluations += 1
            return False
        self._course = self._course or self._course_for(x, timestep)
        if isinstance(self._course, DeviceRun):
            unit: Any = self._clock.to_unit(timestep.flatten()[0].to(self._course.precision))
        else:
            unit = self._clock.to_unit(float(timestep.flatten()[0]))
            if unit <= 0:  # a finished frame on its way into a video model's memory
                return False
        self.told.moment = Moment(unit, self._course.condition(unit), self._clock)
        return True

    def _seen(self, x: Tensor, timestep: Tensor) -> Seen | None:
        """What a policy reads, where the sampler's σ is not on the unit line."""
        if self._sampling is None:
            return None
        sigma = timestep.flatten()[0]
        shown = self._sampling.calculate_input(timestep, x)
        return Seen(sigma if isinstance(self._course, DeviceRun) else float(sigma), shown)

    def _ask(self, executor: Any, x: Tensor, timestep: Tensor, *args: Any) -> Tensor:
        """The denoised latent; of a run's first evaluation, what another run got, where runs share it."""
        shared = self.first if self.retimer.grid and not self._asked else None
        self._asked = True
        if shared is None:
            denoised: Tensor = executor(x, timestep, *args)
            return denoised
        denoised, evaluated = shared.ask(executor, x, timestep, *args)
        self.told.asked |= not evaluated
        self._reached |= not evaluated
        return denoised

    def _course_for(self, x: Tensor, timestep: Tensor) -> Course | DeviceRun:
        """What finds the steps of this run."""
        if rises(self.retimer.grid):
            return RisingRun(self.retimer)
        if waits_for(timestep) and fits(self.retimer):
            return DeviceRun(self.retimer, x)
        return course_of(self.retimer)

    def _look_inside(self, model_options: dict[str, Any]) -> None:
        """Put `network` inside of what other packs have around the network for this run (EasyCache), if they have."""
        wrappers = model_options.get("transformer_options", {}).get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {})
        wrappers.pop(KEY, None)
        self._looks_inside = any(held for key, held in wrappers.items() if key != INSIDE)
        if self._looks_inside:
            wrappers[KEY] = [self.network]

    def _network_was_asked(self) -> bool:
        """In the evaluation that is over. The first one, which no cache answers, shows whether `network` is called."""
        if not self._evaluations:
            self._looks_inside &= self._reached
        return self._reached if self._looks_inside else self.told.asked

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
        if not self._reports.wanted:
            return
        if isinstance(self._course, DeviceRun):
            self._reports.post(self._course)
        elif self._course:
            self._reports.tell(self._course.step, self._course.decision)


def _for_family(retiming: Retiming, told: Told) -> Retiming:
    """A network that is told the end of a step as well may not be told a timestep beyond it."""
    return replace(retiming, within_interval=True) if told.family.conversion == "mean flow" else retiming


def _for_batch(part: Tensor | None, batch: int) -> Tensor | None:
    """The prompts of a batch as the host repeats them: as they are for one, or for one each."""
    if part is None or len(part) in (1, batch):
        return part
    return comfy.utils.repeat_to_batch_size(part, batch)
