"""Asynchronous conditioning on a ComfyUI model: the twin of `tpm.hosts.diffusers.retiming`.

Hooks, and no logic of its own (the `Retimer` has it):

- OUTER_SAMPLE: a run starts; read the grid and the prompt, forget the previous run.
- PREDICT_NOISE: one evaluation after guidance and every post-CFG function; ask for t*, show (x, σ, v).
- `process_timestep`: put t* where the model's own timestep was. The network sees it and nothing else does: previews,
  ControlNet, other patches and the sampler keep the true σ.
- DIFFUSION_MODEL, only beside another pack's hook there: see whether a cache answers in the network's place.

The host never waits for the device: where σ is on one, the steps are found there (`on_device`). Where γ is 0 and nobody
looks on, an evaluation is left alone.

The patched model holds these hooks, so they hold no model: one that is replaced is freed at once.
"""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
from comfy.patcher_extension import WrappersMP
from torch import Tensor, where

from ...tpm.errors import GridError, HostError
from ...tpm.policies import Policy, TextCondition, check_backbone
from ...tpm.retiming.equations import Value, distinct
from ...tpm.retiming.foretold import ForetoldRun
from ...tpm.retiming.on_device import DeviceRun, fits
from ...tpm.retiming.retimer import Retimer
from ...tpm.retiming.settings import Retiming
from ..weak import weakly
from .reports import Reports, Watcher
from .shared import FirstEvaluation

KEY = "asyncdiff"
PIXELWISE = "asyncdiff_pixelwise"
"""Under which transformer_options hold a model's regions (`pixelwise.model`)."""
_BACKBONES = {"SD3": "sd3", "Flux": "flux"}


def attach(
    model: Any,
    policy: Policy,
    retiming: Retiming | None = None,
    watcher: Watcher | None = None,
    first: FirstEvaluation | None = None,
) -> Any:
    """A clone of MODEL that samples asynchronously, with any sampler, scheduler and guider; the original is untouched.

    first: shared with other runs from the same noise, which then evaluate their first step once (see `can_share`).

    Raises HostError for a model that is not flow matching or is asynchronous already, PolicyError for a policy of
    another model family.
    """
    patched, run = drive(model, policy, retiming, watcher)
    run.first = first
    check_backbone(policy, backbone_of(model))
    return patched


def drive(
    model: Any, policy: Policy, retiming: Retiming | None = None, watcher: Watcher | None = None
) -> tuple[Any, HostRun]:
    """As `attach`, with what drives the clone: its `retimer` may be replaced from run to run."""
    _check_model(model)
    patched = model.clone()
    run = HostRun(patched, policy, retiming, watcher)
    patched.add_object_patch("process_timestep", run.process_timestep)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, run.outer_sample)
    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, run.predict_noise)
    return patched, run


def waits_for(tensor: Tensor) -> bool:
    """Whether the host would wait to read this tensor."""
    return tensor.device.type != "cpu"


def backbone_of(model: Any) -> str:
    """The policy's word for the family of MODEL: sd3, flux, or for any other the host's own name of it."""
    name = type(model.model).__name__
    return _BACKBONES.get(name, name)


class HostRun:
    """One patched model under way. Node outputs are cached, so it serves many runs, one after the other."""

    def __init__(self, patched: Any, policy: Policy, retiming: Retiming | None, watcher: Watcher | None) -> None:
        self.retimer = Retimer(policy, retiming)
        self._reports = Reports(watcher)
        self._next_process = weakly(patched.get_model_object("process_timestep"))
        self._sampling: Any = None  # the model sampling of the run, with all patches applied
        self._course: DeviceRun | ForetoldRun | None = None  # finds the steps of the run; None: the retimer does
        self._sigma: Value | None = None  # σ of the evaluation in progress; None outside of one
        self._t_star: Value = 0.0
        self.first: FirstEvaluation | None = None
        self._evaluations = 0
        self._asked = False  # whether anything was evaluated in this run
        self._looks_inside = False  # whether `network` is in place in this run
        self._told = False  # whether there was a timestep in this evaluation
        self._reached = False  # whether `network` was called in it

    def outer_sample(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """A run of the guider from the first σ to the last."""
        if not self._begin(executor.class_obj, sigmas):
            return executor(noise, latent, sampler, sigmas, *args, **kwargs)
        self._look_inside(executor.class_obj.model_options)
        completed = False
        try:
            result = executor(noise, latent, sampler, sigmas, *args, **kwargs)
            completed = True
            return result
        finally:
            self._end(completed)

    def predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None
    ) -> Tensor:
        """One evaluation: x, σ (B,) → the denoised latent, with the velocity scaled where ω is not 1."""
        if not self._condition(executor.class_obj, x, timestep):
            return self._ask(executor, x, timestep, model_options, seed)
        self._told = self._reached = False
        try:
            denoised = self._ask(executor, x, timestep, model_options, seed)
        finally:
            sigma, self._sigma = self._sigma, None
        asked = self._network_was_asked()
        self._evaluations += 1
        if asked:
            self._report()
            return self._observe(x, sigma, denoised)
        (self._course or self.retimer).withdraw()
        return denoised

    def process_timestep(self, timestep: Tensor, **kwargs: Any) -> Tensor:
        """The timestep (n,) that the network receives: n is the batch once for each conditioning in the call."""
        if self._sigma is not None:
            self._told = True
            timestep = self._retimed(timestep, self._sigma, self._t_star)
        return self._next_process()(timestep, **kwargs)

    def network(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """The network is asked: no cache around it has answered."""
        self._reached = True
        return executor(*args, **kwargs)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _begin(self, guider: Any, sigmas: Tensor) -> bool:
        """Start the retimer; False where there is nothing to retime. The grid is copied to the host, once a run."""
        self._evaluations, self._course, self._asked = 0, None, False
        self.retimer.end()
        points = distinct(sigmas.tolist())
        if len(points) < 2:
            return False
        try:
            self.retimer.begin(points, self._text(guider))
        except GridError:
            if self.retimer.active:
                raise
            return False
        self._reports.begin(self.retimer.grid)
        return True

    def _end(self, completed: bool) -> None:
        """The run is over. What a device knows of it is read here."""
        if isinstance(self._course, DeviceRun):
            self._reports.arrived(self._course, wait=True)
        if self._course:
            self._course.settle()
        elif self._unwatched():
            steps = len(self.retimer.grid) - 1
            self.retimer.pass_steps(steps if completed else min(self._evaluations, steps))
        trace, self._course, self._sampling = self.retimer.trace, None, None
        self.retimer.end()
        self._reports.finish(trace)

    def _unwatched(self) -> bool:
        """Whether nothing is to be changed and nobody looks on: then an evaluation is left alone."""
        return not self.retimer.active and not self._reports.wanted

    def _condition(self, guider: Any, x: Tensor, timestep: Tensor) -> bool:
        """Ask for t*; False where this evaluation is none to retime."""
        if not self.retimer.grid:
            return False
        if self._unwatched():
            self._evaluations += 1
            return False
        if not self._evaluations:
            self._sampling = guider.inner_model.model_sampling
            self._course = self._course or self._course_for(x, timestep)
        if isinstance(self._course, DeviceRun):
            self._sigma = timestep.flatten()[0]
            self._t_star = self._course.condition(self._sigma)
            return True
        sigma = float(timestep.flatten()[0])
        if sigma <= 0:  # a finished frame on its way into a video model's memory
            return False
        self._sigma, self._t_star = sigma, (self._course or self.retimer).condition(sigma)
        return True

    def _ask(self, executor: Any, x: Tensor, timestep: Tensor, *args: Any) -> Tensor:
        """The denoised latent; of a run's first evaluation, what another run got, where runs share it."""
        shared = self.first if self.retimer.grid and not self._asked else None
        self._asked = True
        known = shared.recall(x, timestep) if shared else None
        if known is not None:
            self._told = self._reached = True
            return known
        denoised: Tensor = executor(x, timestep, *args)
        if shared:
            shared.keep(x, timestep, denoised)
        return denoised

    def _course_for(self, x: Tensor, timestep: Tensor) -> DeviceRun | ForetoldRun | None:
        """What finds the steps of this run; None for the retimer itself, which reads σ of every evaluation."""
        if waits_for(timestep) and fits(self.retimer):
            return DeviceRun(self.retimer, x)
        return None if self.retimer.policy.needs_state else ForetoldRun(self.retimer)

    def _observe(self, x: Tensor, sigma: Value | None, denoised: Tensor) -> Tensor:
        """Show an evaluation to the retimer; returns the denoised latent to go on with."""
        if self._course:
            return self._course.observe(x, denoised)
        assert isinstance(sigma, float)
        velocity = (x - denoised) / sigma
        scaled = self.retimer.observe(x, sigma, velocity)
        return denoised if scaled is velocity else x - sigma * scaled

    def _look_inside(self, model_options: dict[str, Any]) -> None:
        """Put `network` inside of what other packs have around the network for this run (EasyCache), if they have."""
        wrappers = model_options.get("transformer_options", {}).get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {})
        wrappers.pop(KEY, None)
        self._looks_inside = any(wrappers.values())
        if self._looks_inside:
            wrappers[KEY] = [self.network]

    def _network_was_asked(self) -> bool:
        """In the evaluation that is over. The first one, which no cache answers, shows whether `network` is called."""
        if not self._evaluations:
            self._looks_inside &= self._reached
        return self._reached if self._looks_inside else self._told

    def _text(self, guider: Any) -> TextCondition | None:
        """The prompt of the conditional branch; only the first where several are combined."""
        if not self.retimer.policy.needs_state:
            return None
        positive = guider.conds.get("positive") or next(iter(guider.conds.values()), None)
        if not positive:
            return None
        return TextCondition(positive[0].get("cross_attn"), positive[0].get("pooled_output"))

    def _report(self) -> None:
        """Tell the watcher what was decided for a step, once a step."""
        if not self._reports.wanted:
            return
        if isinstance(self._course, DeviceRun):
            self._reports.post(self._course)
        else:
            known = self._course or self.retimer
            self._reports.tell(known.step, known.decision)

    def _retimed(self, timestep: Tensor, sigma: Value, t_star: Value) -> Tensor:
        """`timestep` in the model's own units with t* in place of σ; untouched, to the bit, wherever t* is σ."""
        if not isinstance(t_star, Tensor):
            if t_star == sigma:
                return timestep
            return self._to_model_units(timestep.new_full(timestep.shape, t_star))
        t_star = t_star.to(timestep).repeat(len(timestep) // len(t_star))
        sigma = sigma.to(timestep) if isinstance(sigma, Tensor) else sigma
        return where(t_star == sigma, timestep, self._to_model_units(t_star))

    def _to_model_units(self, t_star: Tensor) -> Tensor:
        """As ComfyUI makes its own timestep of σ: σ·1000 for SD3, σ for Flux, in fp32."""
        return self._sampling.timestep(t_star).float()


def _check_model(model: Any) -> None:
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.CONST):
        raise HostError(
            f"{type(model.model).__name__} is not a flow-matching model; asynchronous timesteps are for SD3, SD3.5,"
            " Flux and other flow-matching models."
        )
    if model.get_wrappers(WrappersMP.PREDICT_NOISE, KEY):
        raise HostError(
            "This model is asynchronous already: use either Apply Asynchronous Timesteps or Asynchronous KSampler,"
            " and only one of them."
        )
    if PIXELWISE in model.model_options.get("transformer_options", {}):
        raise HostError(
            "This model is pixel-wise. To have both, connect the policy to Apply Pixel-wise Asynchronous Denoising"
            " itself."
        )
