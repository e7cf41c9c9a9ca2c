"""Which family a loader is going to load, from the shapes in its file: no weights are read, and nothing is built."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.model_detection
import folder_paths
import torch

from ...tpm.files import EMBEDDED_FOLDER, weights_header
from ...tpm.usual import EMBEDDED_NODE_PRESET
from .families import BACKBONES
from .fit import Seen

log = logging.getLogger("asyncdiff")

EMBEDDED_LOADER = "AsyncDiffLoadEmbeddedPipeline"
FOLDERS = ("diffusion_models", "checkpoints", "unet")


def seen_before(loader: str, widgets: Mapping[str, Any]) -> Seen | None:
    """What is known of the model that a node of this type loads with these widgets; None where that is nothing."""
    if loader == EMBEDDED_LOADER:
        config = json.loads((EMBEDDED_FOLDER / "transformer" / "config.json").read_text(encoding="utf-8"))
        return Seen("sd3", EMBEDDED_NODE_PRESET, config["joint_attention_dim"])
    for name in widgets.values():
        path = _model_file(name)
        if path is not None:
            stat = path.stat()
            return _seen_in_file(path, stat.st_mtime_ns, stat.st_size)
    return None


def _model_file(name: Any) -> Path | None:
    """The file of a name in a loader's list, where it has a header."""
    if not isinstance(name, str) or not name.endswith((".safetensors", ".sft")):
        return None
    known = (folder for folder in FOLDERS if folder in folder_paths.folder_names_and_paths)
    found = (folder_paths.get_full_path(folder, name) for folder in known)
    return next((Path(path) for path in found if path), None)


@lru_cache(maxsize=32)
def _seen_in_file(path: Path, changed: int, size: int) -> Seen | None:  # noqa: ARG001 - the file as it is now
    try:
        shapes = _shapes(path)
        prefix = comfy.model_detection.unet_prefix_from_state_dict(shapes)
        within = any(name.startswith(prefix) for name in shapes)  # else the file holds the network alone
        config = comfy.model_detection.model_config_from_unet(shapes, prefix if within else "")
    except Exception as error:  # of the host's detection, for files that it does not know: then nothing is said
        log.debug("the family of %s is not known before it is loaded", path, exc_info=error)
        return None
    return None if config is None else Seen(_family(config), width=_width(config.unet_config), guessed=True)


def _shapes(path: Path) -> dict[str, torch.Tensor]:
    """Tensors without values, as the header says."""
    entries = weights_header(path)
    entries.pop("__metadata__", None)
    return {name: torch.empty(entry["shape"], device="meta") for name, entry in entries.items()}


def _family(config: Any) -> str:
    """The word for the family of the host's description of a model; a variant has the word of its base."""
    names = [kind.__name__ for kind in type(config).__mro__]
    return next((BACKBONES[name] for name in names if name in BACKBONES), names[0])


def _width(config: Mapping[str, Any]) -> int | None:
    """How wide the model's prompts are, where its description says so."""
    embedder = config.get("context_embedder_config") or {}
    width = config.get("context_in_dim") or (embedder.get("params") or {}).get("in_features")
    return width if isinstance(width, int) else None
