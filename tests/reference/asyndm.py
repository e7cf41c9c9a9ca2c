"""`asyncdiff pixelwise` beside AsynDM's published program: timesteps, regions, latents and pictures.

    python tests/reference/asyndm.py path/to/AsynDM

The folder is a copy of github.com/hu-zijing/AsynDM, of which nothing is part of this repository. Both programs draw the
same prompt from the same noise with a small random SD2.1, float32 on the CPU, once for each curve with regions of each
step (dynamic) and once with those of the synchronous run (static). The program moves a step by the regions of the step
before it; for the comparison ours is made to do so too, and the rows "dynamic as it is" show ours unchanged. Timesteps
and regions are counts of values that differ; maps (attention), latents (of the largest value of a step) and pictures
are largest differences. Fails where a timestep or a region differs, latents by more than 1e-5, or a picture by more
than one of 255 levels, since the program cuts off where ours rounds. The program counts in single precision: where a
state lies on a half, the two may round it to neighbouring timesteps, and everything after that differs ("first tie").
Such a row is compared up to there, and fails where the state does not lie on a half to 1e-3.
"""

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from asyncdiff.tpm import cli
from asyncdiff.tpm.hosts.diffusers.attention import AttentionCapture
from asyncdiff.tpm.hosts.diffusers.schedulers import DDIMMotion
from asyncdiff.tpm.pixelwise.run import AttendedRegions, PixelwiseRun
from asyncdiff.tpm.pixelwise.schedules import transition
from reference import published
from reference.small_sd2 import save_small_sd2

PROMPT = "a large striped red circle above a small blue square"
ITEMS = {"item_idx": {PROMPT: [4, 8]}, "item_k": {PROMPT: [0.7, 0.3]}}  # circle, square
KINDS, CURVES = ("base", "base2", "tgt"), ("bin", "lin", "exp")
SEED = 5
LATENT_BAR, LEVEL_BAR, TIE_BAR = 1e-5, 1, 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", type=Path, help="a copy of github.com/hu-zijing/AsynDM")
    parser.add_argument("--curve", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--prediction", choices=("epsilon", "v_prediction"), default="epsilon")
    args = parser.parse_args()
    program = published.load(args.repository.resolve())
    with tempfile.TemporaryDirectory() as folder:
        raise SystemExit(compare(args, program, Path(folder)))


def compare(args, program, folder):
    """0 where all is within the bars, else 1."""
    save_small_sd2(folder / "model", args.prediction)
    (folder / "prompts.json").write_text(json.dumps([PROMPT]), encoding="utf-8")
    (folder / "items.json").write_text(json.dumps(ITEMS), encoding="utf-8")
    print(f"{args.images} pictures, {args.steps} steps, {args.prediction}; differences of base, base2, tgt\n")
    print("curve  regions           timesteps  regions  maps     latents, relative          pictures, /255 first tie")
    good = True
    for curve in args.curve:
        for static in (False, True):
            theirs = run_published(args, program, folder, curve, static)
            ours = run_ours(args, folder, curve, static)
            good &= report(curve, "static" if static else "dynamic", ours, theirs)
            if not static:
                report(curve, "dynamic as it is", run_ours(args, folder, curve, static, delayed=False), theirs)
    print("\nAll within the bars." if good else "\nNOT within the bars.")
    return 0 if good else 1


# --- both programs ------------------------------------------------------------------------------------------------


def run_published(args, program, folder, curve, static):
    name = f"theirs-{curve}-{static}"
    seen = published.run(program, {
        "seed": SEED, "mixed_precision": "no", "allow_tf32": False, "save_path": str(folder), "exp_name": name,
        "prompt_file": str(folder / "prompts.json"), "item_idx_file": str(folder / "items.json"),
        "static_mask": int(static), "curve_type": curve, "pretrained.model": str(folder / "model"),
        "sample.num_steps": args.steps, "sample.batch_size": args.images,
    })  # fmt: skip
    seen["maps"] = [maps.unflatten(2, (16, 16)) for maps in seen["maps"][args.steps :]]
    seen["masks"] = seen["masks"][0 if static else 1 :]  # the first are base's, which dynamic regions do not use
    return collected(seen, args.steps, folder / name)


def run_ours(args, folder, curve, static, *, delayed=True):
    out = folder / f"ours-{curve}-{static}-{delayed}"
    command = [
        "pixelwise", "--prompts", folder / "prompts.json", "--items", folder / "items.json", "--model",
        folder / "model", "--dtype", "float32", "--device", "cpu", "--steps", args.steps, "--curve", curve,
        "--final", "paper", "--batch", args.images, "--seed", *range(SEED, SEED + args.images), "--out", out,
        "--no-progress", *(["--static-mask"] if static else []),
    ]  # fmt: skip
    with watched(delayed) as seen, redirect_stdout(StringIO()):
        if cli.main([str(word) for word in command]):
            raise SystemExit("asyncdiff pixelwise failed; its message is above.")
    seen["masks"] = seen["masks"][args.steps :]  # those of base2 are one region
    return collected(seen, args.steps, out)


@contextmanager
def watched(delayed):
    """What ours does, in the lists of `published.watched`; delayed: regions hold from the next step on."""
    from diffusers import DDIMScheduler

    seen = {name: [] for name in ("latents", "t", "t_next", "states", "maps", "masks")}

    def stepped(result, *_, **__):
        seen["latents"].append(result[0].clone() if isinstance(result, tuple) else result.prev_sample.clone())

    def moved(result, _motion, _call, move):
        stepped(result)
        for name, value in zip(("t", "t_next", "states"), (*transition(*move.states), move.states[1]), strict=True):
            seen[name].append(value)

    with ExitStack() as stack:
        for owner, name, listener in (
            (DDIMScheduler, "step", stepped),
            (DDIMMotion, "step", moved),
            (AttentionCapture, "take", lambda maps, *_: seen["maps"].append(maps)),
            (PixelwiseRun, "observe", lambda _, run, *__: seen["masks"].append(run.masks)),
        ):
            stack.enter_context(patch.object(owner, name, published.told(getattr(owner, name), listener)))
        if delayed:
            stack.enter_context(patch.object(AttendedRegions, "now", one_step_late(AttendedRegions.now)))
        yield seen


def one_step_late(now):
    """The regions of the step before, as the program has them."""

    def before(regions):
        held = vars(regions).get("held", regions.first)
        regions.held = now(regions)
        return held

    return before


def collected(seen, steps, folder):
    """A run's lists as tensors by the kind of picture, and its pictures."""
    found = {"maps": seen["maps"], "masks": seen["masks"]}
    found["latents"] = dict(zip(KINDS, chunks(seen["latents"], steps), strict=True))
    found |= {
        name: dict(zip(KINDS[1:], chunks(seen[name], steps), strict=True))
        for name in ("t", "t_next", "states")
        if name in seen
    }
    found["pictures"] = {
        kind: [np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob(f"images/*_{kind}.png"))]
        for kind in KINDS
    }
    return found


def chunks(values, count):
    return [values[start : start + count] for start in range(0, len(values), count)]


# --- the table ----------------------------------------------------------------------------------------------------


def report(curve, regions, ours, theirs):
    """Print one row. Whether it is within the bars."""
    tie = first_tie(ours, theirs) if regions in ("dynamic", "static") else None
    ours, theirs = (run if tie is None else up_to(run, tie.step) for run in (ours, theirs))
    timesteps = sum(differing(ours[name][kind], theirs[name][kind]) for name in ("t", "t_next") for kind in KINDS[1:])
    masks = differing(*same_steps(ours["masks"], theirs["masks"], late=regions == "dynamic"))
    maps = largest(ours["maps"], theirs["maps"]) if ours["maps"] else None
    latents = [largest(ours["latents"][kind], theirs["latents"][kind], relative=True) for kind in KINDS]
    levels = [max(int(abs(a - b).max()) for a, b in paired(ours, theirs, kind)) for kind in KINDS]
    told = f"{timesteps:<11}{masks:<9}{'' if maps is None else f'{maps:.1e}':<9}"
    shown = f"{told}{'  '.join(f'{x:.1e}' for x in latents):<27}{'  '.join(map(str, levels)):<15}"
    print(f"{curve:<7}{regions:<18}{shown}{'' if tie is None else tie}", flush=True)
    held = levels if tie is None else levels[:-1]  # a tie decides the rest of tgt
    close = max(latents) <= LATENT_BAR and max(held) <= LEVEL_BAR and (tie is None or tie.distance <= TIE_BAR)
    return timesteps == masks == 0 and close


@dataclass
class Tie:
    """Pixels whose state lies on a half, which the two programs round to different timesteps."""

    step: int
    pixels: int
    distance: float  # of the states from a half, at most

    def __str__(self):
        return f"step {self.step + 1}: {self.pixels} states, at most {self.distance:.0e} from a half"


def first_tie(ours, theirs):
    """The first step of tgt that takes some pixels to different timesteps."""
    pairs = zip(ours["t_next"]["tgt"], theirs["t_next"]["tgt"], strict=True)
    for step, (a, b) in enumerate(pairs):
        apart = a != b
        if apart.any():
            states = ours["states"]["tgt"][step].expand(apart.shape)[apart]
            return Tie(step, int(apart.sum()), float((states % 1 - 0.5).abs().max()))
    return None


def up_to(run, step):
    """What a run did before this step of tgt differed; all of its other pictures."""
    cut = {name: {**run[name], "tgt": run[name]["tgt"][:step]} for name in ("latents", "t", "t_next")}
    several = {name: run[name][: step + 1] for name in ("maps", "masks")}
    return {**run, **cut, **several}


def paired(ours, theirs, kind):
    return zip(ours["pictures"][kind], theirs["pictures"][kind], strict=True)


def same_steps(ours, theirs, *, late):
    """The regions that the two had in the same steps: the program's static ones are made once."""
    if len(theirs) == 1:
        return ours, theirs * len(ours)
    return (ours[1:], theirs[:-1]) if late else (ours, theirs)


def differing(ours, theirs):
    """How many values differ."""
    return sum(int((a != b).sum()) for a, b in zip(ours, theirs, strict=True))


def largest(ours, theirs, *, relative=False):
    """The largest difference over the steps, of each step's largest value where it is relative."""
    pairs = zip(ours, theirs, strict=True)
    return max((float((a - b).abs().max() / (b.abs().max() if relative else 1)) for a, b in pairs), default=0.0)


if __name__ == "__main__":
    main()
