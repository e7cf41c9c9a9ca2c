"""A MODEL of an entry, with random weights."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from support.zoo.entry import Entry

CPU = torch.device("cpu")


class BuildError(Exception):
    """This host lacks the class, or its constructor refuses the sizes."""


def build(entry: Entry) -> Any:
    """A MODEL as the host's own loader makes it, on the CPU in fp32."""
    import comfy.model_patcher
    import comfy.supported_models

    family = getattr(comfy.supported_models, entry.family, None)
    if family is None:
        raise BuildError(f"this ComfyUI has no {entry.family}")
    with _quiet():
        try:
            model = _network(family, entry)
        except (TypeError, KeyError, ValueError, RuntimeError, AttributeError, AssertionError) as refused:
            raise BuildError(f"this ComfyUI builds no {entry.name} of these sizes: {refused}") from refused
    fill(model)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(model, CPU, CPU)


def fill(model: nn.Module, seed: int = 0) -> None:
    """Weights of a freshly initialised network's size, biases that are not zero, so that every part counts."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        parameter.data.copy_(_values(name, parameter, generator).to(parameter.dtype))
    for name, buffer in model.named_buffers():
        _fill_buffer(name, buffer, generator)


# --- inside -------------------------------------------------------------------------------------------------------


def _network(family: Any, entry: Entry) -> Any:
    config = family({**family.unet_config, **entry.config, "dtype": torch.float32})
    config.unet_config.update(entry.fixed)
    config.manual_cast_dtype = None
    torch.manual_seed(0)
    with _one_layer(entry):
        return config.get_model(entry.tensors(), "", device=CPU)


@contextlib.contextmanager
def _one_layer(entry: Entry) -> Any:
    """MiniMax Music 3 writes the number of its layers into its code; a module's own `range` makes it one."""
    if entry.family != "MiniMaxMusic3":
        yield
        return
    module = importlib.import_module("comfy.ldm.minimax_music.dit")
    module.range = lambda *_: range(1)
    try:
        yield
    finally:
        del module.range


@contextlib.contextmanager
def _quiet() -> Any:
    """Without what the host logs of each model that it makes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _values(name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    values = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim >= 2:
        return values / math.sqrt(math.prod(parameter.shape[1:]))
    is_scale = name.endswith(("weight", "scale")) or ("norm" in name and name.endswith("gamma"))
    return 1 + 0.02 * values if is_scale else 0.05 * values


def _fill_buffer(name: str, buffer: Tensor, generator: torch.Generator) -> None:
    """Buffers that a checkpoint would fill; those that the constructor computes are left alone."""
    if name.endswith("beta"):
        buffer.zero_()
    elif name.endswith(("pos_embed", "_conditioning")):
        buffer.copy_(0.02 * torch.randn(buffer.shape, generator=generator))
    elif name.endswith("inv_freq") and not _are_frequencies(buffer):
        buffer.copy_(1.0 / 10000 ** (torch.arange(len(buffer)) / len(buffer)))


def _are_frequencies(buffer: Tensor) -> bool:
    return bool(torch.isfinite(buffer).all() and 0 < buffer.abs().max() <= 1.0001)
