"""What tells a model or a conditioning from another, for runs that go on: few numbers, the same in every session."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

LOOKED_AT = 16  # how many tensors of a module are read
NUMBERS = 8  # how many numbers of each tensor are read


def of_module(module: nn.Module, patches: Mapping[str, Sequence[Any]] | None = None, prefix: str = "") -> str:
    """A hash of names, shapes, precisions and a few of the weights.

    ``patches`` are the host's (LoRA), by ``prefix`` + name: of these weights the strengths count and not the values,
    which the host changes while the model is loaded.
    """
    made, patches = hashlib.sha256(), patches or {}
    weights = dict(module.named_parameters())
    for name, value in weights.items():
        made.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
    for name, changes in sorted(patches.items()):
        made.update(f"{name} {[change[0] for change in changes]}".encode())
    fixed = [value for name, value in weights.items() if prefix + name not in patches]
    for value in fixed[:: max(1, len(fixed) // LOOKED_AT)]:
        made.update(str(value.detach().flatten()[:NUMBERS].float().tolist()).encode())
    return made.hexdigest()[:16]


def of_conditioning(conditioning: Sequence[tuple[Tensor, Mapping[str, Any]]]) -> str:
    """Shapes and coarse statistics: the same text gives the same words on another day and another device."""
    return "; ".join(", ".join(map(_coarse, (context, extra.get("pooled_output")))) for context, extra in conditioning)


def _coarse(value: Tensor | None) -> str:
    if value is None:
        return "none"
    numbers = value.detach().float()
    return f"{'×'.join(map(str, value.shape))} {float(numbers.abs().mean()):.2e} {float(torch.std(numbers)):.2e}"
