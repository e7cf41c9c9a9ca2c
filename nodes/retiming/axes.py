"""The two axes of a γ Sweep: the list of γ, and one more setting with values of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from ...tpm.errors import PolicyError, RetimingError
from ...tpm.policies import Policy
from .. import sockets
from .automatic import Automatic, fitting
from .fit import check_fits, seen_in
from .policy_names import AUTOMATIC, listed, load, policy_files, short

MOST_GAMMAS = 16
MOST_SECOND = 8
MOST_RUNS = 64
NO_AXIS = "none"
FROM_POLICY = "from policy"


@dataclass(frozen=True)
class Setting:
    """What decides all runs of one row, beside γ and what no axis changes."""

    seed: int
    steps: int
    cfg: float
    policy: Policy
    bound: str
    tail_sync: int
    velocity_coupling: float
    label: str = ""  # such as "cfg 3"; empty where there is no second axis
    value: int | float | str | None = None  # of the second axis, as its widget takes it

    def on(self, model: Any) -> Setting:
        """For a MODEL, which decides the automatic policy. Raises PolicyError for a policy of another family."""
        policy, _ = fitting(self.policy, model)
        check_fits(policy, seen_in(model))
        return replace(self, policy=policy)


class Axis(NamedTuple):
    """A setting that may be the second axis."""

    field: str
    read: Callable[[str], Any]
    example: str


def _within(kind: type, low: float, high: float) -> Callable[[str], Any]:
    """Reads a number of a widget with these limits."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise ValueError(f"a {'whole ' if kind is int else ''}number from {low:g} to {high:g}")
        return value

    return read


def _bound(text: str) -> str:
    """The value of the bound widget; its first word is enough."""
    words = {name.split()[0]: name for name in sockets.BOUNDS if name != FROM_POLICY}
    return _one_of(words | {name: name for name in sockets.BOUNDS}, text, list(sockets.BOUNDS))


def _policy(text: str) -> str:
    """A policy by the name in Load Policy's list or by its own name."""
    try:
        return listed(text)
    except PolicyError:
        raise ValueError(f"one of {', '.join([AUTOMATIC, *map(short, policy_files())])}") from None


def _one_of(names: dict[str, str], text: str, offered: list[str]) -> str:
    if text not in names:
        raise ValueError(f"one of {', '.join(offered)}")
    return names[text]


AXES = {
    "steps": Axis("steps", _within(int, 1, 10_000), "8, 15, 28"),
    "cfg": Axis("cfg", _within(float, 0, 100), "1, 3, 5"),
    "seed": Axis("seed", _within(int, 0, 2**64 - 1), "1, 2, 3"),
    "tail_sync": Axis("tail_sync", _within(int, 0, 1000), "0, 1"),
    "p": Axis("velocity_coupling", _within(float, -1, 2), "0, 0.5, 1"),
    "bound": Axis("bound", _bound, "0.5, 1.0"),
    "policy": Axis("policy", _policy, "sd35-coco, constant-one-tail"),
}


def parse_gammas(text: str) -> list[float]:
    """The values of γ in "0, 0.5, 1, 2"; a RetimingError that says what is wrong."""
    if not isinstance(text, str):  # linked to a node that gives anything
        raise RetimingError(f'γ values are text such as "0, 0.5, 1, 2", not {type(text).__name__}.')
    try:
        values = [float(part) for part in _parts(text)]
    except ValueError:
        raise RetimingError(f'"{text}" is not a list of γ values; write "0, 0.5, 1, 2".') from None
    if not 1 <= len(values) <= MOST_GAMMAS or len(set(values)) < len(values):
        raise RetimingError(f"Give 1 to {MOST_GAMMAS} different γ values, not {text!r}.")
    if not all(-10 <= value <= 10 for value in values):
        raise RetimingError("Each γ must be a number from −10 to 10.")
    return values


def parse_second(axis: str, text: str) -> list[Any]:
    """The values of the second axis, each as its widget takes it; none where there is no such axis."""
    if axis == NO_AXIS:
        return []
    if axis not in AXES:
        raise RetimingError(f"second_axis is one of {', '.join([NO_AXIS, *AXES])}, not {axis!r}.")
    if not isinstance(text, str):
        raise RetimingError(f'second_values is text such as "{AXES[axis].example}", not {type(text).__name__}.')
    values = [_value(axis, part) for part in _parts(text)]
    if not 1 <= len(values) <= MOST_SECOND or len(set(values)) < len(values):
        raise RetimingError(
            f'Give 1 to {MOST_SECOND} different values of {axis} in second_values, such as "{AXES[axis].example}", not'
            f" {text!r}."
        )
    return values


def check_axes(gammas: str, axis: str, text: str) -> None:
    """Raise RetimingError for lists that cannot be read, or that ask for too many runs."""
    runs = len(parse_gammas(gammas)) * max(1, len(parse_second(axis, text)))
    if runs > MOST_RUNS:
        raise RetimingError(f"These two lists ask for {runs} runs; shorten one of them to {MOST_RUNS} in all.")


def rows_of(base: Setting, axis: str, text: str) -> list[Setting]:
    """One setting for each value of the second axis, or the one there is."""
    return [_row(base, axis, value) for value in parse_second(axis, text)] or [base]


def between(gammas: list[float]) -> list[dict[str, float]]:
    """For each two neighbours the γ halfway, with as few decimals as tell it from both: {"low", "high", "gamma"}."""
    ordered = sorted(gammas)
    return [{"low": a, "high": b, "gamma": _halfway(a, b)} for a, b in pairwise(ordered)]


def _halfway(low: float, high: float) -> float:
    middle = (low + high) / 2
    rounded = (round(middle, digits) for digits in range(2, 9))
    return next((value for value in rounded if abs(value - middle) < (high - low) / 4), middle)


def _row(base: Setting, axis: str, value: Any) -> Setting:
    shown = f"{value:g}" if isinstance(value, float) else short(str(value))
    given = value if axis != "policy" else Automatic() if value == AUTOMATIC else load(value)
    return replace(base, **{AXES[axis].field: given, "label": f"{axis} {shown}", "value": value})


def _value(axis: str, part: str) -> Any:
    try:
        return AXES[axis].read(part)
    except ValueError as expected:
        raise RetimingError(f'"{part}" in second_values is no {axis}: give {expected}.') from None


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.replace(";", ",").replace("\n", ",").split(",") if part.strip()]
