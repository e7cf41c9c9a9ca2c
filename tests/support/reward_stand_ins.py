"""Reward models at a size that a CPU runs: random weights in the official files' layouts, names and proportions.

The CLIP metrics are read with the vocabulary that ComfyUI brings, so their embeddings have its size.
"""

import torch
from safetensors.torch import save_file

from asyncdiff.tpm.rewards.clip import Clip, Tower
from asyncdiff.tpm.rewards.image_reward import Blip
from reference.weights import hugging_face, official_blip_weights, open_clip_weights

SMALL_L = Clip(Tower(64, 256, 1, 1), Tower(64, 256, 2, 1), 32, "quick_gelu")
SMALL_H = Clip(Tower(64, 256, 3, 1), Tower(80, 320, 4, 1), 32, "gelu")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "on", "red", "blue", "large", "small", "circle", "square"]
SMALL_BLIP = Blip(
    Tower(64, 256, 2, 1), Tower(64, 256, 1, 1), head=(32, 16, 8, 4, 1), vocabulary=len(WORDS) + 2, positions=512
)


def write_all(folder):
    """Every file that the paper's four metrics and HPSv2.1 need, where people are told to put it."""
    write_image_reward(folder)
    write_hps(folder)
    write_hps(folder, "HPS_v2.1_compressed.pt", seed=1)
    write_clip_score(folder)
    write_pick_score(folder)


def write_image_reward(folder):
    place(folder / "ImageReward.pt")
    torch.save(official_blip_weights(SMALL_BLIP), folder / "ImageReward.pt")
    place(folder / "bert-base-uncased" / "vocab.txt").write_text("\n".join(WORDS))


def write_hps(folder, name="HPS_v2_compressed.pt", seed=0):
    torch.save({"state_dict": open_clip_weights(SMALL_H, seed)}, place(folder / name))


def write_clip_score(folder):
    save_file(hugging_face(SMALL_L), place(folder / "clip-vit-large-patch14" / "model.safetensors"))


def write_pick_score(folder):
    save_file(hugging_face(SMALL_H), place(folder / "PickScore_v1" / "model.safetensors"))


def place(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
