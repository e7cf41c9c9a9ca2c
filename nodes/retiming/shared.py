"""Work that runs of one node share: the first evaluation of runs that start alike, and runs that were made before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, cast
from weakref import ref

import torch
from torch import Tensor

from ...tpm.retiming.trace import Trace
from ..latents import size_of

MOST_BYTES = 512 * 2**20  # of latents and pictures that are kept
MOST_FIRSTS, MOST_FIRST_BYTES = 8, 256 * 2**20  # first evaluations that are kept


class FirstEvaluation:
    """The denoised latent of a run's first evaluation, which no γ changes, for the next run from the same noise."""

    def __init__(self, merges: bool = False) -> None:
        """merges: a batch of one text and one noise is evaluated as one sample, which rounds differently."""
        self._known: tuple[Tensor, Tensor, Tensor] | None = None
        self._merges = merges
        self.saved = 0  # samples that runs asked for and the model did not evaluate

    def ask(self, evaluate: Callable[..., Tensor], x: Tensor, sigma: Tensor, *args: Any) -> tuple[Tensor, bool]:
        """The denoised latent, and whether the model was asked. The host waits for the device, once a run."""
        known = self._recall(x, sigma)
        if known is not None:
            self.saved += len(x)
            return known, False
        one = self._merges and len(x) > 1 and torch.equal(x, x[:1].expand_as(x))
        denoised = evaluate(x[:1], sigma[:1], *args).expand_as(x).clone() if one else evaluate(x, sigma, *args)
        self.saved += len(x) - 1 if one else 0
        self._known = (x.clone(), sigma.clone(), denoised.clone())
        return denoised, True

    def size(self) -> int:
        """Bytes."""
        return sum(part.nbytes for part in self._known or ())

    def _recall(self, x: Tensor, sigma: Tensor) -> Tensor | None:
        """What an earlier run got for exactly this x and σ."""
        if self._known is None:
            return None
        seen, at, denoised = self._known
        same = seen.shape == x.shape and seen.dtype == x.dtype and torch.equal(at, sigma) and torch.equal(seen, x)
        return denoised.clone() if same else None


class FirstEvaluations:
    """First evaluations of one model by what a run starts from, in bounded memory; the latest used stay."""

    def __init__(self) -> None:
        self._kept: dict[Any, FirstEvaluation] = {}
        self._saved = 0  # by those that are no longer kept

    def of(self, start: Any, merges: bool = False) -> FirstEvaluation:
        """The one of all runs that start so. merges: see `FirstEvaluation`."""
        first = self._kept.pop(start, None) or FirstEvaluation(merges)
        while self._kept and (len(self._kept) >= MOST_FIRSTS or self._size() > MOST_FIRST_BYTES):
            self._saved += self._kept.pop(next(iter(self._kept))).saved
        self._kept[start] = first
        return first

    @property
    def saved(self) -> int:
        """Evaluations that were not made, in samples."""
        return self._saved + sum(first.saved for first in self._kept.values())

    def _size(self) -> int:
        return sum(first.size() for first in self._kept.values())


@dataclass
class Made:
    """What one run of a sweep gave."""

    latent: Any  # a tensor, or several in one
    trace: Trace | None
    pictures: Tensor | None = None  # (B, T, H, W, 3), as the VAE of `decoder` decoded them
    decoder: Any = None
    files: list[dict[str, str]] = field(default_factory=list)  # the host's previews of the pictures

    def pictures_by(self, vae: Any, decode: Callable[[Any, Any], Tensor]) -> Tensor:
        """The pictures that this VAE makes of the latent, made once."""
        told = signature(vae)
        if self.pictures is None or self.decoder != told:
            self.pictures, self.decoder, self.files = decode(vae, self.latent), told, []
        return self.pictures

    def forget_pictures(self) -> None:
        """Keep the latent and the previews; the pictures can be decoded again."""
        self.pictures = None

    def size(self) -> int:
        """Bytes."""
        return size_of(self.latent) + (0 if self.pictures is None else self.pictures.nbytes)


@dataclass
class Runs:
    """The runs of one setting by γ."""

    setting: Any
    first: FirstEvaluation
    made: dict[float, Made] = field(default_factory=dict)

    def recall(self, gamma: float) -> Made | None:
        """The run at γ, if it was made and is still kept."""
        return self.made.get(gamma)


class Remembered:
    """Runs of one model by setting (text, noise, sampler, policy, …) and γ, in bounded memory.

    Another model forgets all of them. A setting that cannot come back, because an object in it is gone, is forgotten as
    well; it keeps none of them alive.
    """

    def __init__(self) -> None:
        self._model: Any = None
        self._runs: list[Runs] = []  # the latest used last
        self._firsts: list[tuple[Any, FirstEvaluation]] = []

    def under(self, model: Any, start: Any, rest: Any = ()) -> Runs:
        """The runs of this model and setting. start: what decides the first evaluation; rest: what else there is."""
        told = signature(model)
        if self._model != told:
            self._model, self._runs, self._firsts = told, [], []
        setting = signature((start, rest))
        found = next((runs for runs in self._runs if runs.setting == setting), None)
        runs = found or Runs(setting, self._first_of(setting[0]))
        self._runs = [kept for kept in self._runs if kept is not runs and not is_gone(kept.setting)] + [runs]
        return runs

    def keep(self, runs: Runs, gamma: float, made: Made) -> None:
        """Remember a run."""
        runs.made[gamma] = made
        self.shrink()

    def shrink(self) -> None:
        """Forget the oldest pictures, and then the oldest runs but the latest, where there is too much."""
        every = [(runs, gamma, made) for runs in self._runs for gamma, made in runs.made.items()]
        excess = sum(made.size() for _, _, made in every) - MOST_BYTES
        for _, _, made in every[:-1]:
            if excess > 0:
                before = made.size()
                made.forget_pictures()
                excess -= before - made.size()
        for runs, gamma, made in every[:-1]:
            if excess > 0:
                excess -= made.size()
                del runs.made[gamma]

    def _first_of(self, start: Any) -> FirstEvaluation:
        """The first evaluation of all settings that start so."""
        for told, first in self._firsts:
            if told == start:
                return first
        self._firsts = [*self._firsts[1 - MOST_FIRSTS :], (start, FirstEvaluation())]
        return self._firsts[-1][1]


def can_share(model: Any, conditionings: Iterable[Any]) -> bool:
    """Whether an evaluation may be left out: nothing on the model or the texts may want to see every one of them."""
    options = dict(model.model_options)
    inside = options.pop("transformer_options", {})
    plain = not any(options.values()) and not any(inside.values()) and not any(model.wrappers.values())
    return plain and not any({"control", "hooks"} & set(entry[1]) for entries in conditionings for entry in entries)


@dataclass(frozen=True)
class Held:
    """An object, without keeping it alive: equal to another one only if both hold the same living object."""

    reference: Callable[[], Any]

    def __eq__(self, other: object) -> bool:
        mine = self.reference()
        return isinstance(other, Held) and mine is not None and mine is other.reference()

    def __hash__(self) -> int:
        return 0


def signature(value: Any) -> Any:
    """What stands for a value of a graph in a comparison by `==`: numbers and texts as they are, objects as `Held`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {name: signature(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [signature(part) for part in value]
    if is_dataclass(value) and cast("Any", value).__dataclass_params__.frozen:
        return type(value).__name__, {name: signature(part) for name, part in vars(value).items()}
    try:
        return Held(ref(value))
    except TypeError:
        return object()  # equal to nothing


def is_gone(told: Any) -> bool:
    """Whether a signature holds an object that no longer exists, or one that equals nothing: it cannot come back."""
    if isinstance(told, Held):
        return told.reference() is None
    if isinstance(told, dict):
        return any(map(is_gone, told.values()))
    if isinstance(told, list | tuple):
        return any(map(is_gone, told))
    return type(told) is object
