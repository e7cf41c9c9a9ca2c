"""``asyncdiff train``: train a TPM with GRPO."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AsyncDiffError
from ...numbers import signed
from ..shared import models, options
from ..shared.processes import join_processes
from .setting import add_folder, add_setting, open_setting, recipe_for, texts_of

if TYPE_CHECKING:
    from ...training.grpo.recipe import Recipe
    from ...training.grpo.trainer import Outcome

DEFAULT_OUT = "asyncdiff-training"
MANY = 10**9


def add_parser(commands: Any) -> None:
    """Declare the command's options."""
    parser = commands.add_parser(
        "train",
        help="train a timestep prediction module (TPM) with GRPO",
        description="Train a TPM with group-relative policy optimisation: the denoiser stays as it is, and needs no"
        " gradients. Without --model it trains on the embedded pipeline, on any CPU. Interrupted, it goes on with"
        " --resume. Start it with `accelerate launch -m asyncdiff.tpm.cli train …` to use several devices.",
    )
    parser.add_argument("--recipe", metavar="NAME", help="a shipped recipe or a file (default: the model's own)")
    add_folder(parser, DEFAULT_OUT, "go on with the run in --out")
    _add_recipe(parser.add_argument_group("training (defaults: the recipe's)"))
    add_setting(parser)
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def _add_recipe(group: Any) -> None:
    """Fields of `Recipe` as options; what is not given is the recipe's."""
    whole, number = options.whole, options.number
    recipe_options: dict[str, tuple[Callable[[str], Any], str]] = {
        "iterations": (whole("iterations", 1, MANY), "how many"),
        "steps": (whole("steps", 2, options.MOST_STEPS), "steps of the sampler"),
        "group": (whole("group", 2, 4096), "trajectories a prompt"),
        "noises": (whole("noises", 1, 4096), "start noises that a group shares (default: one each)"),
        "prompts_per_iteration": (whole("prompts", 1, 4096), "prompts an iteration"),
        "minibatch": (whole("minibatch", 1, 4096), "trajectories an optimiser step"),
        "render_batch": (whole("render batch", 1, 4096), "most images in one run of the model"),
        "learning_rate": (number("the learning rate", 0, 1, open_low=True), "of AdamW"),
        "clip": (number("clip", 0, 1, open_low=True), "PPO's ε"),
        "kl_limit": (number("the limit", 0, 10), "largest move of an iteration, in nats of KL; 0: only the clip's"),
        "ema": (number("ema", 0, 1), "decay of the averaged weights"),
        "bound": (number("the bound", 0, 1, open_low=True), "largest |D|"),
        "tail_sync": (whole("tail_sync", 0, options.MOST_STEPS), "the last N evaluations run synchronously"),
        "start": (number("start", -1, 1), "D that the untrained TPM answers"),
        "probe_every": (whole("probe_every", 0, MANY), "iterations between looks at the synchronous sampler"),
        "probes": (whole("probes", 1, 4096), "prompts of a comparison"),
        "seed": (whole("a seed", 0, 2**63 - 1), "of everything"),
    }
    for name, (kind, text) in recipe_options.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=text)
    group.add_argument(
        "--null-reward", action="store_true", default=None, help="the control: scores are random numbers"
    )


def run(args: argparse.Namespace) -> None:
    """The command. What can be checked without the model is checked before it is loaded."""
    model = models.locate(args.model)
    prompts = texts_of(args, model)
    from ...training.grpo.report import write_report
    from ...training.grpo.trainer import STATE, Trainer
    from ...training.prompts import PromptOrder

    document = recipe_for(model, args.recipe)
    recipe = _recipe(args, document)
    _check_folder(args.out, STATE, args.resume)
    processes = join_processes()
    setting = open_setting(args, model, document, prompts)
    with _logged(args.out, recipe.iterations, is_main=processes.is_main, bar=not args.no_progress) as on_record:
        trainer = Trainer(
            setting.studio,
            setting.scorer,
            PromptOrder(setting.prompts, recipe.seed),
            recipe,
            args.out,
            processes,
            setting.metrics,
            on_record,
            name=args.out.resolve().name,
        )
        outcome = trainer.run(args.resume)
    if processes.is_main:
        _say(outcome, write_report(args.out))


def _recipe(args: argparse.Namespace, document: dict[str, Any]) -> Recipe:
    """The recipe's fields, with those that were given on the command line."""
    from ...training.grpo.recipe import Recipe

    given = {entry.name: getattr(args, entry.name, None) for entry in fields(Recipe)}
    chosen = {name: value for name, value in given.items() if value is not None}
    return Recipe(**{**document.get("training", {}), **chosen})


def _check_folder(out: Path, state: str, resume: bool) -> None:
    if (out / state).exists() and not resume:
        raise AsyncDiffError(f"There is a run in {out} already: go on with it by --resume, or choose another --out.")


@contextmanager
def _logged(out: Path, iterations: int, is_main: bool, bar: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What is done with a record: the bar, and TensorBoard's log, which forgets what a resumed run does again."""
    from ...training.grpo.tensorboard import TensorBoardLog

    boards: list[TensorBoardLog] = []
    with _progress(iterations, shown=is_main and bar) as show:

        def on_record(record: dict[str, Any]) -> None:
            if is_main and not boards:
                boards.append(TensorBoardLog(out / "tensorboard", record["iteration"]))
            for board in boards:
                board.add(record)
            show(record)

        try:
            yield on_record
        finally:
            for board in boards:
                board.close()


@contextmanager
def _progress(iterations: int, shown: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar with the numbers that matter, or nothing."""
    if not shown:
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=iterations, unit="it", desc="train", file=sys.stderr, dynamic_ncols=True) as bar:

        def show(record: dict[str, Any]) -> None:
            bar.n = record["iteration"]
            numbers = {"D": signed(sum(record["D"]) / len(record["D"]), 2)}
            numbers |= {name: f"{value:.3f}" for name, value in record["metrics"].items()}
            probe = record.get("probe")
            if probe and probe["gain"] is not None:
                show.gain = signed(probe["gain"], 3)  # type: ignore[attr-defined]
            numbers["gain"] = getattr(show, "gain", "–")
            bar.set_postfix(numbers, refresh=True)

        yield show


def _say(outcome: Outcome, report: Sequence[Path]) -> None:
    """How it ended, and where things are."""
    if outcome.reason:
        print(f"Stopped after {outcome.iterations} iterations. {outcome.reason}")
    pages = " and ".join(str(path) for path in report)
    print(f"{outcome.iterations} iterations. The TPM is {outcome.tpm}; the report is in {pages}.")
