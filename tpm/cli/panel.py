"""``asyncdiff panel``: the same prompts and seeds at several γ, side by side, measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AsyncDiffError
from . import _models, _options, _policies

if TYPE_CHECKING:
    from ..policies import Policy
    from ._models import Model
    from ._sweep import Column, Job, Settings

DEFAULT_OUT = "asyncdiff-panel"
MOST_IMAGES = 4096
ADVICE = "For free text choose another model with --model."


def add_parser(commands: Any) -> None:
    """Declare the command's options."""
    parser = commands.add_parser(
        "panel",
        help="sample prompts at several γ, side by side",
        description="Sample every prompt and seed at several γ and save a labelled panel, the images, the traces, the"
        " σ → t* chart and a table. Without --model it runs on the embedded pipeline, in seconds on a CPU.",
    )
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="one or more prompts, each in quotes")
    _options.add_gamma(parser)
    sampling = parser.add_argument_group("sampling")
    add_model(sampling)
    sampling.add_argument(
        "--steps",
        type=_options.whole("steps", 1, _options.MOST_STEPS),
        metavar="K",
        help="default: 8 embedded, 15 SD3.5, 10 Flux",
    )
    sampling.add_argument(
        "--cfg", type=_options.number("cfg", 0, 30), help="guidance (default: 3 embedded, 5 SD3.5, 3.5 Flux)"
    )
    sampling.add_argument("--negative", default="", metavar="TEXT", help="negative prompt")
    sampling.add_argument(
        "--seed",
        type=_options.whole("a seed", 0, 2**63 - 1),
        nargs="+",
        default=[1],
        metavar="S",
        help="one or more (default: 1)",
    )
    sampling.add_argument("--size", type=_options.size, metavar="N or WxH", help="pixels (default: the model's own)")
    sampling.add_argument(
        "--grid",
        choices=_options.GRIDS,
        default="simple",
        help="ComfyUI's simple grid, or the diffusers scheduler's own",
    )
    sampling.add_argument(
        "--batch",
        type=_options.whole("batch", 1, 256),
        default=8,
        metavar="N",
        help="most images in one run (default: 8)",
    )
    policy = parser.add_argument_group("policy")
    policy.add_argument("--policy", metavar="POLICY", help=f"{_policies.HELP} (default: the model's preset)")
    _options.add_retiming(policy)
    parser.add_argument("--out", type=Path, default=Path(DEFAULT_OUT), metavar="DIR", help=f"default: {DEFAULT_OUT}")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def add_model(parser: Any) -> None:
    """``--model`` and how it is loaded."""
    parser.add_argument(
        "--model", default=_models.EMBEDDED, help="diffusers folder or hub id (default: the embedded pipeline)"
    )
    parser.add_argument(
        "--dtype", choices=_models.DTYPES, help="default: what the model was saved in, float32 on a CPU"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, … (default: the best there is)")


def run(args: argparse.Namespace) -> None:
    """The command. Everything that can be checked without the model is checked before it is loaded."""
    _options.check_distinct("γ", args.gamma)
    _options.check_distinct("The seed", args.seed)
    model = _models.locate(args.model)
    jobs = _jobs(args, model)
    policy = choose_policy(args.policy, model, model.backbone)
    settings = _settings(args, model, model.backbone)
    check_writable(args.out)
    studio = _models.open_studio(model, args.dtype, args.device)
    if studio.backbone != model.backbone:  # a hub id tells its family only now
        policy = choose_policy(args.policy, model, studio.backbone)
        settings = _settings(args, model, studio.backbone)
    columns = render(studio, model, jobs, policy, args.gamma, settings, show_progress=not args.no_progress)
    _save(args.out, model, policy, jobs, columns, settings)


def choose_policy(text: str | None, model: Model, backbone: str | None) -> Policy:
    """The policy of ``--policy``, or the family's preset."""
    return _policies.choose(text or model.defaults(backbone).policy, backbone)


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
    from ._sweep import batches, sweep

    total = len(gammas) * settings.steps * sum(1 for _ in batches(jobs, settings.batch))
    with progress_bar(total, "panel", shown=show_progress) as step:
        columns = sweep(studio, jobs, policy, gammas, settings, step)
    if model.judged:
        _judge(model, jobs, columns)
    return columns


def _jobs(args: argparse.Namespace, model: Model) -> list[Job]:
    from ..embedded.vocabulary import check_prompt
    from ._sweep import Job

    prompts = dict.fromkeys(args.prompts)
    if model.judged:
        prompts = dict.fromkeys(check_prompt(prompt, ADVICE) for prompt in prompts)
        args.negative = check_prompt(args.negative, ADVICE)
    jobs = [Job(prompt, seed) for prompt in prompts for seed in args.seed]
    if len(jobs) * len(args.gamma) > MOST_IMAGES:
        raise AsyncDiffError(f"This asks for {len(jobs) * len(args.gamma)} images; a panel has at most {MOST_IMAGES}.")
    return jobs


def _settings(args: argparse.Namespace, model: Model, backbone: str | None) -> Settings:
    from ._sweep import Settings

    usual = model.defaults(backbone)
    steps = args.steps or usual.steps
    _options.check_tail(args.tail_sync, steps)
    return Settings(
        steps=steps,
        cfg=usual.cfg if args.cfg is None else args.cfg,
        grid=args.grid,
        size=args.size,
        negative=args.negative,
        retiming=_options.retiming(args),
        batch=args.batch,
    )


def check_writable(path: Path) -> None:
    """Create the output folder and try to write in it, before an hour of sampling."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise AsyncDiffError(
            f"The output folder {path} cannot be written ({error.strerror}); choose another --out."
        ) from error


def _judge(model: Model, jobs: list[Job], columns: list[Column]) -> None:
    from ..embedded.judge import Judge

    assert model.folder is not None
    judge = Judge.load(model.folder)
    for column in columns:
        column.scores = judge.score(column.images, [job.prompt for job in jobs])


@contextmanager
def progress_bar(total: int, name: str, *, shown: bool) -> Iterator[Callable[..., None] | None]:
    """A bar over all steps of all runs on stderr, or nothing."""
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="step", desc=name, file=sys.stderr, dynamic_ncols=True) as bar:
        yield lambda *_: bar.update(1) and None


def _save(out: Path, model: Model, policy: Policy, jobs: list[Job], columns: list[Column], settings: Settings) -> None:
    from ._measures import text_table
    from ._outputs import save_all

    files = save_all(out, model, policy, jobs, columns, settings)
    print(text_table(columns))
    if columns[0].scores and len(jobs) > 1 and any(column.gamma == 0 for column in columns):
        print("Differences are to γ = 0 with the same seeds; in brackets their 95 % bootstrap interval over the rows.")
    print(f"\nSaved in {out}: {', '.join(path.relative_to(out).as_posix() for path in files)}")
