"""HPSv2 and v2.1 (Wu et al., *Human Preference Score v2*, 2023): the cosine of a fine-tuned open_clip ViT-H/14."""

from __future__ import annotations

from pathlib import Path

import torch

from .base import RewardError
from .catalogue import CATALOGUE
from .clip import VIT_H_14, Clip, ClipMetric, from_open_clip, load_clip, sized
from .pictures import letterbox
from .weights import read_weights
from .words import ClipTokens

SOURCE = CATALOGUE["hps-v2"].source


def load(file: Path, vocabulary: Path, dtype: torch.dtype = torch.float32, shape: Clip | None = None) -> ClipMetric:
    """The metric from ``HPS_v2_compressed.pt`` or ``HPS_v2.1_compressed.pt`` (or safetensors of the same names).

    The two versions differ in their values alone, so nothing but the file's name tells them apart.
    """
    tensors = read_weights(file, SOURCE)
    if "visual.conv1.weight" not in tensors:
        raise RewardError(f"{file} does not have open_clip's layout, so it is not HPSv2; get it from {SOURCE}.")
    tensors = from_open_clip(tensors)
    tokens = ClipTokens(vocabulary, cleaned=True)
    module = load_clip(tensors, shape or sized(tensors, VIT_H_14, str(file)), tokens, dtype, str(file))
    return ClipMetric(module, tokens, letterbox)
