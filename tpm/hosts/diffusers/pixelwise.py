"""Pixel-wise denoising on an unmodified diffusers pipeline: SD3 and SD3.5 with Euler, SD1.x, SD2.x and SDXL with DDIM.

    with pixelwise(pipe, [mask], [0.5]):
        image = pipe("a lighthouse at dusk").images[0]

    with pixelwise(pipe, Phrases(item_tokens(pipe, prompt, ["lighthouse"])), [0.5]):
        image = pipe(prompt).images[0]

The scheduler's grid stays what it is: it is the schedule of the background. While the context is open the denoiser
gets a map of timesteps and the scheduler's `step` moves every pixel along its own; both are put back after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import HostError
from ...pixelwise.regions import concave
from ...pixelwise.schedules import Curve, Pace, reaim, start
from ...pixelwise.timestep_rows import Reading, TextTime
from ...pixelwise.together import Deviating
from ...retiming.contract import Policy
from ...retiming.equations import Value
from ...retiming.settings import Retiming
from .attention import denoiser_of, latent_of
from .dialects import prompt_of
from .regions import Regions, source_of
from .retiming import is_driven
from .schedulers import DDIMMotion, Final, FlowMotion, Motion, StepCall
from .sd3 import PixelwiseSD3
from .unet import PixelwiseUNet, is_unet


@dataclass(frozen=True)
class Pixelwise:
    """How regions are slowed down. The defaults are the paper's, where it says."""

    curve: Curve = "quadratic"
    concave: bool = False  # the control: all pixels on the curve of the largest strength
    text: TextTime = "mean"  # the text stream's timestep (SD3, SD3.5)
    reading: Reading = "corner"  # how coarser layers read the map
    final: Final = "clean"  # where the last step of DDIM ends; "paper": at ᾱ[0]


@contextmanager
def pixelwise(
    pipe: Any,
    regions: Regions,
    strengths: Sequence[float],
    options: Pixelwise | None = None,
    names: Sequence[str] | None = None,
    *,
    policy: Policy | None = None,
    retiming: Retiming | None = None,
) -> Iterator[PixelwiseRun]:
    """Run `pipe` with slowed regions inside this context, any number of times.

    regions: drawn masks (H, W) or (B, H, W) in [0, 1] of any resolution, one per region; or a bool partition
    (B, J, H, W) on the latent; or `Phrases`. strengths: k ∈ [0, 1] of each; names: what messages call them. policy:
    a deviation on top, applied to every pixel's own schedule (flow models). Raises HostError for a pipeline that cannot
    be driven, ScheduleError and RegionError (a region's when the latent's size is known) for what does not fit.
    """
    run = PixelwiseRun(pipe, regions, strengths, options, names, Deviating(policy, retiming) if policy else None)
    run.attach()
    try:
        yield run
    finally:
        run.detach()


class PixelwiseRun:
    """A pipeline with slowed regions. Made by `pixelwise`."""

    # The run in progress, from its first call of the denoiser on.
    _pace: Pace
    _index: int  # i
    _state: Tensor  # (B, 1, H, W)

    def __init__(
        self,
        pipe: Any,
        regions: Regions,
        strengths: Sequence[float],
        options: Pixelwise | None = None,
        names: Sequence[str] | None = None,
        deviating: Deviating | None = None,
    ) -> None:
        self.options = options or Pixelwise()
        self.masks: Tensor | None = None  # bool (B, J, H, W) of the latest step
        self.deviating = deviating
        self._pipe, self._scheduler, self._denoiser = pipe, pipe.scheduler, denoiser_of(pipe)
        self._motion, self._network, self._unit = driven(pipe, self.options)
        if deviating is not None and not isinstance(self._motion, FlowMotion):
            raise HostError("A policy on top of pixel-wise denoising needs a flow model (SD3, SD3.5); leave it out.")
        self._source, self._strengths = source_of(pipe, regions, strengths, names), strengths
        self._token: object = None  # of the run in progress

    def attach(self) -> None:
        """Start driving the pipeline."""
        check_free(self._scheduler, self._denoiser)
        self._step = self._scheduler.step
        self._network.attach()
        self._source.attach()
        self._hook = self._denoiser.register_forward_pre_hook(self.before_denoiser, with_kwargs=True, prepend=True)
        self._scheduler.step = self._replacement()

    def detach(self) -> None:
        """Put everything back."""
        self._hook.remove()
        self._source.detach()
        self._network.detach()
        del self._scheduler.step

    def before_denoiser(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A run begins with the first call of the denoiser; the network then has the map of each step."""
        if self._motion.token is not self._token:
            check_free(self._scheduler, self._denoiser, mine=True)
            self._begin(args, kwargs)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's step, with the sample moved pixel by pixel instead."""
        following = self._following(self._masks_now())
        if self.deviating is not None:
            model_output = self.deviating.observe(sample, model_output)
        call = StepCall(self._step, model_output, timestep, sample, (args, kwargs))
        last = self._index == self._pace.steps - 1
        result = self._motion.step(call, (self._state, following), last)
        self._state, self._index = following, self._index + 1
        if not last:
            self._tell()
        return result

    def _replacement(self) -> Callable[..., Any]:
        """`step` with the signature of the scheduler's own: pipelines look there for η and the generator."""

        @wraps(self._step)
        def step(*args: Any, **kwargs: Any) -> Any:
            return self.step(*args, **kwargs)

        return step

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A run starts with this call of the denoiser."""
        latent, timestep = latent_of(args, kwargs), args[1] if len(args) > 1 else kwargs["timestep"]
        batch = len(latent) // (2 if getattr(self._pipe, "do_classifier_free_guidance", False) else 1)
        self.masks = self._controlled(self._source.begin((latent.shape[-2], latent.shape[-1]), self._unit, batch))
        self._pace = self._motion.begin(torch.as_tensor(timestep).reshape(-1), self.options.curve)
        self._token, self._index = self._motion.token, 0
        self._state = start(self.masks, self._strengths, self._pace)
        if self.deviating is not None:
            needs = self.deviating.retimer.policy.needs_state
            self.deviating.begin(self._motion.grid, prompt_of(kwargs, batch) if needs else None)
        self._tell()

    def _tell(self) -> None:
        """Hand the network the map of the step that comes."""
        level, here = self._motion.level(self._state), float(self._motion.grid[self._index])
        background: Value = here
        if self.deviating is not None:
            level = self.deviating.condition(here, level, self._level_ahead)
            background = self.deviating.background
        self._network.timesteps = self._motion.scale * level
        self._network.background = self._motion.scale * background

    def _level_ahead(self) -> Tensor:
        """σ after the step that comes, by the regions that are known before it."""
        assert self.masks is not None
        return self._motion.level(self._following(self.masks))

    def _following(self, masks: Tensor) -> Tensor:
        return reaim(self._state, self._index, masks, self._strengths, self._pace)

    def _masks_now(self) -> Tensor:
        if self.masks is None:
            raise HostError("The scheduler was stepped before the denoiser was called; use the pipeline itself.")
        self.masks = self._controlled(self._source.now())
        return self.masks

    def _controlled(self, masks: Tensor) -> Tensor:
        return concave(masks, self._strengths) if self.options.concave else masks


def driven(pipe: Any, options: Pixelwise) -> tuple[Motion, PixelwiseSD3 | PixelwiseUNet, int]:
    """How the scheduler moves, the denoiser with its map, and how wide its patches are. HostError for others."""
    denoiser = denoiser_of(pipe)
    if is_unet(denoiser):
        return DDIMMotion(pipe.scheduler, options.final), PixelwiseUNet(denoiser, options.reading), 1
    motion = FlowMotion(pipe.scheduler)
    return motion, PixelwiseSD3(denoiser, options.text, options.reading), denoiser.config.patch_size


def check_free(scheduler: Any, denoiser: nn.Module, mine: bool = False) -> None:
    """Raise HostError when something else decides the timesteps of this pipeline (`mine`: already attached here)."""
    if is_driven(scheduler, denoiser) or (not mine and "step" in vars(scheduler)):
        raise HostError("This pipeline already runs asynchronously; leave that context first.")
