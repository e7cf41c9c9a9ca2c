"""``asyncdiff embedded``: train the shipped pipeline from nothing, and measure it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from ..embedded.judge_file import MOST_OBJECTS
from ..usual import EMBEDDED, USUAL
from .shared import models, options, policies
from .shared.parser import add_commands


def add_parser(commands: Any) -> None:
    """Declare ``train`` and ``evaluate``."""
    parser = commands.add_parser("embedded", help="train or measure the embedded pipeline")
    actions = add_commands(parser, "action", "ACTION")
    _add_train(actions)
    _add_evaluate(actions)


def _add_train(actions: Any) -> None:
    parser = actions.add_parser(
        "train",
        help="train the pipeline and its judge from nothing",
        description="Train the embedded pipeline on the procedural world. It is seeded and resumable: run the same"
        " command again after an interruption. The defaults made the shipped weights on two CPU cores.",
    )
    parser.add_argument("--out", type=options.path, required=True, metavar="DIR", help="where the pipeline goes")
    parser.add_argument("--work", type=options.path, metavar="DIR", help="checkpoints (default: DIR/.training)")
    parser.add_argument(
        "--world", choices=MOST_OBJECTS, default="easy", help="hard: up to three objects in nine places (default: easy)"
    )
    depth = options.whole("depth", 1, 12)
    parser.add_argument("--depth", type=depth, help="blocks; width is 64 a block (default: the world's)")
    parser.add_argument("--steps", type=options.whole("steps", 1, 10**7), help="denoiser steps (default: the recipe's)")
    parser.add_argument("--batch", type=options.whole("batch", 1, 4096), help="denoiser batch (default: the recipe's)")
    parser.add_argument("--seed", type=options.whole("a seed", 0, 2**31), default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, … (default: cpu)")
    parser.set_defaults(run=train)


def _add_evaluate(actions: Any) -> None:
    parser = actions.add_parser(
        "evaluate",
        help="the numbers of the model card",
        description="Measure the pipeline on captions of combinations that training never showed: attributes at 15"
        " synchronous steps, and γ at 8 steps with paired seeds and 95 % bootstrap intervals.",
    )
    parser.add_argument(
        "--model", default=models.EMBEDDED, help="pipeline folder with a judge (default: the shipped one)"
    )
    parser.add_argument("--policy", default="tiny-sd35", help=f"{policies.HELP} (default: tiny-sd35, a constant)")
    parser.add_argument("--prompts", type=options.whole("prompts", 2, 10**5), default=256, metavar="N")
    parser.add_argument("--cfg", type=options.number("cfg", 0, 30), default=USUAL[EMBEDDED].cfg)
    parser.add_argument("--steps", type=options.whole("steps", 1, 1000), default=8, help="steps of the γ table")
    parser.add_argument("--out", type=options.path, metavar="FILE", help="also write everything as JSON")
    parser.set_defaults(run=evaluate)


def train(args: argparse.Namespace) -> None:
    """The command ``embedded train``."""
    from ..embedded.train import RECIPES, train

    recipe = RECIPES[args.world]
    given = {"steps": args.steps, "batch": args.batch}
    denoiser = replace(recipe.denoiser, **{name: value for name, value in given.items() if value is not None})
    recipe = replace(recipe, seed=args.seed, depth=args.depth or recipe.depth, denoiser=denoiser)
    train(recipe, args.work or args.out / ".training", args.out, args.device)
    print(f"Saved the pipeline and its judge in {args.out}")


def evaluate(args: argparse.Namespace) -> None:
    """The command ``embedded evaluate``."""
    from ..embedded.evaluate import Card, markdown
    from ..embedded.judges import load_judge
    from ..files import write_json

    model = models.locate(args.model)
    if not model.judged or model.folder is None:
        raise models.HostError(f"{args.model} has no {models.JUDGE_FILE}; only an embedded pipeline can be measured.")
    policy = policies.choose(args.policy, model.backbone)
    studio = models.open_studio(model, None, "cpu")
    card = Card(studio, load_judge(model.folder), models.world_of(model), args.cfg)
    report: dict[str, Any] = {
        "judge": card.judge(),
        "codec": {"psnr_db": card.psnr()},
        "seams": card.seams(min(args.prompts, 64)),
        "attributes": card.attributes(args.prompts),
        "gamma": card.gamma(policy, args.prompts, args.steps),
    }
    print(f"judge: {report['judge']}\ncodec: {report['codec']}\nseams: {report['seams']}\n")
    print(markdown(report["attributes"]), "\n")
    print(markdown(report["gamma"]))
    if args.out:
        write_json(args.out, report | {"policy": policy.to_dict(), "prompts": args.prompts, "cfg": args.cfg})
