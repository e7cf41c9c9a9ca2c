"""Whether a policy fits a model, and which of the policies that are there do: told before a run, and at its start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...tpm.errors import AsyncDiffError, PolicyError
from ...tpm.files import EMBEDDED_FOLDER
from ...tpm.policies import Learned, Policy, about_of, load_policy, solver_note, solver_told
from ...tpm.policies.checkpoint import read_card
from ...tpm.usual import CALLED
from ..sockets import PRESET
from .families import backbone_of
from .policy_names import TITLES, policy_files, title_of

EMBEDDED = EMBEDDED_FOLDER.name
"""What policies say that they were made on, where that was the embedded pipeline."""

MOST_NAMES = 3


@dataclass(frozen=True)
class Seen:
    """What is known of a model: the word for its family, its own preset, and how wide its prompts are."""

    family: str
    preset: str = ""
    width: int | None = None
    guessed: bool = False  # from a file: the host's own names of families may differ from the model's

    @property
    def called(self) -> str:
        """Its name in sentences."""
        return "the embedded pipeline" if self.preset else CALLED.get(self.family, self.family)


@dataclass(frozen=True)
class Made:
    """What a policy file says of the models that it is for."""

    family: str | None
    embedded: bool
    solver: str | None
    width: int | None = None  # of the prompts that a TPM reads

    def fits(self, model: Seen) -> bool:
        """Whether it can run on the model."""
        widths = {self.width, model.width} - {None}
        return self.is_of(model) and len(widths) < 2

    def is_of(self, model: Seen) -> bool:
        """Whether it is for the family of the model, as far as that is known."""
        unknown = model.guessed and not {self.family, model.family} & set(CALLED)
        return self.family in (None, model.family) or unknown


def seen_in(model: Any) -> Seen:
    """A MODEL."""
    return Seen(backbone_of(model), getattr(model, "attachments", {}).get(PRESET) or "")


def made_for(policy: Policy) -> Made:
    """What a policy says of itself."""
    width = policy.tpm.config.context_dim if isinstance(policy, Learned) else None
    return _made(policy.backbone, about_of(policy), width)


def check_fits(policy: Policy, model: Seen) -> None:
    """Raise PolicyError for a policy of another family, with the names of those that fit."""
    refuse_unless(made_for(policy), policy.name, model)


def refuse_unless(made: Made, name: str, model: Seen) -> None:
    """Raise PolicyError where the policy of that name cannot run on the model, with the names of those that can."""
    called = called_in_list(name)
    if not made.is_of(model):
        family = CALLED.get(made.family or "", made.family)
        raise PolicyError(f'The policy "{called}" was made for {family}, the model is {model.called}. {_advice(model)}')
    if not made.fits(model):
        raise PolicyError(
            f'The TPM "{called}" was trained on another model: it reads prompts of width {made.width}, this model\'s'
            f" have {model.width}. {_advice(model)}"
        )


def called_in_list(name: str) -> str:
    """What the list calls the policy of that name, where it is a preset."""
    return title_of(name) if name in TITLES else name


def solver_advice(made: Made, name: str, solver: str, model: Seen | None) -> str:
    """A sentence for the chart where the policy was made for another solver, with those made for this one; else ""."""
    if not solver or made.solver in (None, solver):
        return ""
    others = fitting_names(model, solver) if model else []
    told = f'"{called_in_list(name)}" was made for the sampler {made.solver}: with {solver} it may do too much.'
    return f"{told} Made for {solver}: {some(others)}." if others else f"{told} Compare with strength 0."


def fitting_names(model: Seen, solver: str | None = None) -> list[str]:
    """The list's names of the policies that fit; those made on the embedded pipeline where that is the model, first.

    solver: only those that were made for it.
    """
    embedded = bool(model.preset)
    found = [(name, made) for name, made in _all_made() if made.fits(model) and solver in (None, made.solver)]
    wanted = [(name, made) for name, made in found if made.embedded <= embedded]
    return [name for name, made in sorted(wanted, key=lambda one: one[1].embedded != embedded)]


def solver_of(sampler: Any) -> str:
    """The name of a SAMPLER, in the host's list where it is one of that."""
    function = getattr(sampler, "sampler_function", None)
    return str(getattr(function, "__name__", type(sampler).__name__)).removeprefix("sample_")


def solver_remark(policy: Policy, sampler: Any) -> str:
    """A sentence for a run with a SAMPLER that the policy was not made for, else ""."""
    return solver_note(policy, solver_of(sampler)) or ""


def some(names: list[str]) -> str:
    """The first few names, for a sentence."""
    more = f"; and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return "; ".join(names[:MOST_NAMES]) + more


def made_of_file(path: Path) -> Made:
    """What the policy in a file says of itself. Raises PolicyError. Of a TPM only the card is read."""
    stat = path.stat()
    return _made_of_file(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _made_of_file(path: Path, changed: int, size: int) -> Made:  # noqa: ARG001 - the file as it is now
    if path.suffix != ".safetensors":
        return made_for(load_policy(path))
    config, card = read_card(path)
    return _made(config.backbone, card.about, config.context_dim)


def _made(family: str | None, about: Mapping[str, Any], width: int | None) -> Made:
    sampling = about.get("sampling")
    named = sampling.get("model") if isinstance(sampling, Mapping) else about.get("backbone")
    return Made(family, named == EMBEDDED, solver_told(about), width)


def _all_made() -> Iterator[tuple[str, Made]]:
    found = ((name, _made_or_none(path)) for name, path in policy_files().items())
    return ((name, made) for name, made in found if made is not None)


def _made_or_none(path: Path) -> Made | None:
    try:
        return made_of_file(path)
    except (AsyncDiffError, OSError):  # a file that is broken, or gone by now, fits nothing
        return None


def _advice(model: Seen) -> str:
    names = fitting_names(model)
    return f"These fit: {some(names)}." if names else "No policy of Load Policy's list fits it: use Constant Deviation."
