"""A diffusers pipeline as a `Studio`: prompts, seeds and a policy in, images and a trace out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ...errors import HostError
from ...policies.network import TPMConfig
from ...retiming.contract import Backbone, Policy
from ...retiming.settings import Retiming
from ...retiming.solvers import EULER, Solver
from ...retiming.trace import Trace
from ..folders import check_text_alone
from .families import dialect_of
from .first import FirstEvaluation
from .loading import load_pipeline
from .retiming import asynchronous
from .schedulers import solver_of
from .text_to_image import BY_BACKBONE, Grid, Size

Progress = Callable[[int, int], None]  # (evaluations done, evaluations in all)


@dataclass(frozen=True)
class Rendering:
    """What one run gave."""

    images: Tensor  # (n, 3, H, W) in [0, 1], fp32, CPU
    trace: Trace | None  # None for an untouched run
    seconds: float  # wall-clock of the whole call, prompt encoding and decoding included


class DiffusersStudio:
    """Renders with one pipeline. The pipeline itself is `pipe` and stays usable."""

    def __init__(self, pipe: Any, folder: Path | None = None) -> None:
        self.pipe, self.folder = pipe, folder
        dialect = dialect_of(pipe)
        self.backbone: Backbone = dialect.backbone
        self._part, self._call = dialect.part, BY_BACKBONE[dialect.backbone](pipe)

    @classmethod
    def load(
        cls,
        model: str | Path,
        dtype: str | torch.dtype | None = None,
        device: str | None = None,
        solver: Solver = EULER,
    ) -> DiffusersStudio:
        """From a pipeline folder or a hub id. Raises HostError with what to do for all that cannot be loaded.

        dtype: fp32 on a CPU, else bf16, by default. device: the best one there is, by default.
        solver: who makes the steps (see `solvers`); euler leaves the own scheduler of a flow pipeline.
        """
        pipe, folder = load_pipeline(model, dtype, device)
        studio = cls(pipe, folder)
        studio.check_text_alone()
        pipe.scheduler = studio._call.scheduler(solver)
        return studio

    def with_solver(self, solver: Solver) -> DiffusersStudio:
        """A studio whose steps another solver makes; it shares with this one all parts that have weights."""
        pipe = copy(self.pipe)
        pipe.scheduler = self._call.scheduler(solver)
        return DiffusersStudio(pipe, self.folder)

    def check_text_alone(self) -> None:
        """Raise HostError where the pipeline needs more than a text, such as a picture."""
        check_text_alone(*(kind.__name__ for kind in type(self.pipe).__mro__))

    @property
    def solver(self) -> str:
        """Who makes the steps, in ComfyUI's word."""
        return solver_of(self.pipe.scheduler)

    @property
    def denoiser(self) -> Any:
        """The transformer or UNet."""
        return getattr(self.pipe, self._part)

    def tpm_config(self, **size: int) -> TPMConfig:
        """The configuration of a TPM that reads this pipeline; `size` overrides the paper's (width, layers, …)."""
        return TPMConfig(self.backbone, *self._call.widths(), **size)

    def sigma_grid(self, steps: int, grid: Grid = "simple", size: Size | None = None) -> list[float]:
        """The K + 1 points of a run, before anything is sampled: σ of a flow model, else see `noise`.

        `size` matters where the shift depends on it.
        """
        check_steps(steps, grid)
        return self._call.levels(steps, grid, size)

    def render(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        policy: Policy | None = None,
        retiming: Retiming | None = None,
        *,
        steps: int,
        guidance: float | None = None,
        size: Size | None = None,
        negative: str = "",
        grid: Grid = "simple",
        progress: Progress | None = None,
        decode: bool = True,
        first: FirstEvaluation | None = None,
    ) -> Rendering:
        """One image for each (prompt, seed) pair, in one batch. No policy: the untouched pipeline.

        decode: False leaves the images as the pipeline's latents, in its packed form where it has one.

        The noise of an image depends on its seed alone, not on the batch or the device. size: (width, height), pixels.
        first: shared by the runs of an unchanged pipeline, whose equal first evaluations are then made once.
        Raises HostError for arguments out of range, for a pipeline that needs more than a text, when memory runs out,
        and when the images are not finite.
        """
        self.check_text_alone()
        check_steps(steps, grid)
        check_pairs(prompts, seeds)
        call = {
            "prompt": list(prompts),
            "num_inference_steps": steps,
            self._call.argument: self._call.guidance if guidance is None else guidance,
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            "output_type": "pt" if decode else "latent",
            "callback_on_step_end": step_reporter(self.pipe, progress),
            **self._size(size),
            **self._call.text(negative, len(prompts)),
            **self._call.grid(steps, grid),
        }
        pairs = list(zip(prompts, seeds, strict=True))
        shared = (first, [pairs.index(pair) for pair in pairs]) if first else None
        started = time.perf_counter()
        with memory_errors_as_sentences(len(prompts)):
            images, trace = self._run(call, policy, retiming, shared)
        return Rendering(images, trace, time.perf_counter() - started)

    def _run(
        self,
        call: dict[str, Any],
        policy: Policy | None,
        retiming: Retiming | None,
        shared: tuple[FirstEvaluation, Sequence[int]] | None = None,
    ) -> tuple[Tensor, Trace | None]:
        """One call of the pipeline; images on the CPU, and the trace where a policy decided."""
        if policy is None:
            return finite_images(self.pipe(**call).images), None
        with asynchronous(self.pipe, policy, retiming) as run:
            run.shared = shared
            images = finite_images(self.pipe(**call).images)
        return images, run.trace

    def as_map(self, latents: Tensor, size: Size | None) -> Tensor:
        """A pipeline's latents as (n, C, H, W), whatever form it gives them."""
        return self._call.as_map(latents, size)

    def _size(self, size: Size | None) -> dict[str, int]:
        """Width and height for the pipeline; the latent must hold whole patches."""
        if size is None:
            return {}
        unit = self._call.unit
        if any(side < unit or side % unit for side in size):
            raise HostError(f"An image of {size[0]} × {size[1]} is not possible; sides must be multiples of {unit}.")
        return {"width": size[0], "height": size[1]}


@dataclass(frozen=True)
class ConfiguredStudio:
    """A studio with its sampling settings: what `training` asks for."""

    studio: DiffusersStudio
    guidance: float
    size: Size | None = None
    negative: str = ""
    grid: Grid = "simple"
    name: str = ""
    first: FirstEvaluation = field(default_factory=FirstEvaluation, compare=False, repr=False)
    """Shared by all runs: the pipeline does not change while a studio with settings is in use."""

    @property
    def backbone(self) -> Backbone:
        """The model family."""
        return self.studio.backbone

    @property
    def device(self) -> torch.device:
        """Where latents live."""
        return torch.device(self.studio.pipe.device)

    @property
    def saved_evaluations(self) -> int:
        return self.first.saved

    def describe(self) -> dict[str, object]:
        """The settings that make a picture, as JSON. Euler is not named, as in the files of earlier releases."""
        settings: dict[str, object] = self._settings
        settings |= {} if self.studio.solver == EULER else {"solver": self.studio.solver}
        return {"model": self.name, **settings, "dtype": str(self.studio.denoiser.dtype).removeprefix("torch.")}

    def with_solver(self, solver: Solver) -> ConfiguredStudio:
        """The same settings with another solver. First evaluations are shared: every solver begins alike."""
        return replace(self, studio=self.studio.with_solver(solver))

    @property
    def _settings(self) -> dict[str, Any]:
        """What every call of the pipeline is given."""
        return {"guidance": self.guidance, "size": self.size, "negative": self.negative, "grid": self.grid}

    def tpm_config(self, **size: int) -> TPMConfig:
        return self.studio.tpm_config(**size)

    def sigma_grid(self, steps: int) -> list[float]:
        return self.studio.sigma_grid(steps, self.grid, self.size)

    def render(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        policy: Policy | None = None,
        retiming: Retiming | None = None,
        *,
        steps: int,
    ) -> Rendering:
        return self.studio.render(prompts, seeds, policy, retiming, steps=steps, first=self.first, **self._settings)

    def latents(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        policy: Policy | None = None,
        retiming: Retiming | None = None,
        *,
        steps: int,
    ) -> Tensor:
        """The final latents (n, C, H, W), fp32 on the CPU; nothing is decoded. See `DiffusersStudio.render`."""
        made = self.studio.render(prompts, seeds, policy, retiming, steps=steps, decode=False, **self._settings)
        return self.studio.as_map(made.images, self.size)


def finite_images(images: Tensor) -> Tensor:
    """Images (n, 3, H, W) as fp32 on the CPU; a HostError when they hold NaN."""
    images = images.float().cpu()
    if not torch.isfinite(images).all():
        raise HostError(
            "The pipeline gave images that are not finite numbers; use bfloat16 or float32, a smaller"
            " guidance, or a smaller gamma."
        )
    return images


@contextmanager
def memory_errors_as_sentences(images: int) -> Iterator[None]:
    """Turn the several ways of running out of memory into a HostError."""
    try:
        yield
    except (MemoryError, RuntimeError) as cause:
        out = isinstance(cause, MemoryError | torch.cuda.OutOfMemoryError) or "allocate memory" in str(cause)
        if not out:
            raise
        raise HostError(
            f"There is not enough memory for {images} image(s) at once; render fewer, smaller, or in bfloat16."
        ) from cause


def check_steps(steps: int, grid: str) -> None:
    """Raise HostError unless the grid can be made."""
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 1000:
        raise HostError(f"steps must be a whole number from 1 to 1000, got {steps!r}.")
    if grid not in get_args(Grid):
        raise HostError(f"The grid {grid!r} is unknown; use {' or '.join(get_args(Grid))}.")


def check_pairs(prompts: Sequence[str], seeds: Sequence[int]) -> None:
    """Raise HostError unless there is one seed per prompt, each one a generator can take."""
    if not prompts or len(prompts) != len(seeds):
        raise HostError(f"There must be one seed for each prompt, got {len(prompts)} prompts and {len(seeds)} seeds.")
    if any(not 0 <= seed < 2**64 for seed in seeds):
        raise HostError(f"Seeds must be whole numbers from 0 to 2^64 − 1, got {list(seeds)}.")


def step_reporter(pipe: Any, progress: Progress | None) -> Callable[..., dict[str, Any]] | None:
    """The pipeline's step callback that calls `progress`."""
    if progress is None:
        return None

    def report(_pipe: Any, index: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        progress(index + 1, pipe.num_timesteps)
        return {}

    return report
