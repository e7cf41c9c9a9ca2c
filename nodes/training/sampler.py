"""A MODEL of the host with its texts and sampling settings: latents and what was decided, without pictures.

The model is patched once; from run to run only its retimer is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...tpm.errors import HostError
from ...tpm.policies import Constant, Policy, check_backbone
from ...tpm.retiming.contract import Backbone
from ...tpm.retiming.decisions import Decision
from ...tpm.retiming.equations import distinct
from ...tpm.retiming.settings import Retiming
from ...tpm.retiming.trace import Trace
from .. import fingerprints
from ..latents import parts, picture_part
from ..retiming.families import backbone_of, clock_of
from ..retiming.patch import drive
from ..retiming.shared import FirstEvaluations, can_share
from .prompt_cache import PromptCache
from .starts import Start

SYNCHRONOUS = Constant(0.0), Retiming(gamma=0.0)


@dataclass(frozen=True)
class Sampling:
    """KSampler's settings, and the size of the images in pixels."""

    cfg: float = 1.0
    sampler_name: str = "euler"
    scheduler: str = "simple"
    width: int = 512
    height: int = 512
    latent: Mapping[str, Any] | None = None  # a LATENT in place of width and height, such as an empty video


class LatestTrace:
    """A `patch.Watcher` that keeps what the latest run decided; the patched model holds it, so it holds no studio."""

    def __init__(self) -> None:
        self.trace: Trace | None = None

    @property
    def watching(self) -> bool:
        return False

    def begun(self, sigmas: tuple[float, ...]) -> None:
        pass

    def conditioned(self, step: int, decision: Decision) -> None:
        pass

    def finished(self, trace: Trace) -> None:
        self.trace = trace


class HostSampler:
    """A `LatentStudio` (`tpm.training.calibrate`) of any model that can be sampled asynchronously.

    Raises HostError for others.
    """

    def __init__(self, model: Any, texts: PromptCache, sampling: Sampling, start: Start) -> None:
        self._latest = LatestTrace()
        self._plain = model
        self._patched, self._hooks, self._run = drive(model, *SYNCHRONOUS, watcher=self._latest)
        self.backbone: Backbone = backbone_of(model)
        self.texts, self.sampling, self.start = texts, sampling, start
        self.firsts = FirstEvaluations()
        self.on_step: Callable[[int], Any] = lambda samples: None  # noqa: ARG005 - so many made a step

    @property
    def device(self) -> torch.device:
        """Where latents live while they are sampled."""
        device: torch.device = self._patched.load_device
        return device

    @property
    def saved_evaluations(self) -> int:
        """Evaluations that were not made, in samples."""
        return self.firsts.saved

    @property
    def trace(self) -> Trace | None:
        """What was decided in the latest run; None where the sampler did not walk down a grid of σ."""
        return self._latest.trace

    def describe(self) -> dict[str, object]:
        """The settings that make a latent, as JSON; of the model a hash of a few weights."""
        network, sampling = self._patched.model.diffusion_model, self.sampling
        return {
            "model": f"{type(self._patched.model).__name__} {self._weights(network)}",
            "guidance": sampling.cfg,
            **self.start.describe(sampling.width, sampling.height),
            "sampler": sampling.sampler_name,
            "scheduler": sampling.scheduler,
            "dtype": str(self._patched.model_dtype()).removeprefix("torch."),
            **self.texts.describe(),
        }

    def sigma_grid(self, steps: int) -> list[float]:
        """The σ of a run, as KSampler computes them, on the line from 1 to 0 where the model's clock has them."""
        clock = clock_of(self._patched.get_model_object("model_sampling"))
        return [float(clock.to_unit(sigma)) for sigma in distinct(self._sampler(steps).sigmas.tolist())]

    def latents(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        policy: Policy | None = None,
        retiming: Retiming | None = None,
        *,
        steps: int,
    ) -> Tensor:
        """The final latents (n, C, [T,] H, W) as the model has them, fp32 on the CPU; of video and sound the video.

        In one run where the texts allow it, else in as many as they need. A start noise depends on its seed alone.
        Raises HostError for latents that are not finite and for a sampler that walks down no grid, PolicyError for a
        policy of another family.
        """
        if policy is not None:
            check_backbone(policy, self.backbone)
        found: list[Tensor | None] = [None] * len(prompts)
        for run in self.texts.runs(prompts):
            samples = self.sampled([prompts[n] for n in run], [seeds[n] for n in run], policy, retiming, steps)
            if policy is not None and self.trace is None:
                raise HostError(NO_GRID)
            for place, latent in zip(run, self._in_model_space(samples), strict=True):
                found[place] = latent
        return torch.stack([latent for latent in found if latent is not None])

    def sampled(
        self, prompts: Sequence[str], seeds: Sequence[int], policy: Policy | None, retiming: Retiming | None, steps: int
    ) -> Any:
        """One run: what KSampler gives, a tensor or several in one. None: the synchronous sampler."""
        self._run.decide_by(*(SYNCHRONOUS if policy is None else (policy, retiming)))
        self._latest.trace = None
        self._share(tuple(prompts), tuple(seeds))
        after_step = partial(self._after_step, len(seeds))
        with torch.inference_mode():
            return comfy.sample.sample(
                self._patched, self.start.noise(seeds), steps, self.sampling.cfg, self.sampling.sampler_name,
                self.sampling.scheduler, self.texts.joined(prompts), self.texts.negative,
                self.start.latents(len(prompts)), noise_mask=self.start.mask, callback=after_step,
                disable_pbar=True, seed=seeds[0],
            )  # fmt: skip

    # --- inside ---------------------------------------------------------------------------------------------------

    def _after_step(self, samples: int, step: int, denoised: Any, *_: Any) -> None:
        """Hear the stop button, and refuse a model that gives NaN after the first step, not after the last."""
        _stop_if_asked()
        if step == 0:
            for part in parts(denoised):
                finite(part)
        self.on_step(samples)

    def _in_model_space(self, samples: Any) -> Tensor:
        inside = self._patched.get_model_object("latent_format").process_in(picture_part(samples))
        with torch.inference_mode(False):
            return finite(inside.detach().float().cpu().clone())

    def _share(self, prompts: tuple[str, ...], seeds: tuple[int, ...]) -> None:
        """Runs that follow each other from the same start evaluate their first step once, where nothing wants it."""
        sharing = can_share(self._plain, [self.texts.joined(prompts), self.texts.negative])
        merges = len(set(prompts)) == 1 and self.start.mask is None
        self._hooks.first = self.firsts.of((prompts, seeds), merges) if sharing else None

    def _sampler(self, steps: int) -> Any:
        model, sampling = self._patched, self.sampling
        options = {"sampler": sampling.sampler_name, "scheduler": sampling.scheduler, "denoise": 1.0}
        return comfy.samplers.KSampler(model, steps, model.load_device, model_options=model.model_options, **options)

    def _weights(self, network: torch.nn.Module) -> str:
        return fingerprints.of_module(network, self._patched.patches, "diffusion_model.")


def finite(values: Tensor) -> Tensor:
    """The values, if they are finite numbers. Raises HostError."""
    if not torch.isfinite(values).all():
        raise HostError(
            "The model gave images that are not finite numbers; use bf16 or fp32 weights, another sampler, or a smaller"
            " cfg or bound."
        )
    return values


NO_GRID = "This sampler did not walk down a grid of noise levels; choose euler or another ordinary sampler."


def _stop_if_asked(*_: Any) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()
