"""``asyncdiff calibrate``: a policy from the spectrum of a many-step run, without rewards."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AsyncDiffError
from ..shared import models, options
from ..shared.output_folder import check_writable
from ..shared.progress import counting_bar
from .setting import add_folder, add_prompts, add_recipe, add_sampling, configured, recipe_for, texts_of

if TYPE_CHECKING:
    from ...training.calibrate.calibrate import Calibrated, CalibrationPlan

DEFAULT_OUT = "asyncdiff-calibration"
CHART = "chart.png"


def add_parser(commands: Any) -> None:
    """Declare the command's options."""
    parser = commands.add_parser(
        "calibrate",
        help="experimental: a policy from the spectrum of a many-step run, without rewards",
        description="Experimental. Sample some prompts synchronously in many steps, then choose D (one number, and"
        " another for the last evaluation) so that a run of few steps has the same spectrum. No rewards, nothing is"
        " decoded, for every flow model. At high guidance it is known not to help. Interrupted, it goes on with"
        " --resume.",
    )
    add_recipe(parser)
    add_folder(parser, DEFAULT_OUT, "go on with the calibration in --out")
    _add_plan(parser.add_argument_group("calibration"))
    add_sampling(parser)
    add_prompts(parser)
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def _add_plan(group: Any) -> None:
    whole = options.whole
    group.add_argument("--steps", type=whole("steps", 3, options.MOST_STEPS), metavar="K", help="of the sampler")
    group.add_argument(
        "--teacher-steps",
        type=whole("steps", 6, options.MOST_STEPS),
        metavar="M",
        help="of the run whose spectrum is matched; more make a stronger policy (default: 8 times --steps)",
    )
    group.add_argument("--count", type=whole("count", 4, 4096), default=16, metavar="N", help="prompts (16)")
    group.add_argument("--batch", type=whole("batch", 1, 1024), default=8, metavar="N", help="latents a run (8)")
    group.add_argument("--seed", type=whole("a seed", 0, 2**63 - 1), default=42, metavar="S", help="default: 42")


def run(args: argparse.Namespace) -> None:
    """The command. What can be checked without the model is checked before it is loaded."""
    model = models.locate(args.model)
    prompts = texts_of(args, model)
    from ...drawing.png import save_png
    from ...files import read_json
    from ...training.calibrate.calibrate import REPORT, STATE, Calibration
    from ...training.calibrate.chart import calibration_chart
    from ...training.prompts import PromptOrder

    document = recipe_for(model, args.recipe)
    plan = _plan(args, document.get("training", {}).get("steps") or model.defaults().steps)
    if (args.out / STATE).exists() and not args.resume:
        raise AsyncDiffError(
            f"There is a calibration in {args.out} already: go on with it by --resume, or choose another --out."
        )
    if len(prompts) < plan.prompts:
        raise AsyncDiffError(
            f"There are {len(prompts)} prompts for --count {plan.prompts}; give more, or a lower count."
        )
    check_writable(args.out)
    studio = configured(args, model, document)
    with counting_bar("calibrate", "evaluation", shown=not args.no_progress) as (begin, count):
        calibration = Calibration(studio, PromptOrder(prompts, plan.seed), plan, args.out, count)
        begin(calibration.evaluations())
        try:
            found = calibration.run(args.resume)
        finally:
            if (args.out / REPORT).is_file():
                save_png(args.out / CHART, calibration_chart(read_json(args.out / REPORT, AsyncDiffError)))
    _say(found, args.out)


def _plan(args: argparse.Namespace, steps: int) -> CalibrationPlan:
    from ...training.calibrate.calibrate import CalibrationPlan

    return CalibrationPlan(args.steps or steps, args.teacher_steps, args.count, args.batch, args.seed)


def _say(found: Calibrated, out: Path) -> None:
    """What was found, what it cost, and where things are."""
    from ...training.calibrate.calibrate import POLICY, REPORT
    from ...training.calibrate.words import found_and_cost, warning

    print(*found_and_cost(found.report), f"Saved in {out}: {POLICY}, {REPORT}, {CHART}", sep="\n")
    if warning(found.report):
        print(f"Warning: {warning(found.report)}", file=sys.stderr)
