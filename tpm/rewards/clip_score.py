"""CLIP Score as ImageReward's package computes it: the unscaled cosine of OpenAI's ViT-L/14 (Radford et al., 2021)."""

from __future__ import annotations

from pathlib import Path

import torch

from .catalogue import CATALOGUE
from .clip import VIT_L_14, Clip, ClipMetric, load_clip, sized, summed_as_openai
from .pictures import crop_torchvision
from .weights import read_weights
from .words import ClipTokens

SOURCE = CATALOGUE["clip-score"].source


def load(file: Path, vocabulary: Path, dtype: torch.dtype = torch.float32, shape: Clip | None = None) -> ClipMetric:
    """The metric from the ``model.safetensors`` of openai/clip-vit-large-patch14."""
    tensors = summed_as_openai(read_weights(file, SOURCE))
    tokens = ClipTokens(vocabulary, cleaned=True)
    module = load_clip(tensors, shape or sized(tensors, VIT_L_14, str(file)), tokens, dtype, str(file))
    return ClipMetric(module, tokens, crop_torchvision)
