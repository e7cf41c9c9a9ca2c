"""Samplers that only ComfyUI has, without a policy, in the columns of `asyncdiff evaluate`: opponents of its tables.

    COMFYUI_PATH=<checkout> python tests/tools/host_samplers.py --captions-seed 2612 --out samplers

The embedded pipeline is sampled by ComfyUI's own er_sde, sa_solver, … from the noises of `asyncdiff evaluate` with the
same seed; euler and dpmpp_2m stand in the table as well, and agree with that command's rows.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLERS = ("dpmpp_2m", "er_sde", "sa_solver")


def main():
    sys.path.insert(0, str(ROOT / "tests"))
    from support.inside import enter

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sampler", nargs="+", default=SAMPLERS, metavar="NAME", help="beside euler")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--more-steps", type=int, nargs="*", default=[16])
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--captions-seed", type=int, default=1234)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("samplers"))
    args = parser.parse_args()
    core = enter()
    if isinstance(core, str):
        raise SystemExit(core)
    print(table(args))


def table(args):
    """The table as Markdown; the arms are kept in --out and not sampled again."""
    from asyncdiff.tpm.cli.training.evaluate import TRUE_PICTURES, true_scenes
    from asyncdiff.tpm.embedded.apart import ApartFromReward
    from asyncdiff.tpm.embedded.judge import Judge
    from asyncdiff.tpm.embedded.reality import JudgeFeatures
    from asyncdiff.tpm.embedded.reward import YARDSTICK, TowardsTruth
    from asyncdiff.tpm.embedded.worlds import EASY, held_out_captions
    from asyncdiff.tpm.files import EMBEDDED_FOLDER
    from asyncdiff.tpm.training.compare.arms import baselines, with_solver
    from asyncdiff.tpm.training.compare.evaluate import Evaluation
    from asyncdiff.tpm.training.compare.measure import Measurer
    from asyncdiff.tpm.training.compare.tables import save_tables

    prompts, judge = held_out_captions(args.count, args.captions_seed), Judge.load(EMBEDDED_FOLDER)
    studios = studios_of(["euler", *args.sampler], prompts, args.cfg)
    features = JudgeFeatures(judge, true_scenes(prompts, EASY))
    measurer = Measurer(
        studios.pop("euler"), TowardsTruth(judge), args.batch, features=features,
        apart=ApartFromReward(judge, prompts), others=studios,
    )  # fmt: skip
    real = features.real.unflatten(0, (-1, TRUE_PICTURES))
    own = baselines(args.steps, args.more_steps)
    arms = [*own, *(arm for sampler in studios for arm in with_solver(own, sampler))]
    results = Evaluation(measurer, prompts, args.out, yardstick=YARDSTICK, real=real).run(arms, resume=True)
    save_tables(args.out, results, prompts, {"host": "ComfyUI"})
    return (args.out / "evaluation.md").read_text()


def studios_of(samplers, prompts, cfg):
    """ComfyUI as a studio of the embedded pipeline, once for each sampler."""
    from asyncdiff.nodes.nodes_embedded import FOLDER, load_pipeline
    from asyncdiff.nodes.training.prompt_cache import PromptCache
    from asyncdiff.nodes.training.sampler import Sampling
    from asyncdiff.nodes.training.studio import HostStudio

    model, clip, vae = load_pipeline(FOLDER)
    texts = PromptCache.from_clip(clip, prompts, None, "")
    return {
        name: HostStudio(model, vae, texts, Sampling(cfg=cfg, sampler_name=name, width=128, height=128))
        for name in samplers
    }


if __name__ == "__main__":
    main()
