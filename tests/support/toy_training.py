"""A training of the toy studio, whose best policy is known: D = −0.5."""

import torch

from asyncdiff.tpm.policies.checkpoint import load_tpm
from asyncdiff.tpm.training.distributed import Processes
from asyncdiff.tpm.training.grpo.journal import read_journal
from asyncdiff.tpm.training.grpo.recipe import Recipe
from asyncdiff.tpm.training.grpo.rollout import Sample, roll_out
from asyncdiff.tpm.training.grpo.trainer import TPM_FILE, Trainer, make_tpm
from asyncdiff.tpm.training.prompts import PromptOrder
from asyncdiff.tpm.training.stopwatch import Stopwatch
from support.toy_studio import ToyStudio, spread_scorer

PROMPTS = ["a", "bb", "ccc", "dddd", "eeeee"]
TARGET = 0.0354  # what D = −0.5 gives; D = 0 gives .0210
RECIPE = Recipe(
    iterations=4, steps=4, group=4, minibatch=2, render_batch=4, learning_rate=3e-3, seed=7, probe_every=2, probes=2,
    drift_before=0, ema=0.9, noise_limit=100.0,
)  # fmt: skip
TIMES = ("seconds", "time", "saved_evaluations")


def trainer(folder, scorer=None, studio=None, **changes):
    recipe = Recipe(**{**RECIPE.to_dict(), **changes})
    scorer = scorer or spread_scorer(TARGET)
    return Trainer(studio or ToyStudio(), scorer, PromptOrder(PROMPTS, recipe.seed), recipe, folder, Processes())


def weights(folder):
    return load_tpm(folder / TPM_FILE)[0].state_dict()


def journal(folder):
    """The records without their times."""
    return [{k: v for k, v in record.items() if k not in TIMES} for record in read_journal(folder / "journal.jsonl")]


def same_weights(first, second, tolerance=0.0):
    return all(torch.allclose(first[name], second[name], rtol=0, atol=tolerance) for name in first)


def rolled(count=4, prompts=("a",), tpm=None, recipe=RECIPE, **settings):
    tpm = tpm or awakened()
    samples = [Sample(prompts[n % len(prompts)], n, 100 + n, 0, n) for n in range(count)]
    retiming = Recipe(**{**recipe.to_dict(), **settings}).retiming
    return tpm, roll_out(ToyStudio(), tpm, samples, recipe.steps, retiming, Stopwatch())


def awakened(seed=0):
    """A TPM whose answers depend on what it sees."""
    tpm = make_tpm(ToyStudio(), RECIPE)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        tpm.head.last.weight.copy_(0.3 * torch.randn(tpm.head.last.weight.shape, generator=generator))
    return tpm
