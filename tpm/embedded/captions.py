"""Captions of the embedded world as prompts: for training, and held out for judging what was trained."""

from __future__ import annotations

import numpy as np

from .world import canonical_caption, sample_scene

TRAINING_SEED, HELD_OUT_SEED = 5, 1234


def training_captions(count: int, seed: int = TRAINING_SEED) -> list[str]:
    """Captions of scenes without held-out triples."""
    return _captions(count, seed, held_out=False)


def held_out_captions(count: int, seed: int = HELD_OUT_SEED) -> list[str]:
    """Captions of scenes with a triple that no training has shown."""
    return _captions(count, seed, held_out=True)


def _captions(count: int, seed: int, held_out: bool) -> list[str]:
    rng = np.random.default_rng(seed)
    return [canonical_caption(sample_scene(rng, held_out)) for _ in range(count)]
