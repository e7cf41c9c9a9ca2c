"""Loading a diffusers pipeline from a folder or a hub id, with every failure as a sentence."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import STANDALONE, HostError
from ...files import read_json
from ..folders import DRIVEN, find_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
    if place == "cpu":
        decode_for_cpu(pipe.vae)
    return pipe, folder


def decode_for_cpu(vae: Any) -> None:
    """Decode one image at a time, channels last: on a processor in half the time, and the same but for rounding."""
    if hasattr(vae, "enable_slicing"):
        vae.enable_slicing()
    vae.to(memory_format=torch.channels_last)


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
