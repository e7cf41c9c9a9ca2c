"""Policies as files: JSON for those that are a formula or a recording, safetensors for a TPM, presets by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..documents import STRICT, as_object, build, check_name
from ..errors import PolicyError
from ..files import WEIGHTS, check_header, is_file, read_json, shortened, write_json
from ..retiming.contract import Policy, check_backbone
from ..retiming.equations import DEFAULT_BOUND
from ..retiming.trace import FORMAT as TRACE_FORMAT
from ..retiming.trace import Trace
from ..suggestions import did_you_mean
from .base import FORMAT, NEWEST
from .checkpoint import Card, identity, load_tpm, save_tpm
from .learned import Learned
from .recorded import Recorded
from .static import Constant, Curve

PRESETS = WEIGHTS / "presets"


def policy_from_dict(document: Mapping[str, Any], where: str = "The policy") -> Policy:
    """Rebuild a policy from `to_dict`, or a Recorded from a trace document. Learned ones come from their own file."""
    if document.get("format") == TRACE_FORMAT:
        return Recorded(Trace.from_dict(document, where))
    check_header(dict(document), FORMAT, NEWEST, PolicyError, where)
    match document.get("kind"):
        case "constant":
            return build(Constant, _fields(document, "deviation"), PolicyError, where)
        case "curve":
            return build(Curve, _fields(document, "knots", "axis"), PolicyError, where)
        case "recorded":
            named = build(Described, _fields(document), PolicyError, where)
            trace = as_object(document.get("trace"), PolicyError, f"The trace of {where}")
            return Recorded(Trace.from_dict(trace, where), named.name, named.about)
        case "learned":
            raise PolicyError(f"{where} only describes a TPM; give the TPM's .safetensors file.")
        case kind:
            raise PolicyError(f"{where} is a policy of unknown kind {kind!r}; update asyncdiff.")


@dataclass(frozen=True)
class Described:
    """What the document of every policy says."""

    __pydantic_config__ = STRICT

    bound: float = DEFAULT_BOUND
    name: str = "recorded"
    backbone: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, PolicyError)


def _fields(document: Mapping[str, Any], *own: str) -> dict[str, Any]:
    """The fields of a policy's document, without its header."""
    return {name: document[name] for name in ("bound", "name", "backbone", "about", *own) if name in document}


def load_policy(path: str | Path, backbone: str | None = None) -> Policy:
    """The policy in a .json file (constant, curve, recorded, or a trace) or a .safetensors file (a TPM).

    `backbone` is checked where given. Every failure is a PolicyError.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        tpm, card = load_tpm(path)
        learned = Learned(tpm, card=card)
        learned.file = identity(path)
        policy: Policy = learned
    else:
        policy = policy_from_dict(read_json(path, PolicyError), str(path))
    if backbone is not None:
        check_backbone(policy, backbone)
    return policy


def save_policy(path: str | Path, policy: Policy) -> Path:
    """Write a policy atomically: JSON, or for a Learned one a TPM checkpoint."""
    if isinstance(policy, Learned):
        card = policy.card or Card(backbone=policy.tpm.config.backbone, bound=policy.bound)
        return save_tpm(path, policy.tpm, card)
    return write_json(path, policy.to_dict())


def presets() -> dict[str, Path]:
    """The shipped policies by name, e.g. "sd35-coco"."""
    files = (*PRESETS.glob("*.json"), *PRESETS.glob("*.safetensors"))
    return {path.stem: path for path in sorted(files)}


def find_policy(name_or_path: str | Path, backbone: str | None = None) -> Policy:
    """The policy of a shipped name or a file path. Neither: a PolicyError that lists the names."""
    shipped = presets()
    path = shipped.get(str(name_or_path), Path(name_or_path))
    if not is_file(path):
        raise PolicyError(
            f"{shortened(name_or_path)} is neither a file nor a shipped policy"
            f"{did_you_mean(str(name_or_path), shipped)}; those are {', '.join(shipped)}."
        )
    return load_policy(path, backbone)
