"""``asyncdiff pixelwise``: a prompt drawn synchronously, concave and pixel-wise, from the same noise."""

from __future__ import annotations

import argparse
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AsyncDiffError
from ...prompt_files import read_prompts
from ..shared import models, options, policies
from ..shared.models import add_model
from ..shared.output_folder import check_writable
from ..shared.progress import progress_bar
from .items import LAYOUT, Wanted, find_items, read_items, read_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ..shared.models import Model
    from .rows import Row, Run
    from .trio import Drawing

DEFAULT_OUT = "asyncdiff-pixelwise"
CURVES = ("bin", "lin", "exp")


def add_parser(commands: Any) -> None:
    """Declare the command's options."""
    parser = commands.add_parser(
        "pixelwise",
        help="slow down what the prompt names: base, base2 and tgt images",
        description="Draw every prompt three times from the same noise: base (the synchronous sampler), base2 (the"
        " concave control: all pixels slowed down alike) and tgt (pixel-wise asynchronous denoising, AsynDM). Run it"
        " again after an interruption: images that are there are kept.",
    )
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="one or more prompts, each in quotes")
    parser.add_argument("--prompts", dest="prompt_file", type=options.path, metavar="FILE", help=options.PROMPT_FILE)
    _add_regions(parser.add_argument_group("regions"))
    _add_sampling(parser.add_argument_group("sampling"))
    _add_policy(parser.add_argument_group("a policy's deviation on top (flow models)"))
    parser.add_argument(
        "--out", type=options.path, default=Path(DEFAULT_OUT), metavar="DIR", help=f"default: {DEFAULT_OUT}"
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def _add_regions(group: Any) -> None:
    """What is slowed down, and how."""
    group.add_argument("--curve", choices=CURVES, default="bin", help="bin: quadratic (default), lin: piecewise, exp")
    group.add_argument("--item", nargs="+", default=[], metavar="PHRASE", help="default: the things the prompt names")
    strength = options.number("k", 0, 1)
    group.add_argument("--k", type=strength, nargs="+", default=[], help="strength, one or one per item (default: 0.5)")
    group.add_argument("--items", type=options.path, metavar="FILE", help=f"AsynDM's JSON: {LAYOUT}")
    group.add_argument(
        "--mask", type=options.path, nargs="+", default=[], metavar="FILE", help="drawn regions, one a picture"
    )
    group.add_argument("--static-mask", action="store_true", help="regions of a whole synchronous run, not each step's")
    threshold = options.number("the threshold", 0, 10, open_low=True)
    group.add_argument(
        "--threshold",
        type=threshold,
        default=1.0,
        help="attention over its mean from which a pixel is in a region (default: 1)",
    )


def _add_sampling(group: Any) -> None:
    """How images are drawn."""
    add_model(group)
    steps = options.whole("steps", 1, options.MOST_STEPS)
    group.add_argument("--steps", type=steps, metavar="K", help="default: 8 embedded, 15 SD3.5, 50 UNets")
    group.add_argument("--cfg", type=options.number("cfg", 0, 30), help="guidance (default: 3 embedded, else 5)")
    group.add_argument("--eta", type=options.number("η", 0, 1), help="noise of DDIM, UNets only (default: 1)")
    group.add_argument("--final", choices=("clean", "paper"), default="clean", help="where DDIM's last step ends")
    group.add_argument("--negative", default="", metavar="TEXT", help="negative prompt")
    seed = options.whole("a seed", 0, 2**63 - 1)
    group.add_argument("--seed", type=seed, nargs="+", default=[1], metavar="S", help="one or more (default: 1)")
    group.add_argument("--size", type=options.size, metavar="N or WxH", help="pixels (default: the model's own)")
    batch = options.whole("batch", 1, 256)
    group.add_argument("--batch", type=batch, default=8, metavar="N", help="most images in one run (default: 8)")


def _add_policy(group: Any) -> None:
    """Both asynchronies together."""
    group.add_argument("--policy", metavar="POLICY", help=f"{policies.HELP} (default: none)")
    group.add_argument("--gamma", type=options.number("γ", 0, 4), default=1.0, help="its strength (default: 1)")
    options.add_retiming(group)


def run(args: argparse.Namespace) -> None:
    """The command. Everything that can be checked without the model is checked before it is loaded."""
    options.check_distinct("The seed", args.seed)
    prompts, wanted = _prompts(args), _wanted(args)
    model = models.locate(args.model, pixelwise=True)
    spelled = dict(zip(prompts, models.check_captions(model, prompts), strict=True))
    args.negative = models.check_texts(model, [args.negative])[0]
    drawn = [read_mask(path) for path in args.mask]
    check_writable(args.out)
    studio = models.open_pixelwise(model, args.dtype, args.device)
    plan = _plan(args, model, studio, spelled, wanted)
    _draw(args, studio, plan, drawn)
    _finish(args.out, model, plan)


def _prompts(args: argparse.Namespace) -> list[str]:
    """The prompts of the command line or of the file."""
    if bool(args.prompts) == bool(args.prompt_file):
        raise AsyncDiffError("Give either prompts in quotes or --prompts FILE.")
    prompts = list(dict.fromkeys(args.prompts or read_prompts(args.prompt_file)))
    if args.item and len(prompts) > 1:
        raise AsyncDiffError("--item names the words of one prompt; give a file of --items for several.")
    return prompts


def _wanted(args: argparse.Namespace) -> Wanted:
    """What is to be slowed down; only one way of saying it."""
    if sum(map(bool, (args.item, args.items, args.mask))) > 1:
        raise AsyncDiffError("--item, --items and --mask exclude each other; say in one way what is slowed down.")
    if args.items and args.k:
        raise AsyncDiffError("The file of --items holds the strengths; leave --k out.")
    if args.mask and args.static_mask:
        raise AsyncDiffError("--static-mask is for regions of the prompt; drawn masks never move.")
    file = read_items(args.items) if args.items else None
    return Wanted(args.item, args.k, file, [path.stem for path in args.mask])


def _plan(args: argparse.Namespace, model: Model, studio: Any, spelled: dict[str, str], wanted: Wanted) -> Run:
    """All rows with their items, and how they are drawn."""
    from .rows import Row, Run

    drawing = _drawing(args, model, studio)
    rows: list[Row] = []
    for given, prompt in spelled.items():
        items = find_items(studio.pipe, prompt, given, wanted, embedded=model.judged)
        rows += [Row(len(rows) + place, prompt, seed, items) for place, seed in enumerate(args.seed)]
    return Run(model.name, drawing, tuple(rows), tuple(sha256(path.read_bytes()).hexdigest() for path in args.mask))


def _drawing(args: argparse.Namespace, model: Model, studio: Any) -> Drawing:
    """What all rows have in common."""
    from ...hosts.diffusers.pixelwise import Pixelwise
    from ...pixelwise.schedules import PAPER_NAMES
    from .trio import Drawing

    unet = studio.backbone == "unet"
    if args.eta is not None and not unet:
        raise AsyncDiffError("--eta belongs to DDIM; flow models (SD3, SD3.5) are sampled without fresh noise.")
    usual = model.defaults(studio.backbone)
    steps = args.steps or usual.steps
    options.check_tail(args.tail_sync, steps)
    policy = policies.choose(args.policy, studio.backbone) if args.policy else None
    return Drawing(
        steps=steps,
        cfg=usual.cfg if args.cfg is None else args.cfg,
        size=args.size,
        negative=args.negative,
        eta=(1.0 if args.eta is None else args.eta) if unet else None,
        options=Pixelwise(PAPER_NAMES[args.curve], final=args.final),
        static=args.static_mask,
        threshold=args.threshold,
        policy=policy,
        retiming=options.retiming(args, policy, args.gamma) if policy else None,
    )


def _draw(args: argparse.Namespace, studio: Any, plan: Run, drawn: Sequence[Tensor]) -> None:
    """Draw the rows that are not there yet."""
    from .rows import KINDS, groups, resume, save_trio
    from .trio import draw_trio

    left = list(groups(resume(args.out, plan), args.batch))
    total = len(left) * len(KINDS) * plan.drawing.steps
    with progress_bar(total, "pixelwise", shown=bool(left) and not args.no_progress) as step:
        for rows in left:
            seeds, items = [row.seed for row in rows], rows[0].items
            trio = draw_trio(studio, rows[0].prompt, seeds, items, plan.drawing, drawn, step)
            save_trio(args.out, rows, trio)


def _finish(out: Path, model: Model, plan: Run) -> None:
    """The labelled picture, the judge's table, and where everything is."""
    from .rows import save_panel, summary

    save_panel(out, plan)
    if model.judged and model.folder is not None:
        print(summary(out, plan, model.folder))
    print(f"\nSaved in {out}: images/, panel.png, prompt.json, run.json")
