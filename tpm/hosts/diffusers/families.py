"""Which pipelines of diffusers run asynchronously: the model families by the class of their denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...errors import HostError
from .dialects import Dialect
from .flow import SD3, Flux, Flux2, QwenImage, ZImage
from .noise import NoisePrediction


@dataclass(frozen=True)
class Family:
    """A model family."""

    name: str  # as people call it
    part: str  # the pipeline's attribute that holds the denoiser
    dialect: Callable[[Any], Dialect]  # from the pipeline


FAMILIES = {
    "SD3Transformer2DModel": Family("SD3, SD3.5", "transformer", lambda _: SD3()),
    "FluxTransformer2DModel": Family("Flux", "transformer", lambda _: Flux()),
    "Flux2Transformer2DModel": Family("Flux.2", "transformer", lambda _: Flux2()),
    "QwenImageTransformer2DModel": Family("Qwen-Image", "transformer", lambda _: QwenImage()),
    "ZImageTransformer2DModel": Family("Z-Image", "transformer", lambda _: ZImage()),
    "UNet2DConditionModel": Family("SD1.x, SD2.x, SDXL", "unet", NoisePrediction),
}
"""By the class of the denoiser."""

OWN_LOOPS = {
    "StableDiffusionPanoramaPipeline", "StableDiffusionParadigmsPipeline", "StableDiffusionPix2PixZeroPipeline",
    "StableDiffusionDiffEditPipeline", "StableDiffusionLatentUpscalePipeline", "CycleDiffusionPipeline",
    "TextToVideoZeroPipeline", "TextToVideoZeroSDXLPipeline",
}  # fmt: skip
"""Pipelines whose loop is not one evaluation and one step of the scheduler for each timestep, from noise to image."""


def names_of_families() -> str:
    """The supported families in a sentence: "SD3, SD3.5, … and SDXL"."""
    *names, last = ", ".join(family.name for family in FAMILIES.values()).split(", ")
    return f"{', '.join(names)} and {last}"


def dialect_of(pipe: Any) -> Dialect:
    """The dialect of a pipeline's denoiser. Raises HostError for a pipeline that cannot be driven."""
    kind = type(pipe).__name__
    denoisers = [getattr(pipe, part, None) for part in ("transformer", "unet")]
    classes = [type(getattr(each, "_orig_mod", each)).__name__ for each in denoisers if each is not None]
    family = next((FAMILIES[name] for name in classes if name in FAMILIES), None)
    if family is None:
        raise HostError(
            f"{kind} has {f'the denoiser {classes[0]}' if classes else 'no denoiser'}; asyncdiff drives"
            f" {names_of_families()} pipelines."
        )
    if kind in OWN_LOOPS:
        raise HostError(
            f"{kind} does not make one evaluation and one step for each timestep, which asynchronous conditioning"
            f" follows; use another pipeline of {names_of_families()}."
        )
    return family.dialect(pipe)
