"""``asyncdiff pixelwise-evaluate``: does pixel-wise denoising help the embedded pipeline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ...errors import AsyncDiffError
from ...usual import EMBEDDED, USUAL
from ..shared import models, options

OVERLAP_CAPTIONS = 32  # that say how well static masks lie on the objects


def add_parser(commands: Any) -> None:
    """Declare the command's options."""
    parser = commands.add_parser(
        "pixelwise-evaluate",
        help="measure pixel-wise denoising on the embedded pipeline",
        description="Draw held-out captions of two objects synchronously, on the concave control and pixel-wise, from"
        " the same noise, and let the judge read what they ask for: means and paired differences with 95 % bootstrap"
        " intervals. k and curves are swept at the first of --steps. Resumable: run the same command again.",
    )
    parser.add_argument("--prompts", type=options.whole("prompts", 2, 10**5), default=128, metavar="N")
    steps = options.whole("steps", 1, 1000)
    parser.add_argument("--steps", type=steps, nargs="+", default=[5, 8], metavar="K", help="default: 5 8")
    parser.add_argument("--cfg", type=options.number("cfg", 0, 30), default=USUAL[EMBEDDED].cfg)
    parser.add_argument(
        "--out", type=options.path, default=Path("pixelwise.json"), metavar="FILE", help="JSON; a chart beside"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """The command."""
    from ...drawing.png import save_png
    from ...embedded import pixelwise as study
    from ...embedded.judge import Judge
    from ...files import write_json

    if args.out.suffix != ".json":
        raise AsyncDiffError(f"--out {args.out} must end in .json; the chart is written beside it.")
    options.check_distinct("The number of steps", args.steps)
    model = models.locate(models.EMBEDDED)
    assert model.folder is not None
    scenes = study.two_object_scenes(args.prompts)
    studio, judge = models.open_studio(model, None, "cpu"), Judge.load(model.folder)
    bench = study.Bench(studio, judge, scenes, args.cfg)
    partial = args.out.with_suffix(".partial.json")
    arms = study.sweep(args.steps[0]) + [arm for steps in args.steps[1:] for arm in study.core(steps)]
    rows = study.report(study.measure(bench, arms, partial))
    some = study.Bench(studio, judge, scenes[:OVERLAP_CAPTIONS], args.cfg)
    overlap = {str(steps): some.overlap(steps) for steps in args.steps}
    document = {"prompts": args.prompts, "cfg": args.cfg, "static_mask_overlap": overlap, "rows": rows}
    print(study.markdown(rows))
    write_json(args.out, document)
    subtitle = (
        f"Difference to the same seeds without: {args.prompts} held-out captions, {args.steps[0]} steps, 95 % intervals"
    )
    save_png(args.out.with_suffix(".png"), study.chart(rows, subtitle))
    partial.unlink()
