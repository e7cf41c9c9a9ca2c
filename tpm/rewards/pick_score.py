"""PickScore (Kirstain et al., *Pick-a-Pic*, 2023): the scaled cosine of a fine-tuned ViT-H/14 in Hugging Face form."""

from __future__ import annotations

from pathlib import Path

import torch

from .catalogue import CATALOGUE
from .clip import VIT_H_14, Clip, ClipMetric, load_clip, sized
from .pictures import crop_processor
from .weights import read_weights
from .words import ClipTokens

SOURCE = CATALOGUE["pick-score"].source


def load(file: Path, vocabulary: Path, dtype: torch.dtype = torch.float32, shape: Clip | None = None) -> ClipMetric:
    """The metric from the ``model.safetensors`` of yuvalkirstain/PickScore_v1. Its prompts are never mended."""
    tensors = read_weights(file, SOURCE)
    tokens = ClipTokens(vocabulary, cleaned=False)
    module = load_clip(tensors, shape or sized(tensors, VIT_H_14, str(file)), tokens, dtype, str(file))
    return ClipMetric(module, tokens, crop_processor, scaled=True)
