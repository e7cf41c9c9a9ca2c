"""``asyncdiff pixelwise-evaluate``: does pixel-wise denoising help an embedded pipeline."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AsyncDiffError
from ...retiming.solvers import EULER, SOLVERS
from ...usual import EMBEDDED, USUAL
from ..shared import models, options, policies
from ..shared.output_folder import check_writable
from .command import CURVES

if TYPE_CHECKING:
    from ...embedded.pixelwise import Arm, Bench
    from ...retiming.contract import Policy
    from ...retiming.settings import Retiming
    from ..shared.models import Model


def add_parser(commands: Any) -> None:
    """Declare the command's options."""
    parser = commands.add_parser(
        "pixelwise-evaluate",
        help="measure pixel-wise denoising on an embedded pipeline",
        description="Draw held-out captions of several objects synchronously, on the concave control and pixel-wise,"
        " from the same noise, and let the judge read what they ask for: means and paired differences with 95 %"
        " bootstrap intervals. Resumable: run the same command again. Choose settings on one --captions-seed, and tell"
        " what they are worth on another.",
    )
    parser.add_argument("--model", default=EMBEDDED, help="an embedded pipeline's folder (default: the shipped one)")
    parser.add_argument("--prompts", type=options.whole("prompts", 2, 10**5), default=128, metavar="N")
    seed = options.whole("a seed", 0, 2**31)
    parser.add_argument("--captions-seed", type=seed, default=1234, metavar="S", help="which captions (1234)")
    parser.add_argument(
        "--objects", type=options.whole("objects", 1, 3), metavar="J", help="in a caption (default: the world's most)"
    )
    steps = options.whole("steps", 1, 1000)
    parser.add_argument("--steps", type=steps, nargs="+", default=[5, 8], metavar="K", help="default: 5 8")
    parser.add_argument("--cfg", type=options.number("cfg", 0, 30), default=USUAL[EMBEDDED].cfg)
    strength = options.number("k", 0, 1)
    parser.add_argument("--k", type=strength, default=0.5, help="strength of every object (default: 0.5)")
    parser.add_argument("--curve", choices=CURVES, default="bin", help="bin: quadratic (default), lin: piecewise, exp")
    threshold = options.number("the threshold", 0, 10, open_low=True)
    parser.add_argument(
        "--threshold", type=threshold, default=1.0, help="of regions from attention, in means of the map (default: 1)"
    )
    parser.add_argument(
        "--sweep", action="store_true", help="also every other k, curve and threshold, at the first of --steps"
    )
    others = [solver for solver in SOLVERS if solver not in (EULER, "heun")]  # Heun evaluates twice a step
    parser.add_argument(
        "--also-solver", nargs="+", choices=others, default=[], metavar="SOLVER",
        help=f"also the synchronous sampler with {', '.join(others)}",
    )  # fmt: skip
    parser.add_argument(
        "--policy", nargs="+", default=[], metavar="POLICY", help=f"also with each of these on top: {policies.HELP}"
    )
    parser.add_argument("--gamma", type=options.number("γ", 0, 4), default=1.0, help="its strength (default: 1)")
    options.add_retiming(parser)
    parser.add_argument(
        "--out", type=options.path, default=Path("pixelwise.json"), metavar="FILE", help="JSON; a chart beside"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """The command. Everything that can be checked without the model is checked before it is loaded."""
    if args.out.suffix != ".json":
        raise AsyncDiffError(f"--out {args.out} must end in .json; the chart is written beside it.")
    options.check_distinct("The number of steps", args.steps)
    options.check_distinct("The solver", args.also_solver)
    model = models.locate(args.model)
    prompts = _prompts(args, model)
    named = _policies(args, model)
    check_writable(args.out.parent)
    bench = _bench(args, model, prompts, named)
    about = {
        "model": model.name,
        "prompts": args.prompts,
        "captions_seed": args.captions_seed,
        "objects": bench.objects,
        "cfg": args.cfg,
        "policies": {
            name: {"policy": policy.to_dict(), **asdict(applied)} for name, (policy, applied) in named.items()
        },
    }
    _measure(args, about, bench, _arms(args, list(named)))


def _prompts(args: argparse.Namespace, model: Model) -> list[str]:
    from ...embedded.pixelwise import measured_captions

    if not model.judged:
        raise AsyncDiffError(f"{args.model} has no {models.JUDGE_FILE}; only an embedded pipeline can be measured.")
    world = models.world_of(model)
    objects = args.objects or world.objects
    if objects > world.objects:
        raise AsyncDiffError(f"A picture of this pipeline has at most {world.objects} objects, not {objects}.")
    return measured_captions(world, objects, args.prompts, args.captions_seed)


def _policies(args: argparse.Namespace, model: Model) -> dict[str, tuple[Policy, Retiming]]:
    """The policies by the names of their rows, as they were given."""
    options.check_distinct("The policy", args.policy)
    named = {text: policies.choose(text, model.backbone) for text in args.policy}
    for policy in named.values():
        policies.warn_of_solver(policy, EULER)
    return {text: (policy, options.retiming(args, policy, args.gamma)) for text, policy in named.items()}


def _arms(args: argparse.Namespace, named: Sequence[str]) -> list[Arm]:
    from ...embedded import pixelwise as study
    from ...pixelwise.schedules import PAPER_NAMES

    setting, arms = study.Setting(args.k, PAPER_NAMES[args.curve], args.threshold), []
    for number, steps in enumerate(args.steps):
        arms += [study.Arm("synchronous", steps, solver=solver) for solver in args.also_solver]
        slowed = study.sweep(steps, setting) if args.sweep and number == 0 else study.core(steps, setting)
        arms += slowed
        arms += [arm for name in named for arm in study.with_policy(study.core(steps, setting), name)]
    return arms


def _bench(
    args: argparse.Namespace, model: Model, prompts: Sequence[str], named: dict[str, tuple[Policy, Retiming]]
) -> Bench:
    from ...embedded.judges import load_judge
    from ...embedded.pixelwise import Bench

    assert model.folder is not None
    studios = {solver: models.open_studio(model, None, "cpu", solver) for solver in (EULER, *args.also_solver)}
    return Bench(studios, load_judge(model.folder), prompts, args.cfg, named)


def _measure(args: argparse.Namespace, about: dict[str, Any], bench: Bench, arms: Sequence[Arm]) -> None:
    from ...drawing.png import save_png
    from ...embedded import pixelwise_report as reports
    from ...files import write_json

    partial = args.out.with_suffix(".partial.json")
    rows = reports.report(reports.measure(bench.score, arms, about, partial))
    overlap = {str(steps): bench.overlap(steps, args.threshold) for steps in args.steps}
    print(reports.markdown(rows))
    write_json(args.out, about | {"static_mask_overlap": overlap, "rows": rows})
    subtitle = (
        f"Difference to the same seeds without: {bench.captions} held-out captions of {bench.objects} objects,"
        f" {args.steps[0]} steps, 95 % intervals"
    )
    title = f"Slowing regions down on {about['model']}"
    save_png(args.out.with_suffix(".png"), reports.chart(rows, title, subtitle))
    partial.unlink()
