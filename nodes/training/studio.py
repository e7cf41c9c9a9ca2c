"""ComfyUI as a studio of training and search: MODEL, texts, sampler and VAE → images and what was decided.

The twin of `tpm.hosts.studio`. The model is patched once; from run to run only its retimer is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...tpm.errors import HostError
from ...tpm.policies import Constant, Policy, check_backbone
from ...tpm.policies.network import TPMConfig
from ...tpm.retiming.contract import Backbone
from ...tpm.retiming.decisions import Decision
from ...tpm.retiming.equations import distinct
from ...tpm.retiming.settings import Retiming
from ...tpm.retiming.trace import Trace
from ...tpm.training.grpo.rollout import Recorder
from .. import fingerprints
from ..retiming.families import backbone_of, clock_of
from ..retiming.patch import drive
from ..retiming.shared import FirstEvaluation, can_share
from .prompt_cache import PromptCache
from .starts import Start, stills

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


@dataclass(frozen=True)
class Rendering:
    """Images (n, 3, H, W) in [0, 1], fp32 on the CPU, and what was decided; None where no policy was asked.

    Of videos three frames (n, 3, 3, H, W): the first, the middle and the last; fewer of shorter ones.
    """

    images: Tensor
    trace: Trace | None


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


class HostStudio:
    """A `tpm.training.studio.Studio` of any model that can be sampled asynchronously, and whose latents have pictures.

    Raises HostError for others.
    """

    def __init__(self, model: Any, vae: Any, texts: PromptCache, sampling: Sampling) -> None:
        self._latest = LatestTrace()
        self._plain = model
        self._patched, self._run = drive(model, *SYNCHRONOUS, watcher=self._latest)
        self.backbone: Backbone = backbone_of(model)
        self.texts, self.sampling, self._vae = texts, sampling, vae
        self._start = Start(self._patched, vae, sampling.width, sampling.height, sampling.latent)
        self._started: tuple[Any, ...] = ()  # what the latest run began with

    @property
    def device(self) -> torch.device:
        """Where latents live while they are sampled."""
        device: torch.device = self._patched.load_device
        return device

    def describe(self) -> dict[str, object]:
        """The settings that make a picture, as JSON; of model and VAE a hash of a few weights."""
        network, sampling = self._patched.model.diffusion_model, self.sampling
        return {
            "model": f"{type(self._patched.model).__name__} {self._weights(network)}",
            "vae": fingerprints.of_module(self._vae.first_stage_model),
            "guidance": sampling.cfg,
            **self._start.describe(sampling.width, sampling.height),
            "sampler": sampling.sampler_name,
            "scheduler": sampling.scheduler,
            "dtype": str(self._patched.model_dtype()).removeprefix("torch."),
            **self.texts.describe(),
        }

    def tpm_config(self, **size: int) -> TPMConfig:
        """The configuration of a TPM for this model and these texts; `size` overrides the paper's.

        Raises HostError for latents of several parts.
        """
        if not self._start.whole:
            raise HostError(
                "A TPM cannot be trained on latents of video and sound in one; use Search Policy, which makes a curve"
                " for them."
            )
        context, pooled = self.texts.widths()
        return TPMConfig(self.backbone, self._start.channels, context, pooled, **size)

    def sigma_grid(self, steps: int) -> list[float]:
        """The σ of a run, as KSampler computes them, on the line from 1 to 0 where the model's clock has them."""
        clock = clock_of(self._patched.get_model_object("model_sampling"))
        return [float(clock.to_unit(sigma)) for sigma in distinct(self._sampler(steps).sigmas.tolist())]

    def render(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        policy: Policy | None = None,
        retiming: Retiming | None = None,
        *,
        steps: int,
    ) -> Rendering:
        """One image for each (prompt, seed): in one run where their texts allow it, else in as many as they need.

        An image's start noise depends on its seed alone. Raises HostError for images that are not finite,
        PolicyError for a policy of another family.
        """
        if policy is not None:
            check_backbone(policy, self.backbone)
        places, images, traces = [], [], []
        runs = self.texts.runs(prompts)
        if len(runs) > 1 and isinstance(policy, Recorder):
            raise HostError(
                "The texts of these prompts differ in length or kind and cannot be sampled in one run; set"
                " prompts_per_iteration to 1."
            )
        for run in runs:
            self._run.decide_by(*(SYNCHRONOUS if policy is None else (policy, retiming)))
            images.append(self._sample([prompts[n] for n in run], [seeds[n] for n in run], steps))
            traces.append(self._latest.trace)
            places += run
        order = sorted(range(len(places)), key=places.__getitem__)
        with torch.inference_mode(False):
            return Rendering(torch.cat(images)[order], None if policy is None else _joined(traces, images, order))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _sample(self, prompts: Sequence[str], seeds: Sequence[int], steps: int) -> Tensor:
        """One run: images as in `Rendering`, which outlive the host's inference mode."""
        self._latest.trace = None
        self._share(tuple(prompts), tuple(seeds), steps)
        with torch.inference_mode():
            samples = comfy.sample.sample(
                self._patched, self._start.noise(seeds), steps, self.sampling.cfg, self.sampling.sampler_name,
                self.sampling.scheduler, self.texts.joined(prompts), self.texts.negative,
                self._start.latents(len(prompts)), noise_mask=self._start.mask, callback=_stop_if_asked,
                disable_pbar=True, seed=seeds[0],
            )  # fmt: skip
            images = stills(self._vae, samples)
        with torch.inference_mode(False):
            return _finite(images.clone())

    def _share(self, *start: Any) -> None:
        """Runs that follow each other from the same start evaluate their first step once, where nothing wants it."""
        if start != self._started:
            self._started = start
            sharing = can_share(self._plain, [self.texts.joined(start[0]), self.texts.negative])
            self._run.first = FirstEvaluation() if sharing else None

    def _sampler(self, steps: int) -> Any:
        model, sampling = self._patched, self.sampling
        options = {"sampler": sampling.sampler_name, "scheduler": sampling.scheduler, "denoise": 1.0}
        return comfy.samplers.KSampler(model, steps, model.load_device, model_options=model.model_options, **options)

    def _weights(self, network: torch.nn.Module) -> str:
        return fingerprints.of_module(network, self._patched.patches, "diffusion_model.")


def _stop_if_asked(*_: Any) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def _finite(images: Tensor) -> Tensor:
    if not torch.isfinite(images).all():
        raise HostError(
            "The model gave images that are not finite numbers; use bf16 or fp32 weights, another sampler, or a smaller"
            " cfg or bound."
        )
    return images


def _joined(traces: Sequence[Trace | None], images: Sequence[Tensor], order: Sequence[int]) -> Trace:
    """The trace of several runs as one, its samples in this order."""
    found = [trace for trace in traces if trace is not None]
    if len(found) < len(images):
        raise HostError(
            "This sampler did not walk down a grid of noise levels; choose euler or another ordinary sampler."
        )
    if len(found) == 1:
        return found[0]
    columns: dict[str, Any] = {
        name: [
            _rows(entries, images, order) for entries in zip(*(getattr(trace, name) for trace in found), strict=True)
        ]
        for name in ("t_star", "deviation", "ratio", "clamped")
    }
    return replace(found[0], **columns)


def _rows(entries: Sequence[Any], images: Sequence[Tensor], order: Sequence[int]) -> Any:
    """One step's entries of all runs: a number for the whole batch, or one per sample."""
    if not any(isinstance(entry, list) for entry in entries):
        return entries[0]
    parts = [e if isinstance(e, list) else [e] * len(batch) for e, batch in zip(entries, images, strict=True)]
    everything = [value for part in parts for value in part]
    return [everything[place] for place in order]
