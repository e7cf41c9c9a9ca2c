"""What both sides of `rewards.py` are given: full-size random weights, vocabularies, pictures and prompts."""

import re
import unicodedata
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from asyncdiff.tpm.rewards.clip import VIT_H_14, VIT_L_14, from_open_clip
from asyncdiff.tpm.rewards.image_reward import VIT_L_BERT
from reference.weights import official_blip_weights, open_clip_weights

CLIP_WORDS, BERT_WORDS = "clip-vit-large-patch14", "bert-base-uncased"
BERT_SIZE = 30522
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
LONG = (
    "a lighthouse on a cliff at dusk, its beam over a stormy sea, oil on canvas, muted colours, thick brush strokes, "
)
PAIRS = (  # the photograph, a box cut out of it or all, the prompt
    ("flower", (100, 50, 327, 274), "coffee"),  # an odd margin and a short text, which the controls need
    ("camera", None, "北京的古塔, закат над рекой, 3 птицы ☀️🦜"),  # gray
    ("china", None, LONG * 6),
    ("rocket", (300, 0, 390, 427), "“quoted” l\u2019e\u0301toile [MASK] <b>bold</b> 1234567890 #hashtag @name"),
    ("astronaut", None, "a photo of an astronaut in an orange suit in front of a flag"),
    ("chelsea", (1, 2, 302, 231), "eine Katze schaut über die Straße, Café à la crème, naïve Malerei"),
    ("hubble_deep_field", (0, 0, 224, 224), ""),
    ("coffee", None, "Two cups of COFFEE &amp; a spoon, it's 8:45 -- don't spill!!"),
)
BROKEN = "a scho\u00cc\u02c6nes cafÃ© â€œat nightâ€\u009d"
"""Mojibake, which only ftfy mends; it replaces the last prompt where the scorer's Python has ftfy."""


def write_weights(metric, folder, seed):
    """Weights of ``metric`` in the layout of its official file; CLIP Score's also in that of OpenAI's own package."""
    tensors = _tensors(metric, seed)
    if metric == "image-reward":
        torch.save(tensors, folder / "ImageReward.pt")
    elif metric == "clip-score":
        torch.save(tensors, folder / "ViT-L-14.pt")
        _save_hugging_face(tensors, folder / CLIP_WORDS)
    elif metric == "pick-score":
        _save_hugging_face(tensors, folder / "PickScore_v1")
    else:
        name = "HPS_v2.1_compressed.pt" if metric == "hps-v2.1" else "HPS_v2_compressed.pt"
        torch.save({"epoch": 1, "name": "ViT-H-14", "state_dict": tensors}, folder / name)


def _tensors(metric, seed):
    if metric == "image-reward":
        return official_blip_weights(VIT_L_BERT, seed)
    if metric != "clip-score":
        return open_clip_weights(VIT_H_14, seed)
    return {name: value.half().float() for name, value in open_clip_weights(VIT_L_14, seed).items()}  # as OpenAI's are


def _save_hugging_face(tensors, folder):
    folder.mkdir(exist_ok=True)
    converted = {name: value.contiguous() for name, value in from_open_clip(tensors).items()}
    save_file(converted, folder / "model.safetensors")


def weight_files(folder):
    """All weights in ``folder``."""
    return [path for path in folder.rglob("*") if path.suffix in (".pt", ".safetensors")]


def write_bert_words(folder, prompts):
    """A ``vocab.txt`` of BERT's size, its special words at their places: the prompts' words, whole and in letters."""
    words = re.findall(r"\w+|[^\w\s]", " ".join(map(_plain, prompts)))
    letters = sorted({letter for word in words for letter in word})
    known = list(dict.fromkeys([*words[::2], *letters, *(f"##{letter}" for letter in letters)]))
    free = [place for place in range(BERT_SIZE) if place not in SPECIAL]
    lines = dict(SPECIAL) | dict(zip(free, known + [f"[unused{n}]" for n in free[len(known) :]], strict=True))
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(lines[n] for n in range(BERT_SIZE)) + "\n", encoding="utf-8")


def _plain(text):
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(letter for letter in decomposed if unicodedata.category(letter) != "Mn")


def make_pairs(folder, count, broken):
    """(path, prompt) pairs from the photographs in ``folder``: natural, gray, of odd sizes, tall; odd margins."""
    pairs = []
    for number, (name, box, prompt) in enumerate(PAIRS[:count]):
        picture, path = Image.open(next(folder.glob(f"*/{name}.png"))), folder / f"pair-{number}.png"
        (picture.crop(box) if box else picture).save(path)
        pairs.append((str(path), BROKEN if broken and number == count - 1 else prompt))
    return pairs


def as_bench(folder, count):
    """``count`` pictures of 512 pixels a side, cut from the photographs."""
    paths = sorted(Path(folder).glob("natural/*.png"))
    made = []
    for number in range(count):
        picture = Image.open(paths[number % len(paths)]).convert("RGB")
        made.append(folder / f"bench-{number}.png")
        picture.resize((512, 512), Image.Resampling.LANCZOS).rotate(90 * (number // len(paths))).save(made[-1])
    return [str(path) for path in made]
