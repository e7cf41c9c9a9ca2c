"""Where the regions of a pipeline's runs come from: drawn masks, a ready partition, or the prompt's phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from ...pixelwise.attention_maps import Items
from ...pixelwise.errors import RegionError
from ...pixelwise.regions import Size, before_attention, check_partition, from_attention, from_masks
from ...pixelwise.run import AttendedRegions, FixedRegions, RegionSource
from ...pixelwise.schedules import check_strengths
from ...pixelwise.timestep_rows import check_divisible, coarse, fine
from .attention import AttentionCapture, for_every_image


@dataclass(frozen=True)
class Phrases:
    """Regions that follow the attention of every step (the paper's dynamic masks).

    tokens: each item's positions in the context (`tokens.item_tokens`), or such a list for every image of the batch.
    """

    tokens: Items | Sequence[Items]
    threshold: float = 1.0  # a pixel belongs to an item where A ≥ threshold · mean(A)


RegionSpec: TypeAlias = Sequence[Tensor] | Tensor | Phrases
"""Drawn masks, one per region; or one bool partition (B, J, H, W) on the latent; or phrases."""


class WatchedRegions(Protocol):
    """The regions of any number of runs of a pipeline."""

    def attach(self) -> None:
        """Start watching, where there is something to watch."""

    def detach(self) -> None:
        """Stop."""

    def begin(self, size: Size, unit: int) -> RegionSource:
        """Where the regions of a new run on a latent of `size` come from; `unit`: the denoiser's patch."""

    def expect(self, batch: int) -> None:
        """The step in progress is one of so many images. RegionError when the regions are for another number."""


def watched_regions(
    pipe: Any, regions: RegionSpec, strengths: Sequence[float], names: Sequence[str] | None = None
) -> WatchedRegions:
    """The regions that a user gave, for the runs of a pipeline."""
    check_strengths(strengths)
    if isinstance(regions, Phrases):
        return PhraseRegions(pipe, regions, strengths)
    if isinstance(regions, Tensor) and regions.dtype == torch.bool and regions.ndim == 4:
        return ReadyRegions(regions, names)
    return DrawnRegions(list(regions), strengths, names)


class UnwatchedRegions:
    """Regions that need no attention."""

    def attach(self) -> None:
        """There is nothing to watch."""

    def detach(self) -> None:
        """There was nothing to watch."""

    def expect(self, batch: int) -> None:
        """A mask may serve all images; the network compares its map with the batch."""


class DrawnRegions(UnwatchedRegions):
    """Drawn masks of any resolution; see `regions.from_masks`."""

    def __init__(self, masks: Sequence[Tensor], strengths: Sequence[float], names: Sequence[str] | None) -> None:
        self._drawn, self._strengths, self._names = masks, strengths, names

    def begin(self, size: Size, unit: int) -> RegionSource:
        """The partition on this latent. Raises RegionError for what does not fit."""
        return FixedRegions(from_masks(self._drawn, self._strengths, size, patch=unit, names=self._names))


class ReadyRegions(UnwatchedRegions):
    """A partition on the latent itself, such as static masks from attention; its regions may be empty."""

    def __init__(self, masks: Tensor, names: Sequence[str] | None) -> None:
        self._masks, self._names = masks.cpu(), names

    def begin(self, size: Size, unit: int) -> RegionSource:
        """Raises RegionError for another size, shared pixels, and regions that cut through patches."""
        if self._masks.shape[-2:] != torch.Size(size):
            raise RegionError(f"Regions of {tuple(self._masks.shape)} do not fit a latent of {size[1]} × {size[0]}.")
        check_divisible(size, unit)
        check_partition(self._masks, self._names, empty=True)
        if not torch.equal(fine(coarse(self._masks, unit), unit), self._masks):
            raise RegionError(f"The regions cut through the denoiser's patches of {unit} × {unit}; use whole patches.")
        return FixedRegions(self._masks)


class PhraseRegions:
    """Regions from the attention of the step in progress."""

    def __init__(self, pipe: Any, phrases: Phrases, strengths: Sequence[float]) -> None:
        self._phrases, self._strengths = phrases, strengths
        self._prompts = for_every_image(phrases.tokens)
        if any(len(items) != len(strengths) or not all(items) for items in self._prompts):
            raise RegionError(f"{len(strengths)} strengths need as many phrases, each with at least one token.")
        self._capture = AttentionCapture(pipe, phrases.tokens)

    def attach(self) -> None:
        """Watch the attention."""
        self._capture.attach()

    def detach(self) -> None:
        """Stop watching."""
        self._capture.detach()

    def expect(self, batch: int) -> None:
        """Raises RegionError when there are tokens for another number of images."""
        if len(self._prompts) not in (1, batch):
            raise RegionError(f"There are tokens of {len(self._prompts)} prompts, but {batch} images.")
        self._capture.images = batch

    def begin(self, size: Size, unit: int) -> RegionSource:
        """Before the first maps, every pixel belongs to the item whose token comes last."""
        check_divisible(size, unit)
        self._capture.forget()
        first = torch.cat([before_attention(items, size) for items in self._prompts])

        def partition(maps: Tensor) -> Tensor:
            return from_attention(maps, self._strengths, size, self._phrases.threshold)

        return AttendedRegions(first, self._capture.take, partition)
