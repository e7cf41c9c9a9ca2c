"""The judge of the hard world: it finds objects anywhere in the picture and reads each of them.

A small network in the way of CenterNet (Zhou et al., "Objects as Points", 2019): a map that peaks at the centres of
objects, and the classes of an object at its centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import hard
from .judge import JudgeNetwork, Sight, disturbed, down
from .labels import IGNORED, ITEM_KINDS
from .loop import Draw
from .render import render
from .vocabulary import BACKGROUNDS, ObjectWords, Reading
from .world import PIXELS

CELL = 4  # pixels of the picture for one of the map of centres
FOUND = 0.4  # the height from which a peak is an object
MOST = 6  # peaks that are looked at
APART = 8.0  # pixels by which an object has to be left of (right of, above, below) another
_KIND_SIZES = [len(members) for members in ITEM_KINDS.values()]


class Detector(JudgeNetwork):
    """Reads any number of objects, wherever they are."""

    world = "hard"

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(down(3, 32, 5), down(32, 64, 3))
        self.deeper = nn.ModuleList([down(64, 96, 3), down(96, 128, 3)])
        self.sideways = nn.ModuleList([nn.Conv2d(64, 96, 1), nn.Conv2d(96, 96, 1), nn.Conv2d(128, 96, 1)])
        self.read_out = nn.Sequential(nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 128, 1), nn.ReLU())
        self.centres = nn.Conv2d(128, 1, 1)
        self.kinds = nn.Conv2d(128, sum(_KIND_SIZES), 1)
        self.background = nn.Linear(128, len(BACKGROUNDS))
        self.objects = nn.Conv2d(96, 1, 3, padding=1)
        nn.init.constant_(self.centres.bias, -4.0)  # type: ignore[arg-type] # almost no cell is a centre

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Images (n, 3, 128, 128) in [0, 1] → logits, and object mask logits (n, 128, 128).

        Logits: ``centres`` (n, 32, 32), ``background`` (n, 4), and of each kind (n, classes, 32, 32).
        """
        levels = self._levels(images)
        merged = self.sideways[-1](levels[-1])
        for side, level in zip(self.sideways[-2::-1], levels[-2::-1], strict=True):
            merged = side(level) + F.interpolate(merged, scale_factor=2.0)
        hidden = self.read_out(merged)
        logits = {"centres": self.centres(hidden)[:, 0], "background": self.background(levels[-1].mean((2, 3)))}
        logits |= dict(zip(ITEM_KINDS, self.kinds(hidden).split(_KIND_SIZES, 1), strict=True))
        mask = F.interpolate(self.objects(merged), size=images.shape[-2:], mode="bilinear", align_corners=False)
        return logits, mask[:, 0]

    def _levels(self, images: Tensor) -> list[Tensor]:
        """Maps at a quarter, an eighth and a sixteenth of the sides."""
        levels = [self.stem(images * 2 - 1)]
        for step in self.deeper:
            levels.append(step(levels[-1]))
        return levels

    @torch.no_grad()
    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`JudgeNetwork`: (n, 64) and (n, 128)."""
        first, _, last = self._levels(images)
        return first.mean((2, 3)), last.mean((2, 3))

    @torch.no_grad()
    def look(self, images: Tensor) -> Detections:
        """See :class:`JudgeNetwork`."""
        logits, mask = self(images)
        return Detections(
            mask.sigmoid(),
            logits["background"].log_softmax(-1),
            logits["centres"].sigmoid(),
            {kind: logits[kind].log_softmax(1) for kind in ITEM_KINDS},
        )


@dataclass(frozen=True)
class Found:
    """An object in a picture: its centre in pixels, how sure it is, and the log-probabilities of its kinds."""

    x: float
    y: float
    sure: float
    kinds: dict[str, Tensor]


@dataclass(frozen=True)
class Detections(Sight):
    """What the detector sees in n pictures."""

    background: Tensor  # (n, 4) log-probabilities
    centres: Tensor  # (n, h, w) in [0, 1]
    kinds: dict[str, Tensor]  # (n, classes, h, w) log-probabilities

    def found(self, row: int) -> list[Found]:
        """The objects of one picture, the surest first."""
        centres = self.centres[row]
        peaks = (centres == F.max_pool2d(centres[None, None], 5, 1, 2)[0, 0]) & (centres > FOUND)
        places = sorted(peaks.nonzero().tolist(), key=lambda at: -float(centres[at[0], at[1]]))[:MOST]
        return [
            Found(
                (x + 0.5) * CELL,
                (y + 0.5) * CELL,
                float(centres[y, x]),
                {kind: value[row, :, y, x] for kind, value in self.kinds.items()},
            )
            for y, x in places
        ]

    def agreement(self, row: int, reading: Reading) -> tuple[float, float]:
        """See :class:`Sight`. Asked for: each word of each object, how many objects, their relation, the background.

        Each object of the caption is looked for in another object of the picture, all in the way that fits best.
        """
        hits = [] if reading.background is None else [_verdict(self.background[row], BACKGROUNDS, reading.background)]
        if not reading.objects:
            return _mean(hits) if hits else (1.0, 1.0)
        there, (_, best) = self._matched(row, reading)
        right = float(len(there) == len(reading.objects))
        return _mean([*hits, (right, right), *best])

    def regions(self, row: int, reading: Reading) -> Tensor:
        """Where each object of the caption is, (objects, H, W) in {0, 1}; zeros for one that is not there."""
        there, (match, _) = self._matched(row, reading)
        mask = self.objects[row] > 0.5
        at = torch.arange(mask.shape[-1]) + 0.5
        far = [torch.hypot(at[None, :] - item.x, at[:, None] - item.y) for item in there]
        nearest = torch.stack(far).argmin(0) if far else mask.long() * 0
        drawn = [mask & (nearest == place) if place < len(there) else mask & False for place in match]
        return torch.stack(drawn).float()

    def _matched(self, row: int, reading: Reading) -> tuple[list[Found], tuple[tuple[int, ...], list[_Hit]]]:
        """The objects of a picture, the place in that list of each object of the caption, and what it gets for it."""
        there = self.found(row)
        places = range(max(len(there), len(reading.objects)))  # those beyond the list are objects that are not there
        every = [(match, _hits(reading, there, match)) for match in permutations(places, len(reading.objects))]
        return there, max(every, key=lambda each: _mean(each[1]))


_Hit = tuple[float, float]  # right or wrong, and its probability


def _hits(reading: Reading, there: Sequence[Found], match: Sequence[int]) -> list[_Hit]:
    items = [there[place] if place < len(there) else None for place in match]
    hits = [hit for item, words in zip(items, reading.objects, strict=True) for hit in _object_hits(item, words)]
    if reading.relation in ("left", "right", "above", "below"):
        hits.append((_related(items[0], items[1], reading.relation),) * 2)
    return hits


def _object_hits(item: Found | None, words: ObjectWords) -> list[_Hit]:
    if item is None:
        return [(0.0, 0.0)] * len(words.said)
    return [_verdict(item.kinds[kind], ITEM_KINDS[kind], word) for kind, word in words.said.items()]


def _verdict(log_probability: Tensor, members: Sequence[str], word: str) -> _Hit:
    wanted = members.index(word)
    return float(int(log_probability.argmax()) == wanted), float(log_probability[wanted].exp())


def _related(first: Found | None, second: Found | None, relation: str) -> float:
    if first is None or second is None:
        return 0.0
    right, down_by = second.x - first.x, second.y - first.y
    return float({"left": right, "right": -right, "above": down_by, "below": -down_by}[relation] >= APART)


def _mean(hits: Sequence[_Hit]) -> _Hit:
    hard_hits, soft_hits = zip(*hits, strict=True)
    return sum(hard_hits) / len(hits), sum(soft_hits) / len(hits)


# ------------------------------------------------------------------------------------------------------ training


class DetectorTraining(nn.Module):
    """Train on renders, disturbed as for the easy world's judge."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def loss(self, draw: Draw, batch: int) -> Tensor:
        """The focal loss of the centres, cross-entropy of kinds and background, and the object mask's."""
        scenes = [hard.sample_anywhere(draw.numpy, held_out=bool(draw.numpy.random() < 0.125)) for _ in range(batch)]
        images, masks, _ = render(scenes)
        device = next(self.parameters()).device
        logits, mask = self.detector(disturbed(draw, images).to(device))
        truth = {name: value.to(device) for name, value in hard.labels(scenes).items()}
        rows, at = _cells(scenes)
        heat = _heat(rows, at, batch).to(device)
        value = F.binary_cross_entropy_with_logits(mask, masks.to(device)) + _focal(logits["centres"], heat) / len(rows)
        value = value + F.cross_entropy(logits["background"], truth["background"])
        for kind in ITEM_KINDS:
            wanted = torch.stack([truth[f"{kind}{slot}"] for slot in range(hard.OBJECTS)], 1).flatten()
            read = logits[kind][rows, :, at[:, 1], at[:, 0]]
            value = value + F.cross_entropy(read, wanted[wanted != IGNORED])
        return value


def _cells(scenes: Sequence[hard.Scene]) -> tuple[Tensor, Tensor]:
    """Of all objects, scene by scene: the row in the batch, and the cell (column, row) of the centre."""
    rows = [row for row, scene in enumerate(scenes) for _ in scene.items]
    at = [(int(item.x // CELL), int(item.y // CELL)) for scene in scenes for item in scene.items]
    return torch.tensor(rows), torch.tensor(at)


def _heat(rows: Tensor, at: Tensor, batch: int) -> Tensor:
    """1 at centres, falling off as a Gaussian of one cell."""
    cells = torch.arange(PIXELS // CELL)
    square = (cells[None, :] - at[:, :1]).square()[:, None, :] + (cells[None, :] - at[:, 1:]).square()[:, :, None]
    bumps = torch.exp(-square / 2)
    index = rows[:, None, None].expand_as(bumps)
    return torch.zeros(batch, len(cells), len(cells)).scatter_reduce(0, index, bumps, "amax")


def _focal(logits: Tensor, heat: Tensor) -> Tensor:
    """CenterNet's focal loss (its Eq 1), summed."""
    there, probability = heat == 1, logits.sigmoid()
    right = -F.logsigmoid(logits) * (1 - probability).square()
    wrong = -F.logsigmoid(-logits) * probability.square() * (1 - heat) ** 4
    return torch.where(there, right, wrong).sum()
