"""ComfyUI as a studio of training and search: MODEL, texts, sampler and VAE → images and what was decided.

The twin of `tpm.hosts.studio`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...tpm.errors import HostError
from ...tpm.policies import Policy, check_backbone
from ...tpm.policies.network import TPMConfig
from ...tpm.retiming.settings import Retiming
from ...tpm.retiming.trace import Trace
from ...tpm.training.grpo.rollout import Recorder
from .. import fingerprints
from .prompt_cache import PromptCache
from .sampler import NO_GRID, HostSampler, Sampling, finite
from .starts import Start, stills


@dataclass(frozen=True)
class Rendering:
    """Images (n, 3, H, W) in [0, 1], fp32 on the CPU, and what was decided; None where no policy was asked.

    Of videos three frames (n, 3, 3, H, W): the first, the middle and the last; fewer of shorter ones.
    """

    images: Tensor
    trace: Trace | None


class HostStudio(HostSampler):
    """A `tpm.training.studio.Studio` of any model that can be sampled asynchronously, and whose latents have pictures.

    Raises HostError for others.
    """

    def __init__(self, model: Any, vae: Any, texts: PromptCache, sampling: Sampling) -> None:
        start = Start.judged(model, vae, sampling.width, sampling.height, sampling.latent)
        super().__init__(model, texts, sampling, start)
        self._vae = vae

    def describe(self) -> dict[str, object]:
        """The settings that make a picture, as JSON; of model and VAE a hash of a few weights."""
        return {**super().describe(), "vae": fingerprints.of_module(self._vae.first_stage_model)}

    def tpm_config(self, **size: int) -> TPMConfig:
        """The configuration of a TPM for this model and these texts; `size` overrides the paper's.

        Raises HostError for latents of several parts.
        """
        if not self.start.whole:
            raise HostError(
                "A TPM cannot be trained on latents of video and sound in one; use Search Policy, which makes a curve"
                " for them."
            )
        context, pooled = self.texts.widths()
        return TPMConfig(self.backbone, self.start.channels, context, pooled, **size)

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
            samples = self.sampled([prompts[n] for n in run], [seeds[n] for n in run], policy, retiming, steps)
            images.append(self._pictures(samples))
            traces.append(self.trace)
            places += run
        order = sorted(range(len(places)), key=places.__getitem__)
        with torch.inference_mode(False):
            return Rendering(torch.cat(images)[order], None if policy is None else _joined(traces, images, order))

    def _pictures(self, samples: Any) -> Tensor:
        """Images as in `Rendering`, which outlive the host's inference mode."""
        with torch.inference_mode():
            images = stills(self._vae, samples)
        with torch.inference_mode(False):
            return finite(images.clone())


def _joined(traces: Sequence[Trace | None], images: Sequence[Tensor], order: Sequence[int]) -> Trace:
    """The trace of several runs as one, its samples in this order."""
    found = [trace for trace in traces if trace is not None]
    if len(found) < len(images):
        raise HostError(NO_GRID)
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
