"""A pipeline with a UNet (SD1.x, SD2.x, SDXL) that renders with DDIM, as AsynDM's experiments do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..folders import PIXELWISE
from .loading import load_pipeline
from .studio import (
    Progress,
    Rendering,
    check_pairs,
    check_steps,
    finite_images,
    memory_errors_as_sentences,
    step_reporter,
)

GUIDANCE, ETA = 5.0, 1.0  # the paper's


class DDIMStudio:
    """Renders with one UNet pipeline. Its scheduler is replaced by DDIM with the same noise schedule."""

    backbone = "unet"

    def __init__(self, pipe: Any, folder: Path | None = None) -> None:
        from diffusers import DDIMScheduler

        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, timestep_spacing="leading")
        self.pipe, self.folder = pipe, folder

    @classmethod
    def load(cls, model: str | Path, dtype: str | torch.dtype | None = None, device: str | None = None) -> DDIMStudio:
        """From a pipeline folder or a hub id; see `DiffusersStudio.load`."""
        return cls(*load_pipeline(model, dtype, device, PIXELWISE))

    def render(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float | None = None,
        size: tuple[int, int] | None = None,
        negative: str = "",
        eta: float = ETA,
        progress: Progress | None = None,
    ) -> Rendering:
        """One image for each (prompt, seed) pair, in one batch; see `DiffusersStudio.render`.

        eta: 0 deterministic … 1 (the paper's); its noise comes from the seeds as well.
        """
        check_steps(steps, "scheduler")
        check_pairs(prompts, seeds)
        call = {
            "prompt": list(prompts),
            "negative_prompt": [negative] * len(prompts),
            "num_inference_steps": steps,
            "guidance_scale": GUIDANCE if guidance is None else guidance,
            "eta": eta,
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            "output_type": "pt",
            "callback_on_step_end": step_reporter(self.pipe, progress),
        }
        if size is not None:
            call |= {"width": size[0], "height": size[1]}
        started = time.perf_counter()
        with memory_errors_as_sentences(len(prompts)):
            images = finite_images(self.pipe(**call).images)
        return Rendering(images, None, time.perf_counter() - started)
