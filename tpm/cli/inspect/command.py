"""``asyncdiff inspect``: what a policy or TPM file holds, and the timesteps it will tell, before sampling."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AsyncDiffError
from ...numbers import signed, strength
from ...usual import EMBEDDED, USUAL
from ..shared import models, options, policies
from ..shared.tables import as_text

if TYPE_CHECKING:
    from ...policies import Policy
    from ...retiming.settings import Retiming

DEFAULT_OUT = "asyncdiff-inspect.png"
DEFAULT_STEPS, DEFAULT_SHIFT = 15, 3.0

Band = tuple[float, float]
"""Smallest and largest t* of a step; equal where the policy is fixed."""


def add_parser(commands: Any) -> None:
    """Declare the command's options."""
    parser = commands.add_parser(
        "inspect",
        help="what a policy or TPM file holds, and its table of noise levels (σ) and told timesteps (t*)",
        description="Say what a policy file holds and which timesteps it tells the denoiser on a grid, as a table and a"
        " chart. Nothing is sampled and no diffusion model is loaded.",
    )
    parser.add_argument(
        "policy", nargs="?", metavar="POLICY", help=f"{policies.HELP} (default: the embedded pipeline's)"
    )
    options.add_gamma(parser)
    grid = parser.add_argument_group("grid")
    grid.add_argument(
        "--steps",
        type=options.whole("steps", 1, options.MOST_STEPS),
        metavar="K",
        help=f"default: {DEFAULT_STEPS}, or a trace's own",
    )
    grid.add_argument(
        "--grid", choices=options.GRIDS, help="ComfyUI's simple grid (default), or the diffusers scheduler's own"
    )
    source = grid.add_mutually_exclusive_group()
    source.add_argument(
        "--shift",
        type=options.number("the shift", 0, 100, open_low=True),
        metavar="S",
        help=f"timestep shift (default: {DEFAULT_SHIFT:g}, as SD3 and SD3.5)",
    )
    source.add_argument("--model", metavar="MODEL", help="take the shift from this model's scheduler")
    grid.add_argument("--size", type=options.size, metavar="N or WxH", help="pixels; matters to Flux (default: 1024)")
    options.add_retiming(parser.add_argument_group("retiming"))
    parser.add_argument(
        "--out", type=options.path, default=Path(DEFAULT_OUT), metavar="PNG", help=f"the chart (default: {DEFAULT_OUT})"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """The command."""
    options.check_distinct("γ", args.gamma)
    model = models.locate(args.model) if args.model else None
    policy = policies.choose(args.policy or USUAL[EMBEDDED].policy, model.backbone if model else None)
    sigmas, described = _grid(args, policy, model)
    options.check_tail(args.tail_sync, len(sigmas) - 1)
    print("\n".join(card_lines(policy)))
    applied = options.retiming(args, policy)
    tables = {gamma: timesteps(policy, replace(applied, gamma=gamma), sigmas) for gamma in args.gamma}
    print(f"\nTimesteps that the model is told (t*) on {described}{_range_note(policy)}\n")
    print(table(sigmas, tables))
    print(f"\nChart: {_save_chart(args.out, policy, sigmas, tables, described)}")


def timesteps(policy: Policy, retiming: Retiming, sigmas: Sequence[float]) -> list[Band]:
    """t* per step. A policy that decides from the latent is shown by the range its bound allows."""
    from ...policies import Constant

    if not policy.needs_state:
        return [(t, t) for t in _rehearsed(policy, retiming, sigmas)]
    ends = [_rehearsed(Constant(d, bound=policy.bound), retiming, sigmas) for d in (policy.bound, -policy.bound)]
    return list(zip(*ends, strict=True))


def card_lines(policy: Policy) -> list[str]:
    """What the file says of itself: name, kind, bound, what it was made on, its source."""
    document = policy.to_dict()
    card = document.get("card") or {}
    about = card.get("about") or document.get("about") or {}
    facts: dict[str, Any] = {
        "policy": policy.name,
        "kind": _kind(document),
        "made for": policy.backbone or "any flow model",
        "bound": f"{policy.bound:g}" + (" (lifted)" if policy.bound > 0.5 else ""),
        "decides": _decision(policy, document),
        "parameters": _parameters(policy),
        "trained on": _grid_note(card.get("sigmas")),
        **{f"measured {key}": value for key, value in (card.get("metrics") or {}).items()},
        **about,
    }
    width = max(len(key) for key, value in facts.items() if value not in (None, ""))
    return [f"{key.ljust(width)}  {_flat(value)}" for key, value in facts.items() if value not in (None, "")]


def table(sigmas: Sequence[float], columns: Mapping[float, Sequence[Band]]) -> str:
    """σ and t* per step, one column per γ."""
    rows = [
        [str(k), f"{sigmas[k]:.4f}", *(_band_text(column[k]) for column in columns.values())]
        for k in range(len(sigmas) - 1)
    ]
    return as_text(["step", "σ", *(f"γ = {gamma:g}" for gamma in columns)], rows)


def _rehearsed(policy: Policy, retiming: Retiming, sigmas: Sequence[float]) -> list[float]:
    from ...retiming.foretold import rehearse
    from ...retiming.trace import mean

    return [mean(entry) for entry in rehearse(policy, retiming, sigmas).t_star]


def _grid(args: argparse.Namespace, policy: Policy, model: models.Model | None) -> tuple[list[float], str]:
    """The grid asked for, and its description. A recorded policy brings its own unless one is asked for."""
    from ...policies import Recorded
    from . import grids

    asked = any(value is not None for value in (args.steps, args.grid, args.shift, args.model))
    if isinstance(policy, Recorded) and not asked:
        return list(policy.trace.sigmas), f"the recorded grid of {len(policy.trace.sigmas) - 1} steps"
    steps, name = args.steps or DEFAULT_STEPS, args.grid or "simple"
    if model and model.backbone in ("sd1", "sd2", "sdxl") and name != "simple":
        raise AsyncDiffError("inspect knows the simple grid of SD1.x, SD2.x and SDXL only; leave --grid out.")
    shift = grids.shift_of(model, args.size) if model else grids.Shift(args.shift or DEFAULT_SHIFT)
    whose = f" of {model.name}" if model else ""
    return grids.grid(name, steps, shift), f"the {name} grid{whose}, {steps} steps, shift {shift.value:.3g}"


def _kind(document: Mapping[str, Any]) -> str:
    readout = f", read-out {document['readout']}" if "readout" in document else ""
    return f"{document.get('kind')}{_over(document)}{readout}"


def _over(document: Mapping[str, Any]) -> str:
    """What a curve is drawn over, " over σ" for example; "" for another policy."""
    from ...policies.axes import axis_of

    return f" over {axis_of(document.get('axis', 'sigma')).symbol}" if "knots" in document else ""


def _decision(policy: Policy, document: Mapping[str, Any]) -> str:
    """D at γ = 1 and the policy's own bound."""
    if policy.needs_state:
        return f"D between {signed(-policy.bound, 2)} and {signed(policy.bound, 2)}, from the latent, at every step"
    if "knots" in document:
        return f"D{_over(document)}: " + ", ".join(f"{signed(d, 2)} at {place:g}" for place, d in document["knots"])
    if "deviation" in document:
        return f"D = {signed(document['deviation'], 3)} at every step"
    return "D as recorded"


def _parameters(policy: Policy) -> str | None:
    module = getattr(policy, "tpm", None)
    return None if module is None else f"{sum(p.numel() for p in module.parameters()):,}"


def _grid_note(sigmas: Sequence[float] | None) -> str | None:
    if not sigmas:
        return None
    return f"{len(sigmas) - 1} steps, σ " + " ".join(f"{sigma:.4g}" for sigma in sigmas)


def _range_note(policy: Policy) -> str:
    return ", the range the bound allows: the TPM decides within it from the latent" if policy.needs_state else ""


def _flat(value: Any) -> str:
    """A metadata value on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_flat(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _band_text(band: Band) -> str:
    low, high = band
    return f"{low:.4f}" if low == high else f"{low:.4f} … {high:.4f}"


def _save_chart(
    path: Path, policy: Policy, sigmas: Sequence[float], tables: Mapping[float, Sequence[Band]], described: str
) -> Path:
    from ...drawing import retiming_chart
    from ...drawing.png import save_png

    runs = {strength(gamma): [sorted(set(band)) for band in column] for gamma, column in tables.items()}
    title = f"What {policy.name} tells the denoiser"
    subtitle = f"{_kind(policy.to_dict())}, bound {policy.bound:g} · {described}"
    return save_png(path, retiming_chart(sigmas[:-1], runs, title=title, subtitle=subtitle, ranges=policy.needs_state))
