"""The regions that a user asked for, before a latent's size is known: drawn masks, or phrases of the prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import RegionError
from .regions import Size, before_attention, from_attention, from_masks
from .schedules import check_strengths


@dataclass(frozen=True)
class Drawn:
    """A region that is drawn."""

    name: str
    strength: float
    mask: Tensor  # (h, w), or (B, h, w) in [0, 1]: one for each image of the batch, or for each frame of a video


@dataclass(frozen=True)
class Phrase:
    """A region that a phrase of the prompt decides."""

    name: str
    strength: float
    tokens: tuple[int, ...]  # positions in the text that the network gets


@dataclass
class SeenRun:
    """The regions of one run, step by step, as `numbered` gives them."""

    labels: list[Tensor] = field(default_factory=list)

    def add(self, masks: Tensor) -> None:
        """Take in a step's partition, bool (B, J, H, W). Equal ones in a row are kept once."""
        labels = numbered(masks).to(torch.uint8).cpu()
        same = bool(self.labels) and torch.equal(self.labels[-1], labels)
        self.labels.append(self.labels[-1] if same else labels)

    def never(self, count: int) -> list[int]:
        """Those of `count` regions that had no pixel in any step."""
        found = set(torch.cat([labels.unique() for labels in self.labels]).tolist()) if self.labels else set()
        return [j for j in range(count) if j + 1 not in found]


def numbered(masks: Tensor) -> Tensor:
    """A partition (B, J, H, W) as whole numbers (B, H, W): 0 background, j region j from 1. Videos: T before H."""
    number = torch.arange(1, masks.shape[1] + 1, device=masks.device)
    return (masks * number.reshape(-1, *[1] * (masks.ndim - 2))).sum(dim=1)


class SeenRuns:
    """The latest finished runs with some regions, each under the latents that it put out."""

    def __init__(self) -> None:
        self._runs: dict[str, SeenRun] = {}

    def record(self, run: SeenRun, outputs: Sequence[Tensor]) -> None:
        """Keep a finished run; the oldest is forgotten."""
        for latent in outputs:
            self._runs.pop(latent_key(latent), None)
            self._runs[latent_key(latent)] = run
        for key in list(self._runs)[:-KEPT]:
            del self._runs[key]

    def of(self, latent: Tensor) -> SeenRun | None:
        """The run that put this latent out."""
        return self._runs.get(latent_key(latent))

    @property
    def labels(self) -> list[Tensor]:
        """Those of the latest run; none before the first."""
        return next(reversed(self._runs.values())).labels if self._runs else []


KEPT = 64  # latents whose runs are kept; a run has two


def latent_key(latent: Tensor) -> str:
    """What tells a latent from others. Hosts hand it on in fp32 or fp16, so fp16 decides."""
    values = latent.detach().to("cpu", torch.float16).contiguous()
    return f"{tuple(values.shape)} {hashlib.sha256(values.numpy().tobytes()).hexdigest()}"


@dataclass(frozen=True)
class Regions:
    """What is slowed down, and by how much. Either all regions are drawn, or all are phrases of one prompt.

    Of phrases alone: threshold, a pixel belongs to a phrase where its attention is at least so many times the mean;
    static, whether a whole synchronous run fixes them; text_length, the tokens of their prompt; texts, what the prompt
    was encoded to, (1, text_length, D) each, to find it again among a run's conditionings. seen: the runs that had
    these regions. Raises RegionError when there is no region, when both kinds are mixed, and for two of one name.
    """

    items: tuple[Drawn | Phrase, ...]
    threshold: float = 1.0
    static: bool = False
    text_length: int = 0
    texts: tuple[Tensor, ...] = field(default=(), compare=False)
    seen: SeenRuns = field(default_factory=SeenRuns, compare=False)

    def __post_init__(self) -> None:
        check_strengths(self.strengths)
        if not self.items or len({type(item) for item in self.items}) > 1:
            raise RegionError("Give at least one region, and either drawn masks or phrases of the prompt, not both.")
        if len(set(self.names)) < len(self.names):
            raise RegionError(f"Two regions have one name: {', '.join(map(repr, self.names))}; name each differently.")

    @property
    def names(self) -> list[str]:
        """What messages and pictures call them."""
        return [item.name for item in self.items]

    @property
    def strengths(self) -> list[float]:
        """The k of each."""
        return [item.strength for item in self.items]

    @property
    def tokens(self) -> list[tuple[int, ...]]:
        """The positions of each phrase; none for drawn regions."""
        return [item.tokens for item in self.items if isinstance(item, Phrase)]

    @property
    def each_frame(self) -> bool:
        """Whether a drawn region has several masks: on a video, one for each frame."""
        return any(item.mask.ndim == 3 and len(item.mask) > 1 for item in self.items if isinstance(item, Drawn))

    def scaled(self, scale: float) -> list[float]:
        """The strengths times `scale`, at most 1."""
        return [min(scale * strength, 1.0) for strength in self.strengths]

    def drawn(self, size: Size, patch: int, batch: int) -> Tensor:
        """The partition of drawn regions, (B, J, H, W) or (1, J, H, W). RegionError for what does not fit.

        size: that of the latent, with its frames where it is a video (see `regions.from_masks`).
        """
        drawn = [item.mask for item in self.items if isinstance(item, Drawn)]
        masks = from_masks(drawn, self.strengths, size, patch=patch, names=self.names)
        if len(masks) not in (1, batch):
            raise RegionError(
                f"The masks are for {len(masks)} images, the latent has {batch}; draw one mask, or one for each."
            )
        return masks

    def attended(self, maps: Tensor, size: Size) -> Tensor:
        """The partition (B, J, H, W) of phrases from their attention maps (B, J, h, w)."""
        return from_attention(maps, self.strengths, size, self.threshold)

    def unattended(self, size: Size) -> Tensor:
        """The partition (1, J, H, W) of phrases before the first maps."""
        return before_attention(self.tokens, size)


def merged(first: Regions | None, second: Regions) -> Regions:
    """Drawn regions one after the other. RegionError when one of them is of phrases."""
    if first is None:
        return second
    return Regions((*first.items, *second.items))


def parse_phrases(text: str, strength: float) -> list[tuple[str, float, int]]:
    """(phrase, k, occurrence) from one phrase a line: "red circle", "cat: 0.5", "cat #2: 0.3".

    strength: of lines without a number. Raises RegionError that shows the line.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise RegionError("Write at least one phrase of the prompt, one a line: red circle: 0.5")
    return [parse_line(line, strength) for line in lines]


def parse_line(line: str, strength: float) -> tuple[str, float, int]:
    """One line of `parse_phrases`."""
    phrase, _, number = line.rpartition(":") if ":" in line else (line, "", "")
    phrase, _, place = phrase.partition("#")
    try:
        found = phrase.strip(), float(number) if number.strip() else strength, int(place) if place.strip() else 1
    except ValueError:
        raise RegionError(f"{line!r} is not a phrase and a strength; write it as: red circle: 0.5") from None
    check_strengths([found[1]])
    return found


def named(phrases: Sequence[tuple[str, float, int]]) -> list[str]:
    """What to call each: the phrase, with its number where it is not the first occurrence."""
    return [phrase if occurrence == 1 else f"{phrase} #{occurrence}" for phrase, _, occurrence in phrases]
