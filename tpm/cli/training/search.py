"""``asyncdiff search``: find a curve of D without training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AsyncDiffError
from ...numbers import signed
from ..shared import models, options
from ..shared.processes import join_processes
from ..shared.tables import as_text
from .setting import add_folder, add_recipe, add_setting, open_setting, prompts_of, recipe_for, texts_of

if TYPE_CHECKING:
    from ...training.search.plan import SearchPlan
    from ...training.search.search import Found
    from ..shared.models import Model

DEFAULT_OUT = "asyncdiff-search"
MOST = 10**6


def add_parser(commands: Any) -> None:
    """Declare the command's options."""
    parser = commands.add_parser(
        "search",
        help="find a policy without training: constants, then a curve of D",
        description="Compare constants with the synchronous sampler, then search a curve of D over σ together with the"
        " synchronous tail by the cross-entropy method, and judge the best on held-out prompts. Far cheaper than"
        " training. Without --model it searches for the embedded pipeline. Interrupted, it goes on with --resume.",
    )
    add_recipe(parser)
    add_folder(parser, DEFAULT_OUT, "go on with the search in --out")
    _add_plan(parser.add_argument_group("search"))
    add_setting(parser)
    parser.add_argument(
        "--held-out", type=options.path, metavar="FILE", dest="held_out_file", help="prompts to judge the best on"
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def _add_plan(group: Any) -> None:
    whole, number = options.whole, options.number
    group.add_argument("--steps", type=whole("steps", 2, options.MOST_STEPS), metavar="K", help="steps of the sampler")
    group.add_argument(
        "--bound",
        type=number("the bound", 0, 1, open_low=True),
        default=0.5,
        metavar="B",
        help="largest |D|, 1 when lifted (default: 0.5)",
    )
    numbers = {
        "candidate-prompts": ("prompts", 48, "prompts a candidate is judged on"),
        "held-out-prompts": ("held_out", 128, "prompts that the best are judged on"),
        "generations": ("generations", 8, "generations of the cross-entropy method"),
        "population": ("population", 16, "candidates a generation"),
        "elite": ("elite", 4, "candidates that the next generation learns from"),
        "knots": ("knots", 4, "points of the curve, evenly spaced in log-SNR"),
    }
    for option, (name, default, text) in numbers.items():
        kind = whole(option, 0 if name == "generations" else 1, MOST)
        group.add_argument(
            f"--{option}", dest=f"plan_{name}", type=kind, default=default, metavar="N", help=f"{text} ({default})"
        )
    group.add_argument(
        "--tails",
        type=whole("tail_sync", 0, options.MOST_STEPS),
        nargs="+",
        default=[0, 1, 2],
        metavar="N",
        help="numbers of last steps that run synchronously to choose from (default: 0 1 2)",
    )
    group.add_argument(
        "--couplings",
        type=number("p", -4, 4),
        nargs="+",
        default=[0.0],
        metavar="P",
        help="velocity couplings p to choose from (default: 0)",
    )
    group.add_argument("--seed", type=whole("a seed", 0, 2**63 - 1), default=42, metavar="S", help="default: 42")
    group.add_argument("--batch", type=whole("batch", 1, 1024), default=16, metavar="N", help="images a run (16)")


def run(args: argparse.Namespace) -> None:
    """The command. What can be checked without the model is checked before it is loaded."""
    model = models.locate(args.model)
    others, given = _held_out(args, model), texts_of(args, model)  # files before captions that are drawn
    from ...training.compare.measure import Measurer
    from ...training.prompts import PromptOrder
    from ...training.search.search import STATE, Search

    document = recipe_for(model, args.recipe)
    plan = _plan(args, document)
    if (args.out / STATE).exists() and not args.resume:
        raise AsyncDiffError(
            f"There is a search in {args.out} already: go on with it by --resume, or choose another --out."
        )
    processes = join_processes()
    setting = open_setting(args, model, document, given)
    prompts, held_out = split(given, others, plan.held_out)
    with _progress(shown=processes.is_main and not args.no_progress) as bar:
        measurer = Measurer(setting.studio, setting.scorer, args.batch, processes, on_images=bar.images)
        order = PromptOrder(prompts, plan.seed)
        search = Search(measurer, order, held_out, plan, args.out, setting.metrics, bar.record)
        bar.begin(search.images() // processes.size)
        found = search.run(args.resume)
    if processes.is_main:
        _say(found, args.out)


def split(prompts: Sequence[str], held_out: Sequence[str] | None, count: int) -> tuple[Sequence[str], Sequence[str]]:
    """Prompts to search on and to judge on: other prompts, or the last `count` of a list, at most half of it."""
    if held_out is not None:
        return prompts, held_out
    cut = len(prompts) - min(count, len(prompts) // 2)
    if cut == len(prompts):
        raise AsyncDiffError(
            "One prompt cannot be split into some to search on and some to judge on; give two or more."
        )
    return prompts[:cut], prompts[cut:]


def _held_out(args: argparse.Namespace, model: Model) -> list[str] | None:
    """The prompts of ``--held-out``."""
    return None if args.held_out_file is None else prompts_of(args.held_out_file, model, held_out=False)


def _plan(args: argparse.Namespace, document: Mapping[str, Any]) -> SearchPlan:
    from ...training.search.plan import SearchPlan

    training = document.get("training", {})
    given = {entry.name: getattr(args, f"plan_{entry.name}", None) for entry in fields(SearchPlan)}
    chosen = {name: value for name, value in given.items() if value is not None}
    return SearchPlan(
        steps=args.steps or training.get("steps", SearchPlan.steps),
        bound=args.bound,
        tails=tuple(dict.fromkeys(args.tails)),
        couplings=tuple(dict.fromkeys(args.couplings)),
        seed=args.seed,
        weights=training.get("weights", {}),
        **chosen,
    )


class _Quiet:
    """No progress bar."""

    def begin(self, images: int) -> None:
        """A run of this many images starts."""

    def images(self, count: int) -> None:
        """So many images more are done."""

    def record(self, record: dict[str, Any]) -> None:
        """A constant or a generation was judged."""


class _Bar(_Quiet):
    """The images so far, and what was found."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._best_constant = bar, ("–", float("-inf"))

    def begin(self, images: int) -> None:
        self._bar.reset(images)

    def images(self, count: int) -> None:
        self._bar.update(count)

    def record(self, record: dict[str, Any]) -> None:
        if record["stage"] == "constants":
            self._best_constant = max(self._best_constant, (_constant(record), record["gain"]), key=lambda it: it[1])
            self._bar.set_postfix(constant=self._best_constant[0], gain=signed(self._best_constant[1], 3))
            return
        curve = " ".join(f"{value:+.2f}" for value in record["mean"])
        self._bar.set_postfix(
            generation=record["generation"],
            centre=signed(record["centre"], 3),
            elite=signed(record["elite"], 3),
            curve=curve,
            sd=f"{max(record['std']):.2f}",
        )


@contextmanager
def _progress(shown: bool) -> Iterator[_Quiet]:
    if not shown:
        yield _Quiet()
        return
    from tqdm import tqdm

    with tqdm(unit="image", desc="search", file=sys.stderr, dynamic_ncols=True) as bar:
        yield _Bar(bar)


def _say(found: Found, out: Path) -> None:
    """The table of the last stage, and where things are."""
    print(as_text(["held-out prompts", "gain", "95 % interval", "metrics"], [*map(_line, found.report["held_out"])]))
    over = found.report["winner"]["over_constant"]
    print(
        f"\nStopped because {found.report['stopped']}. The curve is {signed(over['mean'], 3)}"
        f" [{signed(over['low'], 3)}, {signed(over['high'], 3)}] better than the best constant"
        f" ({found.constant.name}); a gain of 1 is one standard deviation between two noises."
    )
    print(f"{sum(found.report['saved_evaluations'].values()):,} evaluations were taken from runs that start alike.")
    print(f"Saved in {out}: curve.json, constant.json, search.json")


def _constant(record: Mapping[str, Any]) -> str:
    """D of a constant, and its tail where it has one."""
    return f"{record['D']:g}" + (f", tail {record['tail_sync']}" if record["tail_sync"] else "")


def _line(row: Mapping[str, Any]) -> list[str]:
    interval = row["interval"]
    shown = f"{signed(interval['low'], 3)} … {signed(interval['high'], 3)}" if interval else "–"
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in row["metrics"].items())
    return [row["name"], signed(row["gain"], 3), shown, metrics]
