"""``asyncdiff bench``: what both asynchronies cost, measured on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from ..shared import models, options

PARTS = ("policy", "pixelwise")


def add_parser(commands: Any) -> None:
    """Declare the command's options."""
    parser = commands.add_parser(
        "bench",
        help="what it costs: FLOPs, wall-clock, synchronisations",
        description="Count the FLOPs of a TPM call beside an SD3.5-Medium and a Flux.1-dev evaluation, time retimed"
        " runs against untouched ones in interleaved pairs, count the host-device synchronisations that are added, and"
        " time pixel-wise runs of a small UNet and DiT against synchronous ones.",
    )
    parser.add_argument("--model", default=models.EMBEDDED, help="folder or hub id (default: the embedded pipeline)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, … (default: the best there is)")
    parser.add_argument("--prompt", default="a red circle", metavar="TEXT")
    parser.add_argument("--steps", type=options.whole("steps", 1, options.MOST_STEPS), default=8, metavar="K")
    parser.add_argument("--pairs", type=options.whole("pairs", 1, 1000), default=15, metavar="N", help="default: 15")
    parser.add_argument("--only", choices=PARTS, help="a policy's cost, or that of a pixel-wise map (default: both)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """The command."""
    model = models.locate(args.model)
    prompt = models.check_texts(model, [args.prompt])[0]
    from . import pixelwise, retiming

    if args.only != "pixelwise":
        studio = models.open_studio(model, None, args.device)
        show(retiming.report(studio, prompt, args.steps, args.pairs))
    if args.only != "policy":
        show(pixelwise.report(args.steps, args.pairs, args.device))


def show(rows: Iterable[tuple[str, str, str]]) -> None:
    """Print measurements as they come."""
    for what, value, target in rows:
        print(f"{what:<66} {value}" + (f"   [target {target}]" if target else ""), flush=True)
