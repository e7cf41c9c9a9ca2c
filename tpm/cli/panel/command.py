"""``asyncdiff panel``: the same prompts and seeds at several γ, side by side, measured."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AsyncDiffError
from ...retiming.solvers import EULER
from ...usual import UNKNOWN
from ..shared import models, options, policies
from ..shared.output_folder import check_writable
from ..shared.progress import progress_bar

if TYPE_CHECKING:
    from ...policies import Policy
    from ..shared.models import Model
    from .sweep import Column, Job, Settings

DEFAULT_OUT = "asyncdiff-panel"
MOST_IMAGES = 4096


def add_parser(commands: Any) -> None:
    """Declare the command's options."""
    parser = commands.add_parser(
        "panel",
        help="sample prompts at several strengths γ, side by side",
        description="Sample every prompt and seed at several strengths γ and save a labelled panel, the images, the"
        " traces, the chart of told timesteps and a table. Without --model it runs on the embedded pipeline, in"
        " seconds on a CPU.",
    )
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="one or more prompts, each in quotes")
    options.add_gamma(parser)
    sampling = parser.add_argument_group("sampling")
    models.add_model(sampling)
    sampling.add_argument(
        "--steps",
        type=options.whole("steps", 1, options.MOST_STEPS),
        metavar="K",
        help="default: 8 embedded, 15 SD3.5, 10 Flux, 25 SDXL and SD1.x, 20 Qwen-Image, 28 Flux.2 and Z-Image",
    )
    sampling.add_argument(
        "--cfg",
        type=options.number("cfg", 0, 30),
        help="guidance (default: 3 embedded, 5 SD3.5, 3.5 Flux, 5 SDXL, 7.5 SD1.x, 4 the others)",
    )
    sampling.add_argument("--negative", default="", metavar="TEXT", help="negative prompt")
    sampling.add_argument(
        "--seed",
        type=options.whole("a seed", 0, 2**63 - 1),
        nargs="+",
        default=[1],
        metavar="S",
        help="one or more (default: 1)",
    )
    sampling.add_argument("--size", type=options.size, metavar="N or WxH", help="pixels (default: the model's own)")
    sampling.add_argument(
        "--grid",
        choices=options.GRIDS,
        default="simple",
        help="ComfyUI's simple grid, or the diffusers scheduler's own",
    )
    options.add_solver(sampling)
    sampling.add_argument(
        "--batch",
        type=options.whole("batch", 1, 256),
        default=8,
        metavar="N",
        help="most images in one run (default: 8)",
    )
    policy = parser.add_argument_group("policy")
    policy.add_argument("--policy", metavar="POLICY", help=f"{policies.HELP} (default: the model's preset)")
    options.add_retiming(policy)
    out = {"type": options.path, "default": Path(DEFAULT_OUT), "metavar": "DIR"}
    parser.add_argument("--out", **out, help=f"default: {DEFAULT_OUT}")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """The command. Everything that can be checked without the model is checked before it is loaded."""
    options.check_distinct("γ", args.gamma)
    options.check_distinct("The seed", args.seed)
    model = models.locate(args.model)
    prompts = models.check_captions(model, args.prompts)
    args.negative = models.check_texts(model, [args.negative])[0]
    jobs = _jobs(args, prompts)
    solver = args.solver or EULER
    policy = choose_policy(args.policy, model, model.backbone, solver)
    settings = _settings(args, model, model.backbone, policy)
    check_writable(args.out)
    studio = models.open_studio(model, args.dtype, args.device, args.solver)
    if studio.backbone != model.backbone:  # a hub id tells its family only now
        policy = choose_policy(args.policy, model, studio.backbone, solver)
        settings = _settings(args, model, studio.backbone, policy)
    policies.warn_of_solver(policy, settings.solver)
    columns = render(studio, model, jobs, policy, args.gamma, settings, show_progress=not args.no_progress)
    _save(args.out, model, policy, jobs, columns, settings)


def choose_policy(text: str | None, model: Model, backbone: str | None, solver: str = EULER) -> Policy:
    """The policy of ``--policy``, or the family's preset for this solver."""
    usual = model.defaults(backbone).policy_for(solver)
    if not text and usual == UNKNOWN:
        print(f"There is no preset for {backbone}: this is {usual}, of which nothing is known yet.", file=sys.stderr)
    return policies.choose(text or usual, backbone)


def render(
    studio: Any,
    model: Model,
    jobs: list[Job],
    policy: Policy,
    gammas: list[float],
    settings: Settings,
    *,
    show_progress: bool = False,
) -> list[Column]:
    """Sample all columns, and judge them where the model has a judge."""
    from .sweep import batches, sweep

    total = len(gammas) * settings.steps * sum(1 for _ in batches(jobs, settings.batch))
    with progress_bar(total, "panel", shown=show_progress) as step:
        columns = sweep(studio, jobs, policy, gammas, settings, step)
    if model.judged:
        _judge(model, jobs, columns)
    return columns


def _jobs(args: argparse.Namespace, prompts: list[str]) -> list[Job]:
    from .sweep import Job

    jobs = [Job(prompt, seed) for prompt in dict.fromkeys(prompts) for seed in args.seed]
    if len(jobs) * len(args.gamma) > MOST_IMAGES:
        raise AsyncDiffError(f"This asks for {len(jobs) * len(args.gamma)} images; a panel has at most {MOST_IMAGES}.")
    return jobs


def _settings(args: argparse.Namespace, model: Model, backbone: str | None, policy: Policy) -> Settings:
    from .sweep import Settings

    usual = model.defaults(backbone)
    steps = args.steps or usual.steps
    options.check_tail(args.tail_sync, steps)
    return Settings(
        steps=steps,
        cfg=usual.cfg if args.cfg is None else args.cfg,
        grid=args.grid,
        size=args.size,
        negative=args.negative,
        retiming=options.retiming(args, policy),
        batch=args.batch,
        solver=args.solver or EULER,
    )


def _judge(model: Model, jobs: list[Job], columns: list[Column]) -> None:
    from ...embedded.judges import load_judge

    assert model.folder is not None
    judge = load_judge(model.folder)
    for column in columns:
        column.scores = judge.score(column.images, [job.prompt for job in jobs])


def _save(out: Path, model: Model, policy: Policy, jobs: list[Job], columns: list[Column], settings: Settings) -> None:
    from .measures import text_table
    from .outputs import save_all

    files = save_all(out, model, policy, jobs, columns, settings)
    print(text_table(columns))
    if columns[0].scores and len(jobs) > 1 and any(column.gamma == 0 for column in columns):
        print(
            "Differences are to strength γ = 0 with the same seeds; in brackets their 95 % bootstrap interval"
            " over the rows."
        )
    print(f"\nSaved in {out}: {', '.join(path.relative_to(out).as_posix() for path in files)}")
