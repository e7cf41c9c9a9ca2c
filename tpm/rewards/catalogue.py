"""Which metrics there are, which files they need, and where those come from. Nothing heavy is imported here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from .base import Metric, RewardError

RESIDUAL_NOISE = "residual-noise"
"""The metric that needs no files."""

CLEAN = "clean"
"""One of the embedded judge's values: residual noise with its sign turned."""

EMBEDDED_JUDGE = "embedded-judge"
"""The judge of the embedded world, a metric like any other, whose weights are shipped."""

CLIP_WORDS, BERT_WORDS = ("vocab.json", "merges.txt"), ("vocab.txt",)
CLIP_FOLDER, BERT_FOLDER = "clip-vit-large-patch14", "bert-base-uncased"


@dataclass(frozen=True)
class Entry:
    """A metric with weights: its title, the places its file may have in a folder, and where to get it."""

    title: str
    module: str
    files: tuple[str, ...]
    source: str
    words: tuple[str, ...] = CLIP_WORDS
    words_folder: str = CLIP_FOLDER
    words_source: str = "huggingface.co/openai/clip-vit-large-patch14"


CATALOGUE = {
    "image-reward": Entry(
        "ImageReward",
        "image_reward",
        ("ImageReward.pt", "ImageReward.safetensors", "ImageReward/ImageReward.pt", "ImageReward/model.safetensors"),
        "huggingface.co/THUDM/ImageReward",
        BERT_WORDS,
        BERT_FOLDER,
        "huggingface.co/google-bert/bert-base-uncased",
    ),
    "hps-v2": Entry(
        "HPSv2",
        "hps",
        ("HPS_v2_compressed.pt", "HPS_v2_compressed.safetensors", "HPSv2/HPS_v2_compressed.pt"),
        "huggingface.co/xswu/HPSv2",
    ),
    "hps-v2.1": Entry(
        "HPSv2.1",
        "hps",
        ("HPS_v2.1_compressed.pt", "HPS_v2.1_compressed.safetensors", "HPSv2/HPS_v2.1_compressed.pt"),
        "huggingface.co/xswu/HPSv2",
    ),
    "clip-score": Entry(
        "CLIP Score",
        "clip_score",
        (f"{CLIP_FOLDER}/model.safetensors", f"{CLIP_FOLDER}.safetensors"),
        "huggingface.co/openai/clip-vit-large-patch14",
    ),
    "pick-score": Entry(
        "PickScore",
        "pick_score",
        ("PickScore_v1/model.safetensors", "PickScore_v1.safetensors"),
        "huggingface.co/yuvalkirstain/PickScore_v1",
    ),
}
PAPER = ("image-reward", "hps-v2", "clip-score", "pick-score")
"""The four of AsyncDiff's Eq 16. Its value for HPSv2 (.2754) fits v2.0."""


def find_file(name: str, folder: Path) -> Path:
    """The metric's weights in ``folder``; a missing file is a RewardError that says where to get it."""
    entry = _entry(name)
    for file in entry.files:
        if (folder / file).is_file():
            return folder / file
    raise RewardError(f"{entry.title} needs {entry.files[0]} in {folder}; get it from {entry.source}.")


def open_metric(
    name: str,
    folder: Path,
    *,
    file: Path | None = None,
    words: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Metric:
    """Load a metric with weights from ``folder``, or from a ``file`` of another name.

    Its vocabulary is looked for in ``words``, beside the weights, in its own folder (``clip-vit-large-patch14``,
    ``bert-base-uncased``) and in ``folder`` itself. ``dtype`` is float32 or float16. Raises RewardError.
    """
    from .weights import DTYPES

    entry, file = _entry(name), file or find_file(name, folder)
    if dtype not in DTYPES:
        raise RewardError(f"Reward weights are float32 or float16, not {dtype}: bfloat16 would blur the scores.")
    metric = import_module(f".{entry.module}", __package__).load(
        file, find_words(name, file, folder, words), DTYPES[dtype]
    )
    metric.module.to(device)
    loaded: Metric = metric
    return loaded


def find_words(name: str, file: Path, folder: Path, words: Path | None) -> Path:
    """The folder that holds the metric's vocabulary."""
    entry = _entry(name)
    places = [words] if words else []
    places += [file.parent, folder / entry.words_folder, folder]
    for place in places:
        if all((place / part).is_file() for part in entry.words):
            return place
    looked = ", ".join(dict.fromkeys(str(place) for place in places))
    needed = " and ".join(entry.words)
    raise RewardError(f"{entry.title} needs {needed}, and {looked} lacks it; get it from {entry.words_source}.")


def fingerprint(name: str, folder: Path, *, words: Path | None = None, dtype: str = "float32") -> str:
    """What the metric's scores depend on besides picture and prompt: its files, byte for byte, and ``dtype``.

    It reads all weights once, some seconds for the largest. Raises RewardError where `open_metric` would miss a file.
    """
    file = find_file(name, folder)
    place = find_words(name, file, folder, words)
    return f"{digest_files(file, *(place / part for part in _entry(name).words))} {dtype}"


def digest_files(*files: Path) -> str:
    """Sixteen hexadecimal digits of the contents of ``files``, in their order."""
    found = hashlib.blake2b(digest_size=8)
    for path in files:
        with path.open("rb") as file:
            while part := file.read(1 << 22):
                found.update(part)
    return found.hexdigest()


def _entry(name: str) -> Entry:
    if name not in CATALOGUE:
        raise RewardError(f"There is no metric {name}; there are {', '.join(CATALOGUE)} and {RESIDUAL_NOISE}.")
    return CATALOGUE[name]
