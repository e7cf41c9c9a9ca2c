"""The hooks of a patched model inside ComfyUI, and no logic of their own: a `HostRun` decides, or several (`together`).

- OUTER_SAMPLE: a run starts; it reads the grid and the prompt, and forgets the previous run.
- ON_PRE_RUN: the model is about to be evaluated; refuse it where no run of its own has started.
- PREDICT_NOISE: one evaluation after guidance and every post-CFG function; ask for t*, show (x, σ, v).
- `process_timestep`: put t* where the model's own timestep was (`told`, `families`).
- CALC_COND_BATCH, for policies that decide per image: which images are in a call (context windows over a batch).
- DIFFUSION_MODEL, only beside another pack's hook there: see whether a cache answers in the network's place.
"""

from __future__ import annotations

from typing import Any, Protocol

from comfy.patcher_extension import WrappersMP
from torch import Tensor, arange

from .companions import check_leads, companions
from .shared import FirstEvaluation
from .told import INSIDE, KEY, Moment, Told


class Run(Protocol):
    """What decides in the runs of a patched model, one after the other."""

    @property
    def active(self) -> bool:
        """Whether anything is changed."""

    @property
    def copies(self) -> int:
        """How many times the batch holds the same images, one time after the other."""

    def begin(self, guider: Any, noise: Tensor, sampler: Any, sigmas: Tensor) -> bool:
        """A run starts; False where there is nothing to retime."""

    def condition(self, x: Tensor, timestep: Tensor) -> Moment | None:
        """What the network is told in the evaluation of x at σ (B,); None where it is left alone."""

    def observe(self, x: Tensor, timestep: Tensor, denoised: Tensor) -> Tensor:
        """What came out; returns it with the velocity scaled where ω is not 1."""

    def withdraw(self) -> None:
        """In place of `observe`: a cache answered in the network's place."""

    def end(self, completed: bool) -> None:
        """The run is over, or was interrupted."""


class Hooks:
    """One patched model. Node outputs are cached, so it serves many runs, one after the other."""

    def __init__(self, told: Told, run: Run) -> None:
        self.told, self.run = told, run
        self.first: FirstEvaluation | None = None
        self._begun = False  # whether a run is under way
        self._batch = 0  # of the evaluation
        self._evaluations = 0
        self._asked = False  # whether the first evaluation, which runs may share, is over
        self._looks_inside = False  # whether `network` is in place in this run
        self._reached = False  # whether `network` was called in this evaluation

    def outer_sample(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """A run of the guider from the first σ to the last."""
        guider, completed = executor.class_obj, False
        self._evaluations, self._asked = 0, False
        self._begun = self.run.begin(guider, noise, sampler, sigmas)
        if self._begun:
            self._look_inside(guider.model_options)
        try:
            with companions(guider, self.told):
                result: Tensor = executor(noise, latent, sampler, sigmas, *args, **kwargs)
            completed = True
            return result
        finally:
            if self._begun:
                self._begun = False
                self.run.end(completed)

    def pre_run(self, _: Any) -> None:
        """A guider is about to evaluate this model. Raises HostError where nothing would be asynchronous."""
        if self.run.active:
            check_leads(self.told)

    def predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None
    ) -> Tensor:
        """One evaluation: x, σ (B,) → the denoised latent."""
        told = self.told
        told.moment = self.run.condition(x, timestep) if self._begun else None
        if told.moment is None:
            return self._ask(executor, x, timestep, model_options, seed)
        told.asked = self._reached = False
        self._batch = x.shape[0]
        try:
            denoised = self._ask(executor, x, timestep, model_options, seed)
        finally:
            told.moment = told.rows = None
        asked = self._network_was_asked() if self._looks_inside else told.asked
        self._evaluations += 1
        if asked:
            return self.run.observe(x, timestep, denoised)
        self.run.withdraw()
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

    def _ask(self, executor: Any, x: Tensor, timestep: Tensor, *args: Any) -> Tensor:
        """The denoised latent; of a run's first evaluation, what another run got, where runs share it."""
        if self.first is not None and self._begun and not self._asked:
            self._asked = True
            return self._ask_once(self.first, executor, x, timestep, *args)
        denoised: Tensor = executor(x, timestep, *args)
        return denoised

    def _ask_once(self, shared: FirstEvaluation, executor: Any, x: Tensor, timestep: Tensor, *args: Any) -> Tensor:
        """The first evaluation, which is synchronous: of several copies of the same images one stands for all."""
        copies = self.run.copies
        if copies > 1:
            self.told.moment = None
        images = len(x) // copies
        denoised, evaluated = shared.ask(executor, x[:images], timestep[:images], *args)
        self.told.asked |= not evaluated
        self._reached |= not evaluated
        return denoised if copies == 1 else denoised.repeat(copies, *[1] * (x.ndim - 1))

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
            self._looks_inside = self._reached
        return self._reached if self._looks_inside else self.told.asked
