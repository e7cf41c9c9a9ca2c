"""Where the regions of a pipeline's runs come from: drawn masks, a ready partition, or the prompt's phrases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
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
from .hooks import Attachments
from .tokens import item_tokens

PROMPTS = ("prompt", "prompt_2", "prompt_3")
"""The arguments of a pipeline's `encode_prompt` that hold the prompt."""


@dataclass(frozen=True)
class Phrases:
    """Regions that follow the attention of every step (the paper's dynamic masks).

    tokens: each item's positions in the context (`tokens.item_tokens`), or such a list for every image of the batch.
    `Phrases.of` finds them, and remembers in which prompt: a run with another one is then refused.
    """

    tokens: Items | Sequence[Items]
    threshold: float = 1.0  # a pixel belongs to an item where A ≥ threshold · mean(A)
    prompt: str | None = None  # where the tokens were found; None: not known, and not checked

    @classmethod
    def of(cls, pipe: Any, prompt: str, phrases: Sequence[str], threshold: float = 1.0, **options: Any) -> Phrases:
        """Phrases of a prompt, found by the pipeline's tokenizers; `options` are those of `tokens.item_tokens`.

        Raises RegionError that names a phrase which is not in the prompt.
        """
        return cls(item_tokens(pipe, prompt, phrases, **options), threshold, prompt)


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
        self._pipe, self._attached = pipe, Attachments()

    def attach(self) -> None:
        """Watch the attention, and the prompts that the pipeline encodes."""
        self._capture.attach()
        if self._phrases.prompt is not None and hasattr(self._pipe, "encode_prompt"):
            self._attached.replace(self._pipe, "encode_prompt", self._checked(self._pipe.encode_prompt))

    def detach(self) -> None:
        """Stop watching."""
        self._capture.detach()
        self._attached.detach()

    def _checked(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        """The pipeline's own encoding, which refuses another prompt than the one that the phrases were found in."""

        @wraps(encode)
        def checked(*args: Any, **kwargs: Any) -> Any:
            given = [args[0] if args else None, *(kwargs.get(name) for name in PROMPTS)]
            texts = [text for part in given if part for text in ([part] if isinstance(part, str) else part)]
            other = next((text for text in texts if text != self._phrases.prompt), None)
            if other is not None:
                raise RegionError(
                    f"The phrases were found in {self._phrases.prompt!r}, but this run draws {other!r}: find them in"
                    " that prompt."
                )
            return encode(*args, **kwargs)

        return checked

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
