"""Reward models in ComfyUI: which files there are, and scoring through the host's model management.

A model is on the device only while it scores, one at a time, after the host has made room for it and its activations.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import comfy.model_management
import comfy.sd1_clip
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher

from ...tpm.embedded import judge
from ...tpm.files import EMBEDDED_FOLDER
from ...tpm.rewards.base import Metric, RewardError, some
from ...tpm.rewards.catalogue import (
    CATALOGUE,
    CLIP_WORDS,
    EMBEDDED_JUDGE,
    RESIDUAL_NOISE,
    find_file,
    find_words,
    open_metric,
)
from ...tpm.rewards.scoring import CHUNK, score_chunks

if TYPE_CHECKING:
    from PIL.Image import Image

METRICS = {
    "ImageReward": "image-reward",
    "HPSv2 v2.0": "hps-v2",
    "HPSv2 v2.1": "hps-v2.1",
    "CLIP Score": "clip-score",
    "PickScore": "pick-score",
    "Embedded judge": EMBEDDED_JUDGE,
}
TITLES = {key: title for title, key in METRICS.items()} | {RESIDUAL_NOISE: "Residual noise"}
PRECISIONS = {"fp32": "float32", "fp16": "float16"}
AUTOMATIC = "automatic"
JUDGE_FILE = EMBEDDED_FOLDER / judge.FILE
CLIP_VOCABULARY = Path(inspect.getfile(comfy.sd1_clip)).parent / "sd1_tokenizer"
"""The vocabulary that ComfyUI itself brings."""

CPU_CHUNK = 2  # pictures between two looks at the stop button

folder_paths.add_model_folder_path("rewards", str(Path(folder_paths.models_dir, "rewards")))


# ----------------------------------------------------------------------------------------------------------- files


def folders() -> list[Path]:
    """models/rewards, and where extra_model_paths.yaml says that there are more."""
    return [Path(folder) for folder in folder_paths.get_folder_paths("rewards")]


def weight_files() -> dict[str, Path]:
    """Every file of weights by its name in the folder that holds it; the first folder wins."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted((*folder.rglob("*.safetensors"), *folder.rglob("*.pt"))):
            found.setdefault(path.relative_to(folder).as_posix(), path)
    return found


class Files(NamedTuple):
    """Where a metric's weights are, the rewards folder that holds them, and where its vocabulary is."""

    weights: Path
    folder: Path
    words: Path


def locate(metric: str, name: str = AUTOMATIC) -> Files:
    """The files of a title in `METRICS`; RewardError, with what there is and where to get the rest, if one is missing.

    ``name`` is a file of the list, or "automatic" for the official name.
    """
    key = _key(metric)
    if key == EMBEDDED_JUDGE:
        return Files(JUDGE_FILE, JUDGE_FILE.parent, JUDGE_FILE.parent)
    weights, folder = _official(key) if name == AUTOMATIC else _chosen(name)
    shipped = CLIP_VOCABULARY if CATALOGUE[key].words == CLIP_WORDS else None
    return Files(weights, folder, find_words(key, weights, folder, shipped))


def fingerprint(metric: str, name: str, precision: str) -> str:
    """Changes when one of the files does."""
    try:
        files = locate(metric, name)
    except RewardError as missing:
        return str(missing)
    entry = CATALOGUE.get(METRICS[metric])
    parts = [files.weights, *(files.words / word for word in (entry.words if entry else ()))]
    stats = [(str(part), part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    return hashlib.sha256(repr((metric, precision, stats)).encode()).hexdigest()


def _key(metric: str) -> str:
    if metric not in METRICS:
        raise RewardError(f"There is no metric {metric}; choose {', '.join(METRICS)}.")
    return METRICS[metric]


def _official(key: str) -> tuple[Path, Path]:
    names = CATALOGUE[key].files
    folder = next((place for place in folders() if any((place / name).is_file() for name in names)), folders()[0])
    try:
        return find_file(key, folder), folder
    except RewardError as missing:
        others = list(weight_files())
        raise RewardError(f"{missing}{f' There are other files: {some(others)}.' if others else ''}") from None


def _chosen(name: str) -> tuple[Path, Path]:
    path = weight_files().get(name)
    if path is None:
        raise RewardError(f"{name} is not in models/rewards; choose another file, or {AUTOMATIC}.")
    return path, next(folder for folder in folders() if path.is_relative_to(folder))


# --------------------------------------------------------------------------------------------------------- loading


class RewardNetwork(torch.nn.Module):
    """A metric's weights as the host wants a model: it notes on the module where and how much of it is loaded."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module


class RewardModel(NamedTuple):
    """A metric that is ready to score. A tuple, so that the host's cache sees the patcher when memory is short.

    Without a patcher it is small and computes on the CPU.
    """

    key: str
    metric: Metric
    patcher: ModelPatcher | None

    def score(
        self, pictures: Sequence[Image], prompts: Sequence[str], progress: Callable[[int], object]
    ) -> torch.Tensor:
        """Raw scores (n,), float32 on the CPU; ``progress`` gets the number of pictures of each chunk."""
        on_cpu = self.patcher is None or comfy.model_management.is_device_cpu(self.patcher.load_device)
        chunk = min(CPU_CHUNK if on_cpu else CHUNK, len(pictures))
        parts = []
        with resident(self.patcher, chunk):
            for part in score_chunks(TITLES[self.key], self.metric, pictures, prompts, chunk):
                parts.append(part)
                progress(len(part))
        return torch.cat(parts)


def load(metric: str, name: str = AUTOMATIC, precision: str = "fp32") -> RewardModel:
    """Load a title of `METRICS` to where the host keeps models that wait. Raises RewardError."""
    key, files = _key(metric), locate(metric, name)
    if key == EMBEDDED_JUDGE:
        return RewardModel(key, judge.JudgeMetric(judge.Judge.load(files.weights)), None)
    loaded: Any = open_metric(key, files.folder, file=files.weights, words=files.words, dtype=PRECISIONS[precision])
    offload = comfy.model_management.text_encoder_offload_device()
    return RewardModel(key, loaded, ModelPatcher(RewardNetwork(loaded.module), scoring_device(), offload))


def scoring_device() -> torch.device:
    """The host's device. transformers' modules cannot be streamed in parts, so without VRAM it is the CPU."""
    if comfy.model_management.vram_state == comfy.model_management.VRAMState.NO_VRAM:
        return torch.device("cpu")
    device: torch.device = comfy.model_management.get_torch_device()
    return device


@contextmanager
def resident(patcher: ModelPatcher | None, chunk: int) -> Iterator[None]:
    """Load all of the model for as long as it scores; afterwards, whatever happened, its memory is free again."""
    if patcher is None:
        yield
        return
    needed = activations(patcher.model.module, chunk)
    comfy.model_management.load_models_gpu([patcher], memory_required=needed, force_full_load=True)
    try:
        yield
    finally:
        unload(patcher)


def unload(patcher: ModelPatcher) -> None:
    """Take one model, and no other, from its device."""
    others = [other for other in comfy.model_management.current_loaded_models if other.model is not patcher]
    comfy.model_management.free_memory(1e30, patcher.load_device, others)


def activations(module: Any, chunk: int) -> int:
    """Bytes that ``chunk`` pictures need in a layer of the vision tower, the widest part, in float32."""
    vision = module.vision.config if hasattr(module, "vision") else module.config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    in_layer = tokens * (8 * vision.hidden_size + 2 * vision.intermediate_size)
    attention = 2 * vision.num_attention_heads * tokens**2
    return 4 * chunk * (in_layer + attention)
