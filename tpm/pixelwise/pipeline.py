"""Pixel-wise denoising on an unmodified diffusers pipeline: SD3 and SD3.5 with the Euler scheduler.

    with pixelwise(pipe, [mask], [0.5]):
        image = pipe("a lighthouse at dusk").images[0]

The scheduler's grid stays what it is: it is the schedule of the background. While the context is open the transformer
gets a map of timesteps and the scheduler's `step` moves every pixel along its own σ; both are put back after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import HostError
from ..hosts.dialects import SD3
from ..hosts.pipeline import grid_index, is_driven
from .maps import TextTime
from .regions import concave, from_masks
from .schedules import Curve, Pace, check_strengths, reaim, sigma_at, start
from .sd3 import PixelwiseSD3
from .updates import flow_step


@dataclass(frozen=True)
class Pixelwise:
    """How regions are slowed down. The defaults are the paper's, where it says."""

    curve: Curve = "quadratic"
    concave: bool = False  # the control: all pixels on the curve of the largest strength
    text: TextTime = "mean"  # the text stream's timestep


@contextmanager
def pixelwise(
    pipe: Any,
    masks: Sequence[Tensor],
    strengths: Sequence[float],
    options: Pixelwise | None = None,
    names: Sequence[str] | None = None,
) -> Iterator[PixelwiseRun]:
    """Run `pipe` with slowed regions inside this context, any number of times.

    masks: (H, W) or (B, H, W) in [0, 1] of any resolution, one per region; strengths: k ∈ [0, 1] of each; names: what
    messages call them. Raises HostError for a pipeline that cannot be driven, and ScheduleError and RegionError (a
    region's when the latent's size is known) for what does not fit.
    """
    run = PixelwiseRun(pipe, masks, strengths, options, names)
    run.attach()
    try:
        yield run
    finally:
        run.detach()


class PixelwiseRun:
    """A pipeline with slowed regions. Made by `pixelwise`."""

    # The run in progress, from its first call of the transformer on.
    _grid: Tensor  # (S + 1,) the scheduler's σ from where the run starts
    _pace: Pace
    _index: int  # i
    _state: Tensor  # (B, 1, H, W)
    _sigma: Tensor  # σ of the states

    def __init__(
        self,
        pipe: Any,
        masks: Sequence[Tensor],
        strengths: Sequence[float],
        options: Pixelwise | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        check_pipeline(pipe)
        check_strengths(strengths)
        self.options = options or Pixelwise()
        self.masks: Tensor | None = None  # bool (B, J, H, W) of the latest run
        self._drawn, self._strengths, self._names = masks, strengths, names
        self._scheduler, self._transformer = pipe.scheduler, pipe.transformer
        self._network = PixelwiseSD3(pipe.transformer, self.options.text)
        self._sigmas: Tensor | None = None  # the scheduler's σ of the current run; another object is another run

    def attach(self) -> None:
        """Start driving the pipeline."""
        check_free(self._scheduler, self._transformer)
        self._step = self._scheduler.step
        self._network.attach()
        self._hook = self._transformer.register_forward_pre_hook(self.before_denoiser, with_kwargs=True, prepend=True)
        self._scheduler.step = self.step

    def detach(self) -> None:
        """Put everything back."""
        self._hook.remove()
        self._network.detach()
        del self._scheduler.step

    def before_denoiser(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hand the network the map of the step in progress."""
        if self._scheduler.sigmas is not self._sigmas:
            check_free(self._scheduler, self._transformer, mine=True)
            self._begin(grid_index(self._scheduler, kwargs["timestep"]), args[0] if args else kwargs["hidden_states"])
        self._network.timesteps = SD3.scale * self._sigma
        self._network.background = SD3.scale * float(self._grid[self._index])

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's step, which keeps the count, with the sample of the per-pixel Euler step instead."""
        following = reaim(self._state, self._index, self._required_masks(), self._strengths, self._pace)
        sigma_next = sigma_at(following, self._grid)
        pair = (sigma.to(sample.device) for sigma in (self._sigma, sigma_next))
        moved = flow_step(sample.float(), model_output, *pair).to(model_output.dtype)
        result = self._step(model_output, timestep, sample, *args, **kwargs)
        self._state, self._sigma, self._index = following, sigma_next, self._index + 1
        return (moved, *result[1:]) if isinstance(result, tuple) else type(result)(prev_sample=moved)

    def _begin(self, index: int, latent: Tensor) -> None:
        """A run starts at this index of the scheduler's grid, for a latent (B, C, H, W)."""
        size, patch = (latent.shape[-2], latent.shape[-1]), self._transformer.config.patch_size
        masks = from_masks(self._drawn, self._strengths, size, patch=patch, names=self._names).cpu()
        self.masks = concave(masks, self._strengths) if self.options.concave else masks
        self._sigmas = self._scheduler.sigmas
        self._grid = self._sigmas[index:].cpu()
        self._pace = Pace(len(self._grid) - 1, self.options.curve)
        self._index = 0
        self._state = start(self.masks, self._strengths, self._pace)
        self._sigma = sigma_at(self._state, self._grid)

    def _required_masks(self) -> Tensor:
        if self.masks is None:
            raise HostError("The scheduler was stepped before the transformer was called; use the pipeline itself.")
        return self.masks


def check_pipeline(pipe: Any) -> None:
    """Raise HostError unless the scheduler is the deterministic, first-order Euler of flow models."""
    families = [family.__name__ for family in type(pipe.scheduler).__mro__]
    if "FlowMatchEulerDiscreteScheduler" not in families:
        raise HostError(
            f"Pixel-wise denoising needs a first-order sampler, since every pixel has its own σ: use"
            f" FlowMatchEulerDiscreteScheduler instead of {families[0]}."
        )
    if pipe.scheduler.config.get("stochastic_sampling", False):
        raise HostError("Pixel-wise denoising of flow models is deterministic; switch stochastic_sampling off.")


def check_free(scheduler: Any, transformer: nn.Module, mine: bool = False) -> None:
    """Raise HostError when something else decides the timesteps of this pipeline (`mine`: already attached here)."""
    if is_driven(scheduler, transformer) or (not mine and "step" in vars(scheduler)):
        raise HostError("This pipeline already runs asynchronously; leave that context first.")
