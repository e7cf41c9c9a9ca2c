"""Pixel-wise denoising on an unmodified diffusers pipeline: SD3 and SD3.5 with Euler, SD1.x, SD2.x and SDXL with DDIM.

    with pixelwise(pipe, [mask], [0.5]):
        image = pipe("a lighthouse at dusk").images[0]

    with pixelwise(pipe, Phrases.of(pipe, prompt, ["lighthouse"]), [0.5]):
        image = pipe(prompt).images[0]

The scheduler's grid stays what it is: it is the schedule of the background. While the context is open the denoiser
gets a map of timesteps and the scheduler's `step` moves every pixel along its own; both are put back after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import HostError
from ...pixelwise.run import Deviating, PixelwiseRun, control, scaled
from ...pixelwise.schedules import SlowCurve
from ...pixelwise.timestep_rows import Reading, TextTime
from ...retiming.contract import Policy, TextCondition, check_backbone
from ...retiming.settings import Retiming
from .attention import denoiser_of, latent_of
from .dialects import conditional
from .flow import SD3
from .hooks import Attachments, check_uncompiled, in_place_of
from .regions import RegionSpec, watched_regions
from .retiming import is_driven
from .schedulers import DDIMMotion, Final, FlowMotion, Motion, StepCall
from .sd3 import SD3Timesteps
from .unet import UNetTimesteps, is_unet


@dataclass(frozen=True)
class Pixelwise:
    """How regions are slowed down. The defaults are the paper's, where it says."""

    curve: SlowCurve = "quadratic"
    concave: bool = False  # the control: all pixels on the curve of the largest strength
    text: TextTime = "mean"  # the text stream's timestep (SD3, SD3.5)
    reading: Reading = "corner"  # how coarser layers read the map
    final: Final = "clean"  # where the last step of DDIM ends; "paper": at ᾱ[0]


@contextmanager
def pixelwise(
    pipe: Any,
    regions: RegionSpec,
    strengths: Sequence[float],
    options: Pixelwise | None = None,
    names: Sequence[str] | None = None,
    *,
    policy: Policy | None = None,
    retiming: Retiming | None = None,
) -> Iterator[PixelwisePipeline]:
    """Run `pipe` with slowed regions inside this context, any number of times.

    regions: drawn masks (H, W) or (B, H, W) in [0, 1] of any resolution, one per region; or a bool partition
    (B, J, H, W) on the latent; or `Phrases`. strengths: k ∈ [0, 1] of each; names: what messages call them. policy:
    a deviation on top, applied to every pixel's own schedule (flow models). Raises HostError for a pipeline that cannot
    be driven, ScheduleError and RegionError (a region's when the latent's size is known) for what does not fit.
    """
    driven = PixelwisePipeline(pipe, regions, strengths, options, names, deviating_on(policy, retiming))
    driven.attach()
    try:
        yield driven
    finally:
        driven.detach()


def deviating_on(policy: Policy | None, retiming: Retiming | None) -> Deviating | None:
    """A policy on top of the pixel-wise run of a pipeline. PolicyError for another backbone's."""
    if policy is None:
        return None
    check_backbone(policy, SD3.backbone)
    return Deviating(policy, retiming)


class PixelwisePipeline:
    """A pipeline whose runs are pixel-wise. Made by `pixelwise`.

    Every `set_timesteps` of the scheduler begins another run, and so does a call of the denoiser after the last step.
    """

    def __init__(
        self,
        pipe: Any,
        regions: RegionSpec,
        strengths: Sequence[float],
        options: Pixelwise | None = None,
        names: Sequence[str] | None = None,
        deviating: Deviating | None = None,
    ) -> None:
        self.options = options or Pixelwise()
        self.deviating = deviating
        self._pipe, self._scheduler, self._denoiser = pipe, pipe.scheduler, denoiser_of(pipe)
        self._motion, self._network, self._unit = driven(pipe, self.options)
        if deviating is not None and not isinstance(self._motion, FlowMotion):
            raise HostError("A policy on top of pixel-wise denoising needs a flow model (SD3, SD3.5); leave it out.")
        self._source, self._strengths = watched_regions(pipe, regions, strengths, names), strengths
        self._run: PixelwiseRun | None = None  # the run in progress, from its first call of the denoiser on
        self._token: object = None  # what tells its scheduler's grid from another run's
        self._prompts: TextCondition | None = None  # what a run's first call was given, until its first step
        self._attached = Attachments()

    @property
    def masks(self) -> Tensor | None:
        """The regions of the latest step, bool (B, J, H, W); None before the first run."""
        return None if self._run is None else self._run.masks

    def attach(self) -> None:
        """Start driving the pipeline."""
        check_free(self._scheduler, self._denoiser)
        self._network.attach()
        self._source.attach()
        hook = self._denoiser.register_forward_pre_hook(self.before_denoiser, with_kwargs=True, prepend=True)
        self._attached.add(hook)
        self._attached.replace(self._scheduler, "step", in_place_of(self._scheduler.step, self.step))

    def detach(self) -> None:
        """Put everything back."""
        self._attached.detach()
        self._source.detach()
        self._network.detach()

    def before_denoiser(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A run begins with its first call of the denoiser; the network then has the map of each step."""
        self._check_parts()
        if self._run is None or self._run.over or self._motion.token is not self._token:
            check_free(self._scheduler, self._denoiser, mine=True)
            self._begin(args, kwargs)

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
        """The scheduler's step, with the sample moved pixel by pixel instead."""
        self._check_parts()
        run = self._run
        if run is None or run.over:
            raise HostError("The scheduler was stepped before the denoiser was called; use the pipeline itself.")
        self._source.expect(len(sample))
        self._read_prompts(len(sample))
        move = run.observe(sample, lambda: model_output)
        call = StepCall(stock, scaled(model_output, move.omega), timestep, sample, (args, kwargs))
        result = self._motion.step(call, move)
        if not run.over:
            self._tell(run)
        return result

    def _check_parts(self) -> None:
        """Raise HostError where the pipeline got another scheduler or denoiser since the context was opened."""
        if self._pipe.scheduler is not self._scheduler or denoiser_of(self._pipe) is not self._denoiser:
            raise HostError(
                "The pipeline got another scheduler or denoiser inside this context; set it before the context opens."
            )

    def _read_prompts(self, batch: int) -> None:
        """Give the policy the prompt: how many of the call's rows are it, is known with the first step's batch."""
        if self.deviating is not None and self._prompts is not None:
            prompts, self._prompts = self._prompts, None
            self.deviating.retimer.read_prompt(conditional(prompts, batch))

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A run starts with this call of the denoiser."""
        latent, timestep = latent_of(args, kwargs), args[1] if len(args) > 1 else kwargs["timestep"]
        source = self._source.begin((latent.shape[-2], latent.shape[-1]), self._unit)
        if self.options.concave:
            source = control(source, self._strengths)
        levels = self._motion.begin(torch.as_tensor(timestep).reshape(-1), self.options.curve)
        if self.deviating is not None:
            needs = self.deviating.retimer.policy.needs_state
            self.deviating.begin(levels.grid, None)
            self._prompts = (
                TextCondition(kwargs.get("encoder_hidden_states"), kwargs.get("pooled_projections")) if needs else None
            )
        self._token = self._motion.token
        self._run = PixelwiseRun(levels, source, self._strengths, self.deviating)
        self._tell(self._run)

    def _tell(self, run: PixelwiseRun) -> None:
        """Hand the network the map of the step that comes."""
        told = run.condition()
        self._network.timesteps = self._motion.scale * told.told
        self._network.background = self._motion.scale * told.background


def driven(pipe: Any, options: Pixelwise) -> tuple[Motion, SD3Timesteps | UNetTimesteps, int]:
    """How the scheduler moves, the denoiser with its map, and how wide its patches are. HostError for others."""
    denoiser = denoiser_of(pipe)
    if is_unet(denoiser):
        return DDIMMotion(pipe.scheduler, options.final), UNetTimesteps(denoiser, options.reading), 1
    motion = FlowMotion(pipe.scheduler)
    return motion, SD3Timesteps(denoiser, options.text, options.reading), denoiser.config.patch_size


def check_free(scheduler: Any, denoiser: nn.Module, mine: bool = False) -> None:
    """Raise HostError when something else decides the timesteps of this pipeline (`mine`: already attached here)."""
    if is_driven(scheduler, denoiser) or (not mine and "step" in vars(scheduler)):
        raise HostError("This pipeline already runs asynchronously; leave that context first.")
    check_uncompiled(denoiser)
