"""What ``train``, ``search`` and ``evaluate`` share: model and settings, metrics, prompts, processes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AsyncDiffError
from ...retiming.solvers import EULER
from ...rewards.catalogue import CATALOGUE, EMBEDDED_JUDGE, PAPER, RESIDUAL_NOISE, find_file, find_words, open_metric
from ..shared import models, options
from ..shared.processes import process_device

if TYPE_CHECKING:
    from ...hosts.diffusers.studio import ConfiguredStudio
    from ...training.studio import Scorer
    from ..shared.models import Model

METRICS = (*CATALOGUE, RESIDUAL_NOISE)
CAPTIONS = 4096
RECIPES = {models.EMBEDDED: "tiny-sd35", "sd3": "sd35-medium", "flux": "flux-dev"}


@dataclass(frozen=True)
class Setting:
    """Everything a run needs of the world."""

    studio: ConfiguredStudio
    scorer: Scorer
    metrics: Mapping[str, str]  # name → which weights, for cards and for refusing others on resume
    prompts: Sequence[str]


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Options that say what is sampled and how it is judged. Defaults come from the recipe."""
    add_sampling(parser)
    judging = parser.add_argument_group("judging (the embedded pipeline has its own judge)")
    judging.add_argument("--metric", nargs="+", choices=METRICS, metavar="NAME", help=f"of {', '.join(METRICS)}")
    judging.add_argument("--weights", type=options.path, metavar="DIR", help="the folder of the reward files")
    judging.add_argument(
        "--vocabulary", type=options.path, metavar="DIR", help="vocabulary files (default: in --weights)"
    )
    judging.add_argument(
        "--reward-dtype", choices=("float32", "float16"), help="precision of the metrics (default: float32)"
    )
    add_prompts(parser)


def add_folder(parser: argparse.ArgumentParser, default: str, resume: str) -> None:
    """``--out`` and ``--resume``. resume: what going on means here."""
    parser.add_argument("--out", type=options.path, default=Path(default), metavar="DIR", help=f"default: {default}")
    parser.add_argument("--resume", action="store_true", help=resume)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """``--recipe``, where only its sampling settings count."""
    parser.add_argument("--recipe", metavar="NAME", help="whose sampling settings (default: the model's own)")


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """``--prompts``."""
    parser.add_argument(
        "--prompts", type=options.path, metavar="FILE", help=f"{options.PROMPT_FILE}, or a folder of .txt"
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Options that say what is sampled."""
    sampling = parser.add_argument_group("sampling (defaults: the recipe's)")
    models.add_model(sampling)
    sampling.add_argument("--cfg", type=options.number("cfg", 0, 30), help="guidance")
    sampling.add_argument("--size", type=options.size, metavar="N or WxH", help="pixels")
    sampling.add_argument("--negative", metavar="TEXT", help="negative prompt")
    sampling.add_argument("--grid", choices=options.GRIDS, help="ComfyUI's simple grid, or the scheduler's own")
    options.add_solver(sampling)


def recipe_for(model: Model, named: str | None) -> dict[str, Any]:
    """The document of ``--recipe``, or of the model's own recipe."""
    from ...training.grpo.recipe import read_recipe

    usual = RECIPES.get(models.EMBEDDED if model.judged else model.backbone)
    if not (named or usual):
        raise AsyncDiffError(
            f"There is no recipe for {model.backbone} yet; name one with --recipe (sd35-medium, say), with --steps and"
            " --cfg that suit the model."
        )
    return read_recipe(named or usual or "")


def open_setting(
    args: argparse.Namespace,
    model: Model,
    recipe: Mapping[str, Any],
    prompts: Sequence[str],
) -> Setting:
    """Check what can be checked, then load."""
    device = args.device or process_device()
    openers, metrics = _metrics(args, model, recipe)
    return Setting(configured(args, model, recipe), _scorer(model, openers, device), metrics, prompts)


def configured(args: argparse.Namespace, model: Model, recipe: Mapping[str, Any]) -> ConfiguredStudio:
    """The studio with the recipe's sampling settings, and with those that were given in their place."""
    sampling = {"guidance": None, "size": None, "negative": "", "grid": "simple", "dtype": None, "solver": EULER}
    sampling |= recipe.get("sampling", {})
    given = {"guidance": args.cfg, "size": args.size, "negative": args.negative, "grid": args.grid, "dtype": args.dtype}
    given |= {"solver": args.solver}
    sampling |= {name: value for name, value in given.items() if value is not None}
    sampling["negative"] = models.check_texts(model, [str(sampling["negative"])])[0]
    return _studio(model, sampling, args.device or process_device())


def _studio(model: Model, sampling: Mapping[str, Any], device: str | None) -> ConfiguredStudio:
    from ...hosts.diffusers.studio import ConfiguredStudio

    studio = models.open_studio(model, sampling["dtype"], device, sampling["solver"])
    guidance = sampling["guidance"]
    guidance = model.defaults(studio.backbone).cfg if guidance is None else guidance
    size = tuple(sampling["size"]) if sampling["size"] else None
    return ConfiguredStudio(studio, guidance, size, sampling["negative"], sampling["grid"], model.name)


def texts_of(
    args: argparse.Namespace, model: Model, held_out: bool = False, captions_seed: int | None = None
) -> list[str]:
    """The prompts, when they and the negative prompt can be read by the model. Nothing heavy is imported for a file.

    ``held_out``: generated captions are those that training never sees. captions_seed: which; None for the usual ones.
    """
    models.check_texts(model, [args.negative or ""])
    return prompts_of(args.prompts, model, held_out, captions_seed)


def prompts_of(path: Path | None, model: Model, held_out: bool, captions_seed: int | None = None) -> list[str]:
    """The prompts of a file; without one, captions of the embedded world."""
    from ...prompt_files import read_prompts

    if captions_seed is not None and (path is not None or not model.judged):
        raise AsyncDiffError("--captions-seed chooses captions of the embedded world; leave it out with other prompts.")
    if path is None:
        if not model.judged:
            raise AsyncDiffError("Prompts are needed: give --prompts FILE, for example COCO captions.")
        from ...embedded.worlds import HELD_OUT_SEED, held_out_captions, training_captions

        seed = HELD_OUT_SEED if captions_seed is None else captions_seed
        world = models.world_of(model)
        return held_out_captions(CAPTIONS, seed, world) if held_out else training_captions(CAPTIONS, world=world)
    return models.check_captions(model, read_prompts(path))


def _metrics(
    args: argparse.Namespace, model: Model, recipe: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """How each metric is loaded, and which weights it has; nothing for the embedded judge."""
    from ...rewards.scoring import ResidualNoise

    names = args.metric or (None if model.judged else recipe.get("metrics", list(PAPER)))
    if names is None:
        return {}, {EMBEDDED_JUDGE: model.name}
    openers: dict[str, Any] = {}
    versions = {}
    for name in dict.fromkeys(names):
        if name == RESIDUAL_NOISE:
            openers[name], versions[name] = ResidualNoise, "1"
            continue
        if args.weights is None:
            raise AsyncDiffError(f"{CATALOGUE[name].title} needs its weights; give their folder with --weights.")
        file = find_file(name, args.weights)
        words = find_words(name, file, args.weights, args.vocabulary)
        dtype = args.reward_dtype or "float32"
        openers[name] = partial(open_metric, name, args.weights, words=words, dtype=dtype)
        versions[name] = f"{file.name}, {file.stat().st_size} bytes, {dtype}"
    return openers, versions


def _scorer(model: Model, openers: Mapping[str, Any], device: str | None) -> Scorer:
    from ...hosts.diffusers.loading import choose_device

    if openers:
        from ...training.scorers import MetricScorer

        return MetricScorer(openers, choose_device(device))
    from ...embedded.judges import load_judge
    from ...embedded.reward import TowardsTruth

    assert model.folder is not None
    return TowardsTruth(load_judge(model.folder))
