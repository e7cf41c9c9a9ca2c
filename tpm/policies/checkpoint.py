"""TPM files: safetensors that say what they hold. A file that does not fit is a sentence, and loads nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import CheckpointError, PolicyError
from ..files import check_header, write_atomically
from ..retiming.contract import check_backbone_name, check_bound
from ..retiming.equations import DEFAULT_BOUND
from .network import TPM, TPMConfig

FORMAT, VERSION = "asyncdiff-tpm", 1
METADATA_KEY = "asyncdiff"


@dataclass(frozen=True)
class Card:
    """What a TPM is: for whom, how trained, how good. Written into its file."""

    backbone: str
    bound: float = DEFAULT_BOUND  # B at which it was trained
    name: str = "tpm"
    sigmas: list[float] = field(default_factory=list)  # the grid it was trained on, t_0 … t_K
    metrics: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)  # source, prompts, steps, guidance, size, note, versions, …

    def __post_init__(self) -> None:
        check_backbone_name(self.backbone)
        check_bound(self.bound)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)


def save_tpm(path: str | Path, tpm: TPM, card: Card) -> Path:
    """Write the weights (fp32) and the card, atomically. Weights that are not finite are a CheckpointError."""
    if card.backbone != tpm.config.backbone:
        raise CheckpointError(f"The card says {card.backbone}, the TPM reads {tpm.config.backbone}; correct the card.")
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in tpm.state_dict().items()}
    _check_finite(tensors, "This TPM")
    header = {"format": FORMAT, "version": VERSION, "config": tpm.config.to_dict(), "card": card.to_dict()}
    return write_atomically(path, save(tensors, {METADATA_KEY: json.dumps(header)}))


def load_tpm(path: str | Path, backbone: str | None = None) -> tuple[TPM, Card]:
    """The TPM (fp32, CPU, eval mode) and its card. `backbone`, where given, must be the file's.

    Raises CheckpointError: not found, not safetensors, truncated, another kind of file, newer, wrong backbone, missing
    or extra weights, wrong shapes, weights that are not finite.
    """
    header, tensors = _read(Path(path))
    config, card = _parse(header, str(path))
    if backbone is not None and backbone != config.backbone:
        raise CheckpointError(
            f"{path} is a TPM for {config.backbone}, the model is {backbone}; choose a TPM for {backbone}."
        )
    _check_tensors(tensors, config, str(path))
    tpm = TPM(config)
    tpm.load_state_dict({name: value.float() for name, value in tensors.items()})
    return tpm.eval(), card


def read_card(path: str | Path) -> tuple[TPMConfig, Card]:
    """Configuration and card without building the module."""
    header, _ = _read(Path(path))
    return _parse(header, str(path))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header document and the tensors of a file."""
    if not path.is_file():
        raise CheckpointError(f"There is no TPM file {path}; check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({cause}); download or save it again."
        ) from cause
    return _header(metadata, path), tensors


def _header(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        header = json.loads(metadata[METADATA_KEY])
    except (KeyError, ValueError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is a safetensors file, but not a TPM of this project; give a TPM file.")
    check_header(header, FORMAT, VERSION, CheckpointError, str(path))
    return header


def _parse(header: Mapping[str, Any], where: str) -> tuple[TPMConfig, Card]:
    """Configuration and card from the header; the two must name one backbone."""
    try:
        config, card = TPMConfig(**header["config"]), Card(**header["card"])
    except (KeyError, TypeError, PolicyError) as cause:
        raise CheckpointError(f"{where} describes its TPM wrongly ({cause}); save or download it again.") from cause
    if card.backbone != config.backbone:
        raise CheckpointError(f"{where} says both {card.backbone} and {config.backbone}; save it again.")
    return config, card


def _check_tensors(tensors: Mapping[str, Tensor], config: TPMConfig, where: str) -> None:
    """Compare names and shapes with a module that owns no memory, before anything is built."""
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in TPM(config).state_dict().items()}
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        names = f"missing {_some(missing)}" if missing else f"unexpected {_some(extra)}"
        raise CheckpointError(f"{where} does not hold the weights it describes ({names}); get the file again.")
    wrong = sorted(name for name, shape in expected.items() if tuple(tensors[name].shape) != shape)
    if wrong:
        found, wanted = tuple(tensors[wrong[0]].shape), expected[wrong[0]]
        raise CheckpointError(f"In {where} {wrong[0]} has shape {found} instead of {wanted}; get the file again.")
    _check_finite(tensors, where)


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    bad = sorted(name for name, value in tensors.items() if not torch.isfinite(value).all())
    if bad:
        raise CheckpointError(f"{where} holds NaN or infinite weights ({_some(bad)}); training diverged, use another.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
