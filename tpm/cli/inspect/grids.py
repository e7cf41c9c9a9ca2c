"""σ grids without a pipeline: what a run will be sampled on, from the shift alone.

``simple`` is ComfyUI's scheduler of that name; ``scheduler`` is what diffusers' FlowMatchEulerDiscreteScheduler makes
of a number of steps: shifted twice if the shift is fixed (as ComfyUI's ``normal``), once if the size decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...errors import GridError, HostError
from ...files import read_json
from ...hosts.diffusers.text_to_image import simple_sigmas
from ..shared.models import Model

TRAIN_STEPS = 1000
SCHEDULER = "scheduler/scheduler_config.json"
UNKNOWN_SHIFT = "This model's scheduler shifts in a way that inspect does not know; give --shift instead."


@dataclass(frozen=True)
class Shift:
    """The timestep shift of a model; ``dynamic`` when it depends on the resolution (Flux)."""

    value: float
    dynamic: bool = False


def shifted(sigma: float, shift: float) -> float:
    """σ' = s·σ / (1 + (s − 1)·σ): s > 1 spends more steps at high noise (SD3's paper, Eq 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def grid(name: str, steps: int, shift: Shift) -> list[float]:
    """t_0 > … > t_K = 0 of K steps."""
    if name == "simple":
        sigmas = simple_sigmas(steps)
    elif shift.dynamic:
        sigmas = _even(1.0, 1.0 / steps, steps)
    else:
        sigmas = _even(1.0, shifted(1.0 / TRAIN_STEPS, shift.value), steps)
    return [*(shifted(sigma, shift.value) for sigma in sigmas), 0.0]


def shift_of(model: Model, size: tuple[int, int] | None) -> Shift:
    """The shift that the model's scheduler configuration asks for; ``size`` in pixels matters where it depends on it.

    SD1.x, SD2.x and SDXL have none, and their simple grid on the line from 1 to 0 is that of a flow model without one.
    """
    config = _scheduler_config(model)
    if model.backbone == "flux2" or config.get("shift_terminal"):  # by the number of steps, and to a last σ
        raise GridError(UNKNOWN_SHIFT)
    if not config.get("use_dynamic_shifting"):
        return Shift(float(config.get("shift", 1.0)))
    if config.get("time_shift_type", "exponential") != "exponential":
        raise GridError(UNKNOWN_SHIFT)
    width, height = size or (1024, 1024)
    return Shift(math.exp(_dynamic_mu(config, width // 16 * (height // 16))), dynamic=True)


def _dynamic_mu(config: dict[str, Any], tokens: int) -> float:
    """The line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift), at ``tokens``."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(base + (top - base) * (tokens - low) / (high - low))


def _scheduler_config(model: Model) -> dict[str, Any]:
    if model.folder is not None:
        return read_json(model.folder / SCHEDULER, HostError)
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(model.source, SCHEDULER)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise HostError(f"The scheduler of {model.source} cannot be read: {reason} Give --shift instead.") from error
    return read_json(path, HostError)


def _even(start: float, end: float, count: int) -> list[float]:
    """``count`` evenly spaced values from ``start`` to ``end``."""
    if count == 1:
        return [start]
    return [start + (end - start) * k / (count - 1) for k in range(count)]
