"""Options that commands share, and the checks of single values. A bad value is an argparse error: a sentence."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import AsyncDiffError
from ...retiming.solvers import EULER, SOLVERS

if TYPE_CHECKING:
    from ...policies import Policy
    from ...retiming.settings import Retiming

GAMMAS = (0.0, 0.5, 1.0, 2.0)
GRIDS = ("simple", "scheduler")
MOST_STEPS = 1000
PROMPT_FILE = "text (a prompt a line), .csv or .tsv (a column prompt, caption or text), .json, .jsonl, COCO captions"


def number(name: str, low: float, high: float, *, open_low: bool = False) -> Callable[[str], float]:
    """An argparse type: a finite number in [low, high], or in (low, high] with ``open_low``."""

    def parse(text: str) -> float:
        value = _as_number(text, name)
        if not math.isfinite(value) or not low <= value <= high or (open_low and value == low):
            limits = f"above {low:g} and at most {high:g}" if open_low else f"between {low:g} and {high:g}"
            raise argparse.ArgumentTypeError(f"{name} must be {limits}, got {text}")
        return value

    return parse


def path(text: str) -> Path:
    """An argparse type: a path that a file system can hold."""
    found = Path(text)
    longest = max((len(part.encode(errors="surrogateescape")) for part in found.parts), default=0)
    if not text or "\0" in text or longest > 255 or len(text) > 4096:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} cannot be a path; give an ordinary file or folder name")
    return found


def whole(name: str, low: int, high: int) -> Callable[[str], int]:
    """An argparse type: an integer in [low, high]."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{name} must be a whole number, got {text!r}") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{name} must be between {low} and {high}, got {text}")
        return value

    return parse


def size(text: str) -> tuple[int, int]:
    """``512`` or ``768x512`` as (width, height), each a multiple of 16 between 64 and 4096."""
    parts = text.lower().replace("×", "x").split("x")
    try:
        sides = [int(part) for part in parts]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise argparse.ArgumentTypeError(f"a size is one number or WIDTHxHEIGHT, such as 512 or 768x512, got {text!r}")
    for side in sides:
        if side % 16 or not 64 <= side <= 4096:
            raise argparse.ArgumentTypeError(f"a size must be a multiple of 16 between 64 and 4096, got {side}")
    return sides[0], sides[-1]


def add_gamma(parser: argparse._ActionsContainer) -> None:
    """``--gamma``, a list."""
    parser.add_argument(
        "--gamma",
        type=number("γ", 0, 4),
        nargs="+",
        default=list(GAMMAS),
        metavar="G",
        help="strengths to compare; 0 is the synchronous sampler (default: 0 0.5 1 2)",
    )


def add_retiming(parser: argparse._ActionsContainer) -> None:
    """How a policy's decisions are applied."""
    parser.add_argument(
        "--bound",
        type=number("the bound", 0, 1, open_low=True),
        metavar="B",
        help="largest deviation at γ = 1: 0.5, or 1 when lifted (default: the policy's own)",
    )
    parser.add_argument(
        "--tail-sync",
        type=whole("tail_sync", 0, MOST_STEPS),
        metavar="N",
        help="run the last N evaluations synchronously; 1 removes most residual noise (default: as the policy was made"
        " for, else 0)",
    )
    parser.add_argument(
        "--p",
        type=number("p", -4, 4),
        metavar="P",
        dest="coupling",
        help="velocity coupling ω = ρ^p: 0 is AsyncDiff, 1 is Detail Daemon / Lying Sigma (default: as the policy was"
        " made for, else 0)",
    )
    parser.add_argument(
        "--within-interval",
        action="store_true",
        default=None,
        help="never pass the neighbouring grid points (default: as the policy was made for, else off)",
    )


def add_solver(parser: argparse._ActionsContainer) -> None:
    """``--solver``; None where it is not given."""
    parser.add_argument(
        "--solver",
        choices=SOLVERS,
        help="who makes the steps, as ComfyUI's sampler of that name does; heun calls the model twice a step (default:"
        f" {EULER})",
    )


def retiming(args: argparse.Namespace, policy: Policy, gamma: float = 1.0) -> Retiming:
    """What ``add_retiming``'s options say, and what the policy was made for where they say nothing.

    Where columns have their own γ, that is for ``dataclasses.replace``.
    """
    from ...policies import retiming_of

    return retiming_of(
        policy,
        gamma=gamma,
        bound=args.bound,
        tail_sync=args.tail_sync,
        velocity_coupling=args.coupling,
        within_interval=args.within_interval,
    )


def check_distinct(name: str, values: Sequence[float] | Sequence[str]) -> None:
    """Raise when a list option names a value twice."""
    twice = [value for position, value in enumerate(values) if value in values[:position]]
    if twice:
        shown = twice[0] if isinstance(twice[0], str) else f"{twice[0]:g}"
        raise AsyncDiffError(f"{name} {shown} is given twice; name each value once.")


def check_tail(tail_sync: int | None, steps: int) -> None:
    """Raise when more evaluations are to be synchronous than there are; None: the option was not given."""
    if tail_sync is not None and tail_sync > steps:
        raise AsyncDiffError(f"--tail-sync {tail_sync} is more than the {steps} steps; use {steps} or less.")


def _as_number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        hint = "; write the prompts before the options" if " " in text else ""
        raise argparse.ArgumentTypeError(f"{name} must be a number, got {text!r}{hint}") from None
