"""``asyncdiff evaluate``: what policies are worth on held-out prompts, as tables and figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AsyncDiffError
from ...numbers import signed
from ...retiming.solvers import EULER, SOLVERS
from ..shared import models, options, policies
from ..shared.processes import join_processes
from ..shared.tables import as_text
from .setting import add_folder, add_recipe, add_setting, open_setting, recipe_for, texts_of

if TYPE_CHECKING:
    from ...embedded.world import Scene
    from ...embedded.worlds import World
    from ...training.compare.evaluate import Result
    from ...training.compare.measure import Arm, Measured
    from ...training.studio import Scorer
    from ..shared.models import Model

DEFAULT_OUT = "asyncdiff-evaluation"
VARIANTS = ("tail", "coupling", "mean")
TRUE_SEED, TRUE_PICTURES = 4321, 4  # of each prompt, for the energy distance


def add_parser(commands: Any) -> None:
    """Declare the command's options."""
    parser = commands.add_parser(
        "evaluate",
        help="compare policies on held-out prompts, with paired seeds and intervals",
        description="Render held-out prompts with every policy at several γ and with its variants, all from the same"
        " noises, and write the table with 95 % bootstrap intervals and the paper's figures 2 to 5. Without --model it"
        " measures the embedded pipeline. Interrupted, it goes on with --resume.",
    )
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="NAME=POLICY",
        help=f"may be given several times; {policies.HELP} (default: the model's preset). NAME@SOLVER,SOLVER=POLICY:"
        " with these solvers of the table only",
    )
    add_recipe(parser)
    add_folder(parser, DEFAULT_OUT, "keep the arms in --out that are finished")
    _add_arms(parser.add_argument_group("arms"))
    add_setting(parser)
    parser.add_argument(
        "--also-solver",
        nargs="+",
        default=[],
        choices=SOLVERS,
        metavar="NAME",
        help="every arm once more with these solvers; the table compares with the best of them without a policy",
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def _add_arms(group: Any) -> None:
    whole = options.whole
    group.add_argument("--steps", type=whole("steps", 2, options.MOST_STEPS), metavar="K", help="steps of the sampler")
    group.add_argument(
        "--more-steps",
        type=whole("steps", 1, options.MOST_STEPS),
        nargs="*",
        metavar="K",
        help="synchronous arms with other numbers of steps (default: twice --steps)",
    )
    options.add_gamma(group)
    group.add_argument(
        "--variant",
        choices=VARIANTS,
        nargs="*",
        default=list(VARIANTS),
        help="other ways to apply each policy: tail_sync on or off, coupling p = 1 or 0, a TPM's mean (default: all)",
    )
    group.add_argument("--against", action="append", default=[], metavar="NAME", help="an arm to compare with, too")
    group.add_argument("--count", type=whole("count", 2, 10**6), default=256, metavar="N", help="prompts (256)")
    group.add_argument(
        "--captions-seed",
        type=whole("a seed", 0, 2**63 - 1),
        metavar="S",
        help="other held-out captions of the embedded world than the published ones (1234), to replicate on",
    )
    group.add_argument(
        "--seed", type=whole("a seed", 0, 2**63 - 1), default=1234, metavar="S", help="decides all noises"
    )
    group.add_argument(
        "--own-yardstick",
        action="store_true",
        help="measure the unit of gain here, between two noises, in place of the embedded world's stored one",
    )
    group.add_argument("--batch", type=whole("batch", 1, 1024), default=16, metavar="N", help="images a run (16)")
    group.add_argument("--pictures", type=whole("pictures", 0, 64), default=6, metavar="N", help="rows of figure 5 (6)")


def run(args: argparse.Namespace) -> None:
    """The command. What can be checked without the model is checked before it is loaded."""
    options.check_distinct("γ", args.gamma)
    model = models.locate(args.model)
    given = texts_of(args, model, held_out=True, captions_seed=args.captions_seed)
    from ...embedded.reward import YARDSTICK
    from ...training.compare.evaluate import Evaluation
    from ...training.compare.measure import Measurer

    document = recipe_for(model, args.recipe)
    own = args.solver or document.get("sampling", {}).get("solver", EULER)
    solvers = list(dict.fromkeys([own, *args.also_solver]))
    steps = args.steps or document.get("training", {}).get("steps") or model.defaults().steps
    arms = _arms(args, model, steps, solvers)
    if (args.out / "arms").exists() and not args.resume:
        raise AsyncDiffError(
            f"There is an evaluation in {args.out} already: go on with it by --resume, or choose another --out."
        )
    processes = join_processes()
    setting = open_setting(args, model, document, given)
    others = {solver: setting.studio.with_solver(solver) for solver in solvers[1:]}
    if processes.is_main:
        _warn_of_solver(arms, own)
    prompts = setting.prompts[: args.count]
    features, apart = _judge_features(model, prompts)
    shown = processes.is_main and not args.no_progress
    with _progress(arms, len(prompts) // processes.size, shown=shown) as (images, named):
        measurer = Measurer(
            setting.studio, setting.scorer, args.batch, processes, features, args.pictures, images, apart, others
        )
        evaluation = Evaluation(
            measurer,
            prompts,
            args.out,
            args.seed,
            document.get("training", {}).get("weights", {}),
            setting.metrics,
            YARDSTICK if model.judged and not args.own_yardstick else None,
            features.real.unflatten(0, (-1, TRUE_PICTURES)) if features else None,
            named,
        )
        results = evaluation.run(arms, args.against, args.resume)
    if processes.is_main:
        about = {"sampling": setting.studio.describe(), "metrics": dict(setting.metrics), "unit": dict(evaluation.unit)}
        _save(args.out, results, prompts, about)


def _arms(args: argparse.Namespace, model: Model, steps: int, solvers: Sequence[str]) -> list[Arm]:
    """Every solver's arms: without a policy, then the policies that are to be tried with it."""
    from ...training.compare.arms import baselines, with_solver

    more = [steps * 2] if args.more_steps is None else [k for k in dict.fromkeys(args.more_steps) if k != steps]
    texts = args.policy or [f"preset={model.defaults().policy_for(solvers[0])}"]
    policy_arms = [_policy_arms(text, args, model, steps, solvers) for text in texts]
    arms: list[Arm] = []
    for solver in solvers:
        tried = [arm for made, allowed in policy_arms if solver in allowed for arm in made]
        own = [*baselines(steps, more), *tried]
        arms += own if solver == solvers[0] else with_solver(own, solver)
    return arms


def _policy_arms(
    text: str, args: argparse.Namespace, model: Model, steps: int, solvers: Sequence[str]
) -> tuple[list[Arm], Sequence[str]]:
    """The arms of one ``--policy``, and the solvers that they are for."""
    from ...training.compare.arms import arms_of

    whole_name, equals, policy = text.partition("=")
    name, at, chosen = whole_name.partition("@")
    if not equals or not name or not policy:
        raise AsyncDiffError(f"--policy {text!r} should be NAME=POLICY, such as curve=curve.json.")
    allowed = chosen.split(",") if at else list(solvers)
    unknown = next((solver for solver in allowed if solver not in solvers), None)
    if unknown is not None:
        raise AsyncDiffError(
            f"--policy {text!r} is for the solver {unknown!r}, which is not in this table; name it with --also-solver,"
            f" or take it away. The table has {', '.join(solvers)}."
        )
    return arms_of(name, policies.choose(policy, model.backbone), steps, args.gamma, args.variant), allowed


def _warn_of_solver(arms: Sequence[Arm], own: str) -> None:
    """One line for each policy that was made for another solver than one that it is tried with."""
    tried = {(arm.label, arm.solver): arm.policy for arm in reversed(arms) if arm.policy is not None}
    for (_, solver), policy in tried.items():
        policies.warn_of_solver(policy, solver or own)


def _judge_features(model: Model, prompts: Sequence[str]) -> tuple[Any, Scorer | None]:
    """Of what the embedded model draws: features, also of true pictures, and what is reported beside the reward."""
    if not model.judged:
        return None, None
    from ...embedded.apart import ApartFromReward
    from ...embedded.judges import load_judge, world_of
    from ...embedded.reality import JudgeFeatures

    assert model.folder is not None
    judge, world = load_judge(model.folder), world_of(model.folder)
    return JudgeFeatures(judge, true_scenes(prompts, world)), ApartFromReward(judge, prompts)


def true_scenes(prompts: Sequence[str], world: World) -> list[Scene]:
    """Scenes that the prompts are true of, `TRUE_PICTURES` of each; what a prompt leaves open is drawn at random."""
    from numpy.random import default_rng

    rng = default_rng(TRUE_SEED)
    return [world.scene_of(prompt, rng) for prompt in prompts for _ in range(TRUE_PICTURES)]


@contextmanager
def _progress(
    arms: Sequence[Arm], prompts: int, shown: bool
) -> Iterator[tuple[Callable[[int], Any], Callable[[Arm, Measured], Any]]]:
    """A bar over all images of this process, with the latest arm's scores."""
    if not shown:
        yield (lambda _: None), (lambda _, __: None)
        return
    from tqdm import tqdm

    with tqdm(total=prompts * len(arms), unit="image", desc="evaluate", file=sys.stderr, dynamic_ncols=True) as bar:
        done = [0]

        def named(arm: Arm, measured: Measured) -> None:
            done[0] += 1
            bar.n = done[0] * prompts
            scores = {name: f"{float(values.mean()):.4g}" for name, values in measured.scores.items()}
            bar.set_postfix({"arm": arm.name, **scores})

        yield bar.update, named


def _save(out: Path, results: Sequence[Result], prompts: Sequence[str], about: dict[str, Any]) -> None:
    from ...training.compare.figures import save_figures
    from ...training.compare.tables import interval, save_tables

    files = save_tables(out, results, prompts, about) + save_figures(out, results, prompts)
    rows = [
        [result.arm.name, interval(found) if (found := _gain(result)) else "–", signed(result.mean_deviation, 3)]
        for result in results
    ]
    print(as_text(["arm", "gain over synchronous [95 %]", "mean D"], rows))
    print(f"\nSaved in {out}: {', '.join(path.relative_to(out).as_posix() for path in files)}")


def _gain(result: Result) -> Any:
    from ...training.compare.arms import SYNCHRONOUS

    return result.gain.differences.get(SYNCHRONOUS)
