"""Where the regions of a whole run come from: drawn masks, a ready partition, or the prompt's phrases as they go.

A source gives bool masks (B, J, H, W) on the CPU: `begin` before the first call of the denoiser, `now` after each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from ...pixelwise.errors import RegionError
from ...pixelwise.regions import Size, before_attention, check_partition, from_attention, from_masks
from ...pixelwise.schedules import check_strengths
from ...pixelwise.timestep_rows import check_divisible, coarse, fine
from .attention import AttentionCapture, Items, for_every_image


@dataclass(frozen=True)
class Phrases:
    """Regions that follow the attention of every step (the paper's dynamic masks).

    tokens: each item's positions in the context (`diffusers_prompts.item_tokens`), or such a list for every image of
    the batch.
    """

    tokens: Items | Sequence[Items]
    threshold: float = 1.0  # a pixel belongs to an item where A ≥ threshold · mean(A)


Regions: TypeAlias = Sequence[Tensor] | Tensor | Phrases
"""Drawn masks, one per region; or one bool partition (B, J, H, W) on the latent; or phrases."""


class Source(Protocol):
    """What a run asks for its regions."""

    def attach(self) -> None:
        """Start watching, where there is something to watch."""

    def detach(self) -> None:
        """Stop."""

    def begin(self, size: Size, unit: int, batch: int) -> Tensor:
        """The regions of a run on a latent of `size` before its first call; `unit`: the denoiser's patch."""

    def now(self) -> Tensor:
        """The regions after a call of the denoiser."""


def source_of(pipe: Any, regions: Regions, strengths: Sequence[float], names: Sequence[str] | None = None) -> Source:
    """The source that `regions` asks for."""
    check_strengths(strengths)
    if isinstance(regions, Phrases):
        return Attended(pipe, regions, strengths)
    if isinstance(regions, Tensor) and regions.dtype == torch.bool and regions.ndim == 4:
        return Ready(regions, names)
    return Drawn(list(regions), strengths, names)


class Still:
    """Regions that stay what they are."""

    _masks: Tensor

    def attach(self) -> None:
        """There is nothing to watch."""

    def detach(self) -> None:
        """There was nothing to watch."""

    def now(self) -> Tensor:
        """The regions of `begin`."""
        return self._masks


class Drawn(Still):
    """Drawn masks of any resolution; see `regions.from_masks`."""

    def __init__(self, masks: Sequence[Tensor], strengths: Sequence[float], names: Sequence[str] | None) -> None:
        self._drawn, self._strengths, self._names = masks, strengths, names

    def begin(self, size: Size, unit: int, batch: int) -> Tensor:  # noqa: ARG002 - a mask may serve all images
        """See `Source`."""
        self._masks = from_masks(self._drawn, self._strengths, size, patch=unit, names=self._names).cpu()
        return self._masks


class Ready(Still):
    """A partition on the latent itself, such as static masks from attention; its regions may be empty."""

    def __init__(self, masks: Tensor, names: Sequence[str] | None) -> None:
        self._masks, self._names = masks.cpu(), names

    def begin(self, size: Size, unit: int, batch: int) -> Tensor:  # noqa: ARG002 - a mask may serve all images
        """See `Source`. Raises RegionError for another size, shared pixels, and regions that cut through patches."""
        if self._masks.shape[-2:] != torch.Size(size):
            raise RegionError(f"Regions of {tuple(self._masks.shape)} do not fit a latent of {size[1]} × {size[0]}.")
        check_divisible(size, unit)
        check_partition(self._masks, self._names, empty=True)
        if not torch.equal(fine(coarse(self._masks, unit), unit), self._masks):
            raise RegionError(f"The regions cut through the denoiser's patches of {unit} × {unit}; use whole patches.")
        return self._masks


class Attended:
    """Regions from the attention of the step in progress."""

    def __init__(self, pipe: Any, phrases: Phrases, strengths: Sequence[float]) -> None:
        self._phrases, self._strengths = phrases, strengths
        self._prompts = for_every_image(phrases.tokens)
        if any(len(items) != len(strengths) or not all(items) for items in self._prompts):
            raise RegionError(f"{len(strengths)} strengths need as many phrases, each with at least one token.")
        self._capture = AttentionCapture(pipe, phrases.tokens)
        self._size: Size = (0, 0)

    def attach(self) -> None:
        """Watch the attention."""
        self._capture.attach()

    def detach(self) -> None:
        """Stop watching."""
        self._capture.detach()

    def begin(self, size: Size, unit: int, batch: int) -> Tensor:
        """See `Source`. Without maps, every pixel belongs to the item whose token comes last."""
        check_divisible(size, unit)
        self._size = size
        if len(self._prompts) not in (1, batch):
            raise RegionError(f"There are tokens of {len(self._prompts)} prompts, but {batch} images.")
        return torch.cat([before_attention(items, size) for items in self._prompts]).expand(batch, -1, -1, -1)

    def now(self) -> Tensor:
        """See `Source`."""
        return from_attention(self._capture.take().cpu(), self._strengths, self._size, self._phrases.threshold)
