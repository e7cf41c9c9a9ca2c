"""Reading reward weights: safetensors, or .pt with ``weights_only=True``. A file that does not fit is a sentence."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..files import is_file
from .base import RewardError, some

M = TypeVar("M", bound=nn.Module)
DTYPES = {"float32": torch.float32, "float16": torch.float16}
"""bfloat16 is left out on purpose: its error in ImageReward is 12 % of a batch's standard deviation."""


def read_weights(file: Path, source: str) -> dict[str, Tensor]:
    """The tensors of ``file``, on the CPU. RewardError, naming ``source``: not found, truncated, not weights."""
    if not is_file(file):
        raise RewardError(f"There is no file {file}; get it from {source}.")
    try:
        content = load_file(file) if file.suffix == ".safetensors" else _load_pickle(file)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as cause:
        reason = str(cause).strip().split("\n")[0][:160] or type(cause).__name__
        raise RewardError(
            f"{file} is not a complete file of weights ({reason}); get it again from {source}."
        ) from cause
    inner = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise RewardError(f"{file} holds no weights; get it again from {source}.")
    return tensors


def fill(build: Callable[[], M], tensors: Mapping[str, Tensor], dtype: torch.dtype, where: str) -> M:
    """Build a module without memory and give it ``tensors``, matrices in ``dtype`` and scalars in float32.

    Unknown tensors are ignored; missing or misshapen ones raise RewardError. Returned in eval mode, without gradients.
    """
    with torch.device("meta"):
        module = build()
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    _check(expected, tensors, where)
    kept = {name: tensors[name].to(dtype if shape else torch.float32) for name, shape in expected.items()}
    module.load_state_dict(kept, assign=True)
    _number_positions(module)
    return module.eval().requires_grad_(requires_grad=False)


def renamed(tensors: Mapping[str, Tensor], prefix: str, pairs: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors under ``prefix``, without it, each pair's left part replaced by its right one."""
    result = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            result[_replaced(name[len(prefix) :], pairs)] = value
    return result


def _replaced(name: str, pairs: Mapping[str, str]) -> str:
    for old, new in pairs.items():
        name = name.replace(old, new)
    return name


def _load_pickle(file: Path) -> object:
    return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file) or None)


def _check(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], where: str) -> None:
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise RewardError(f"{where}: {some(missing)} missing, of {len(expected)} weights; give that metric's own file.")
    wrong = sorted(name for name, shape in expected.items() if tuple(tensors[name].shape) != shape)
    if wrong:
        found, wanted = tuple(tensors[wrong[0]].shape), expected[wrong[0]]
        raise RewardError(f"{where}: {wrong[0]} has shape {found} instead of {wanted}; give that metric's own file.")


def _number_positions(module: nn.Module) -> None:
    """Make the position numbers, which no file holds."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta:
                part.register_buffer(name, torch.arange(buffer.shape[-1]).expand(1, -1).clone(), persistent=False)
