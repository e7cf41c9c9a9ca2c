"""What a scene shows as class indices, object by object: what text encoders and judges are trained to tell."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, tensor

from .vocabulary import BACKGROUNDS, COLORS, PATTERNS, SHAPES, SIZES
from .world import Scene

ITEM_KINDS = {"shape": SHAPES, "color": COLORS, "pattern": PATTERNS, "size": SIZES}
IGNORED = -100  # the label of what is not there

Heads = dict[str, tuple[str, ...]]


def heads(layouts: tuple[str, ...], objects: int) -> Heads:
    """The classes of every label: how objects lie, the background, and each kind of word for each object."""
    items = {f"{kind}{slot}": members for slot in range(objects) for kind, members in ITEM_KINDS.items()}
    return {"layout": layouts, "background": BACKGROUNDS, **items}


def labels(scenes: Sequence[Scene], layouts: Sequence[int], objects: int) -> dict[str, Tensor]:
    """Class indices (n,) by the names of `heads`; `IGNORED` for the kinds of an object that a scene lacks."""
    table = {"layout": tensor(layouts), "background": tensor([scene.background for scene in scenes])}
    for slot in range(objects):
        there = [scene.items[slot] if slot < len(scene.items) else None for scene in scenes]
        for kind in ITEM_KINDS:
            table[f"{kind}{slot}"] = tensor([IGNORED if item is None else getattr(item, kind) for item in there])
    return table
