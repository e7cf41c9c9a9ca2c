"""Folders of diffusers pipelines and hub ids, told apart without importing diffusers or torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import HostError
from ..files import is_file, is_folder, read_json, shortened

DRIVEN = {
    "StableDiffusion3": "SD3, SD3.5", "Flux2": "Flux.2", "Flux": "Flux", "QwenImage": "Qwen-Image", "ZImage": "Z-Image",
    "StableDiffusionXL": "SDXL", "StableDiffusion": "SD1.x, SD2.x",
}  # fmt: skip
"""Pipeline classes that asynchronous conditioning drives, by the beginning of their name; the first that fits."""
BACKBONES = {
    "StableDiffusion3": "sd3", "Flux2": "flux2", "Flux": "flux", "QwenImage": "qwen-image", "ZImage": "z-image",
    "StableDiffusionXL": "sdxl", "StableDiffusion": "sd1",
}  # fmt: skip
"""Their families' words, in the same order; an SD2.x is told from an SD1.x when it is loaded."""
PIXELWISE = {
    "StableDiffusionPipeline": "SD1.x, SD2.x",
    "StableDiffusionXLPipeline": "SDXL",
    "StableDiffusion3": "SD3, SD3.5",
}
"""Those that pixel-wise denoising drives."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FROM_TEXT = {
    "sd3": ("StableDiffusion3Pipeline", "StableDiffusion3PAGPipeline"),
    "flux": ("FluxPipeline",),
    "flux2": ("Flux2Pipeline", "Flux2KleinPipeline"),
    "qwen-image": ("QwenImagePipeline",),
    "z-image": ("ZImagePipeline",),
    "sdxl": ("StableDiffusionXLPipeline", "StableDiffusionXLPAGPipeline"),
    "sd1": ("StableDiffusionPipeline", "StableDiffusionPAGPipeline"),
}
"""The pipeline classes that make pictures from text alone, by the word of their family."""
PIPELINES = tuple(name for names in FROM_TEXT.values() for name in names)


def find_folder(model: str | Path, families: Mapping[str, str] = DRIVEN) -> Path | None:
    """The folder of a local pipeline, None for a hub id; HostError for neither, and for a family not driven here."""
    folder = Path(model)
    if not is_folder(folder) and not is_file(folder):
        if isinstance(model, Path) or not HUB_ID.fullmatch(model):
            raise HostError(
                f"There is no folder {shortened(model)}; give a pipeline folder or a hub id like owner/name."
            )
        return None
    index = folder / "model_index.json"
    if not is_file(index):
        raise HostError(f"{model} is not a diffusers pipeline folder (it has no model_index.json); give such a folder.")
    family = str(read_json(index, HostError).get("_class_name"))
    if not family.startswith(tuple(families)):
        *names, last = ", ".join(families.values()).split(", ")
        raise HostError(f"{model} holds a {family}; this is for pipelines of {', '.join(names)} and {last}.")
    if families is DRIVEN:
        check_text_alone(family)
    return folder


def backbone_of(family: str) -> str:
    """The word for the family of a pipeline class that is driven."""
    return next(word for start, word in BACKBONES.items() if family.startswith(start))


def check_text_alone(*pipeline: str) -> None:
    """Raise HostError for a pipeline that needs more than a text, such as a picture. pipeline: names of its classes."""
    if not set(pipeline) & set(PIPELINES):
        raise HostError(
            f"{pipeline[0]} does not make pictures from text alone, as {', '.join(PIPELINES)} do; call it yourself in"
            " Python, with `asyncdiff.asynchronous` around the call."
        )
