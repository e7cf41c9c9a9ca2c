"""What a family needs to be built small and to be sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Given = Callable[[int], Any]
"""A part of the conditioning by seed: 0 is the positive one, 1 the negative one."""


@dataclass(frozen=True)
class Entry:
    """One network of a class of `comfy.supported_models`; a class whose networks differ in kind has several."""

    name: str
    family: str  # the class's name
    config: dict[str, Any] = field(default_factory=dict)  # the network's sizes
    latent: tuple[tuple[int, ...], ...] = ()  # shape without the batch; several where a latent is nested
    text: int | None = None  # width of the text's context; None where there is none
    extra: dict[str, Any] = field(default_factory=dict)  # more conditioning; a `Given` is called with the seed
    tensors: Callable[[], dict[str, Tensor]] = dict  # by which the host tells the variant, or that it copies
    fixed: dict[str, Any] = field(default_factory=dict)  # sizes that the class's constructor would overwrite
    cfg: float = 3.0
    batch: int = 2
    tokens: int = 6
    mask: Callable[[], Any] | None = None  # a noise mask, (1, 1, …), or several; 0 is kept, 1 is made
    inner: bool = False  # whether the family scales by the timestep around its network, which is then its `_forward`
    generates: bool = True  # whether the class makes anything from noise

    @property
    def rank(self) -> str:
        """How many axes a latent has, with the batch: 4-D, or nested 5-D + 4-D."""
        return " + ".join(f"{len(shape) + 1}-D" for shape in self.latent)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Those of a latent's parts, with the batch."""
        return [(self.batch, *shape) for shape in self.latent]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given(*shape: int) -> Given:
    """A part of the conditioning that the prompt decides: one value for the positive, one for the negative."""
    return lambda seed: normal(*shape, seed=200 + seed)


def shared(*shape: int) -> Given:
    """A part that the positive and the negative conditioning share, such as a reference picture."""
    return lambda seed: normal(*shape, seed=9)


def listed(make: Given) -> Given:
    """In a list of one, as ComfyUI hands on reference latents."""
    return lambda seed: [make(seed)]


def frames(*levels: float, side: int = 4) -> Callable[[], Tensor]:
    """A mask of a video, one level per frame."""
    return lambda: torch.tensor(levels).reshape(1, 1, -1, 1, 1).expand(1, 1, len(levels), side, side).clone()
