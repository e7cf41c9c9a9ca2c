"""What a detector of the hard world would see if it made no mistake."""

import torch

from asyncdiff.tpm.embedded.detector import CELL, Detections
from asyncdiff.tpm.embedded.labels import ITEM_KINDS
from asyncdiff.tpm.embedded.render import render
from asyncdiff.tpm.embedded.world import PIXELS, Scene

NEVER = -30.0  # a log-probability


def perfect_detections(*scenes: Scene) -> Detections:
    """Of true pictures of the scenes."""
    side = PIXELS // CELL
    centres, background = torch.zeros(len(scenes), side, side), torch.full((len(scenes), 4), NEVER)
    kinds = {kind: torch.full((len(scenes), len(words), side, side), NEVER) for kind, words in ITEM_KINDS.items()}
    for row, scene in enumerate(scenes):
        background[row, scene.background] = 0
        for item in scene.items:
            x, y = int(item.x // CELL), int(item.y // CELL)
            centres[row, y, x] = 1
            for kind, found in kinds.items():
                found[row, getattr(item, kind), y, x] = 0
    return Detections(render(scenes)[1], background, centres, kinds)
