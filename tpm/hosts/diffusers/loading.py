"""Loading a diffusers pipeline from a folder or a hub id, with every failure as a sentence."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import STANDALONE, HostError
from ...files import is_file, is_folder, read_json, shortened
from .text_to_image import check_text_alone

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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


def load_pipeline(
    model: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    families: Mapping[str, str] = DRIVEN,
) -> tuple[Any, Path | None]:
    """(pipeline, its folder or None for a hub id). See `DiffusersStudio.load`."""
    folder = find_folder(model, families)
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    try:
        pipe = _from_pretrained(folder or str(model), precision).to(place)
    except ImportError as cause:
        raise HostError(f"This needs diffusers ({_first_line(cause)}): {STANDALONE}.") from cause
    except MemoryError as cause:
        raise HostError(f"There is not enough memory to load {model}; use bfloat16 or a smaller model.") from cause
    except torch.cuda.OutOfMemoryError as cause:
        raise HostError(f"{model} does not fit on {place}; use bfloat16 or another device.") from cause
    except Exception as cause:  # from_pretrained raises many kinds; all mean that there is no pipeline
        raise HostError(f"{model} cannot be loaded as a pipeline: {_first_line(cause)}") from cause
    pipe.set_progress_bar_config(disable=True)
    return pipe, folder


def _from_pretrained(model: str | Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    absent = absent_components(model) if isinstance(model, Path) else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch_dtype.*")  # renamed to dtype in newer releases
        pipe = DiffusionPipeline.from_pretrained(model, torch_dtype=dtype, **absent)
    if is_silent(getattr(pipe, "text_encoder_3", None)):
        pipe.text_encoder_3 = pipe.tokenizer_3 = None
    return pipe


def is_silent(t5: Any) -> bool:
    """Whether a T5 encoder gives zeros for every text (the embedded pipeline's does): it need not be asked."""
    return t5 is not None and not t5.encoder.final_layer_norm.weight.any()


def absent_components(folder: Path) -> dict[str, None]:
    """Components that the folder leaves out on purpose (a text encoder, say): from_pretrained must be told of them."""
    index = read_json(folder / "model_index.json", HostError)
    return {name: None for name, value in index.items() if isinstance(value, list) and value[:1] == [None]}


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


def choose_device(device: str | None) -> str:
    """The named device, or the best one there is; HostError when the named one is not there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device is None:
        return "cuda" if cuda else "mps" if mps else "cpu"
    kind = device.split(":")[0]
    if not {"cpu": True, "cuda": cuda, "mps": mps}.get(kind, False):
        raise HostError(f"The device {device!r} is not available here; use cpu{', cuda' * cuda}{', mps' * mps}.")
    return device


def choose_dtype(dtype: str | torch.dtype | None, device: str) -> torch.dtype:
    """The named precision, or fp32 on a CPU and bf16 elsewhere."""
    if dtype is None:
        return torch.float32 if device == "cpu" else torch.bfloat16
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise HostError(f"The dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _first_line(cause: Exception) -> str:
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
