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

from ..documents import STRICT, build, check_name
from ..errors import CheckpointError
from ..files import check_file, check_header, parse_json, sha256_of, write_atomically
from ..retiming.contract import TextCondition, check_backbone_name, check_bound
from ..retiming.equations import DEFAULT_BOUND, check_grid
from .network import TPM, TPMConfig

FORMAT, VERSION = "asyncdiff-tpm", 1
METADATA_KEY = "asyncdiff"
MOST_BYTES = 2**30  # the largest file that is read; the paper's TPM has 13 MB
LARGEST_WEIGHT = 1e4  # those of a trained TPM are below 10
SHA256_DIGITS = 64
PRECISIONS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Card:
    """What a TPM is: for whom, how trained, how good. Written into its file."""

    __pydantic_config__ = STRICT

    backbone: str
    bound: float = DEFAULT_BOUND  # B at which it was trained
    name: str = "tpm"
    sigmas: list[float] = field(default_factory=list)  # the grid it was trained on, t_0 … t_K
    metrics: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)  # source, prompts, steps, guidance, size, note, versions, …

    def __post_init__(self) -> None:
        check_backbone_name(self.backbone)
        check_bound(self.bound)
        check_name(self.name, CheckpointError)
        if self.sigmas:
            check_grid(self.sigmas)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class TPMFile:
    """How to know the file of a TPM again, also under another name."""

    __pydantic_config__ = STRICT

    name: str
    sha256: str  # 64 hexadecimal digits
    size: int  # in bytes

    def __post_init__(self) -> None:
        check_name(self.name, CheckpointError)
        if len(self.sha256) != SHA256_DIGITS or set(self.sha256) - set("0123456789abcdef"):
            raise CheckpointError(f"A sha256 has {SHA256_DIGITS} hexadecimal digits, not {self.sha256[:80]!r}.")


def identity(path: Path) -> TPMFile:
    """Name, hash and size of a file."""
    return TPMFile(path.name, sha256_of(path), path.stat().st_size)


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
    _check_answers(tpm.eval(), str(path))
    return tpm, card


def read_card(path: str | Path) -> tuple[TPMConfig, Card]:
    """Configuration and card without building the module."""
    header, _ = _read(Path(path))
    return _parse(header, str(path))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header document and the tensors of a file."""
    check_file(path, CheckpointError, MOST_BYTES)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as cause:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({cause}); download or save it again."
        ) from cause
    return _header(metadata, path), tensors


def _header(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    text = metadata.get(METADATA_KEY)
    header = None if text is None else parse_json(text, CheckpointError, str(path))
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is a safetensors file, but not a TPM of this project; give a TPM file.")
    check_header(header, FORMAT, VERSION, CheckpointError, str(path))
    return header


def _parse(header: Mapping[str, Any], where: str) -> tuple[TPMConfig, Card]:
    """Configuration and card from the header; the two must name one backbone."""
    config = build(TPMConfig, header.get("config"), CheckpointError, f"The configuration in {where}")
    card = build(Card, header.get("card"), CheckpointError, f"The card in {where}")
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
    odd = next((name for name, value in tensors.items() if value.dtype not in PRECISIONS), None)
    if odd:
        raise CheckpointError(f"{where} holds {odd} as {tensors[odd].dtype}; save the TPM in float32 or float16.")
    bad = sorted(name for name, value in tensors.items() if not torch.isfinite(value).all())
    if bad:
        raise CheckpointError(f"{where} holds NaN or infinite weights ({_some(bad)}); training diverged, use another.")
    huge = sorted(name for name, value in tensors.items() if value.numel() and value.abs().max() > LARGEST_WEIGHT)
    if huge:
        raise CheckpointError(f"{where} holds weights that overflow ({_some(huge)}); training diverged, use another.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@torch.no_grad()
def _check_answers(tpm: TPM, where: str) -> None:
    """Raise CheckpointError where finite weights overflow on the way to an answer, on zeros or on the largest input."""
    config = tpm.config
    draw = torch.Generator().manual_seed(0)
    for size in (0.0, 1.0, 1e4):  # inputs are squashed to ±4, so that larger ones change nothing
        maps = size * torch.randn(8, config.latent_channels, config.patch, config.patch, generator=draw)
        context = size * torch.randn(8, 2, config.context_dim, generator=draw)
        text = TextCondition(context, size * torch.randn(8, config.pooled_dim, generator=draw))
        answer = torch.stack(tpm(maps, maps, -maps, torch.ones(8, 4), tpm.encode_text(text, 8)))
        if not torch.isfinite(answer).all():
            raise CheckpointError(f"The weights in {where} overflow: its decisions are no numbers. Use another TPM.")
