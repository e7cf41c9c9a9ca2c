"""Every stock pipeline of SD3 and Flux that diffusers has, driven small: what is there is asked of diffusers itself."""

import inspect

import pytest
import torch

from support import stock_pipelines as stock

pytest.importorskip("diffusers")

import diffusers

from asyncdiff.tpm.hosts.diffusers import DiffusersStudio, asynchronous
from asyncdiff.tpm.policies import Constant, Learned
from asyncdiff.tpm.policies.network import TPM, TPMConfig
from asyncdiff.tpm.retiming.settings import Retiming

NAMES = stock.stock_names()


def tpm(family, trained=True):
    torch.manual_seed(3)
    made = TPM(TPMConfig(family, stock.CHANNELS, stock.CONTEXT, stock.POOLED, width=16, heads=2, layers=1, grid=2))
    if trained:
        torch.nn.init.normal_(made.head.last.weight)
    return made.eval()


def batch_of(name):
    return 1 if "VisualCloze" in name else 2


def test_the_families_are_all_there():
    assert {"StableDiffusion3Pipeline", "StableDiffusion3PAGPipeline", "FluxPipeline", "FluxControlNetPipeline"} <= {
        *NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_stock_pipeline_is_driven(name):
    (pipe, family), batch = stock.build(name), batch_of(name)
    reference = stock.run(pipe, batch)
    for policy, retiming in (
        (Constant(0.4), Retiming(gamma=0.0)),
        (Learned(tpm(family, trained=False)), Retiming()),
    ):
        with asynchronous(pipe, policy, retiming):
            assert torch.equal(stock.run(pipe, batch), reference), policy.name
    told = []
    hook = pipe.transformer.time_text_embed.register_forward_pre_hook(lambda _module, args: told.append(args[0]))
    with asynchronous(pipe, Constant(0.3)) as run:
        changed = stock.run(pipe, batch)
    hook.remove()
    assert (changed - reference).abs().max() > 1e-3
    assert all(trace.steps == len(trace.sigmas) - 1 >= 3 for trace in run.traces)
    expected = [1000 * t_star for trace in run.traces for t_star in trace.t_star]
    assert distinct([float(t[0]) for t in told]) == pytest.approx(expected, rel=1e-5)
    with asynchronous(pipe, Learned(tpm(family))) as run:
        assert not torch.equal(stock.run(pipe, batch), reference)
    assert all(len(set(entry)) == batch for trace in run.traces for entry in trace.t_star[1:-1])
    assert torch.equal(stock.run(pipe, batch), reference)


def distinct(values):
    """Without neighbours that repeat: guidance may take two calls."""
    return [value for k, value in enumerate(values) if k == 0 or value != values[k - 1]]


SIBLINGS = ["StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline", "FluxImg2ImgPipeline"]


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("name", SIBLINGS)
def test_a_sibling_that_shares_the_parts_runs_under_the_same_context(name, guidance):
    """What the denoiser is called with decides about guidance, not the pipeline that the context was opened on."""
    family = "sd3" if "Diffusion3" in name else "flux"
    pipe, _ = stock.build("StableDiffusion3Pipeline" if family == "sd3" else "FluxPipeline")
    sibling = getattr(diffusers, name).from_pipe(pipe)
    sibling.set_progress_bar_config(disable=True)
    for last in (1.0, 4.0):  # what the first pipeline remembers of its last call must not matter
        stock.run(pipe, 2, guidance_scale=last)
        with asynchronous(sibling, Learned(tpm(family))):
            expected = stock.run(sibling, 2, guidance_scale=guidance)
        stock.run(pipe, 2, guidance_scale=last)
        with asynchronous(pipe, Learned(tpm(family))) as run:
            assert torch.equal(stock.run(sibling, 2, guidance_scale=guidance), expected)
        assert run.trace.steps == 4


def test_perturbed_attention_has_three_parts_and_the_second_is_the_prompt(monkeypatch):
    seen = []
    monkeypatch.setattr(Learned, "begin", lambda _self, _grid: None)
    pipe, _ = stock.build("StableDiffusion3PAGPipeline")
    policy = Learned(tpm("sd3"))
    ratio = policy.ratio
    monkeypatch.setattr(Learned, "ratio", lambda _self, state: seen.append(state.text) or ratio(state))
    for guidance in (1.0, 4.0):
        with asynchronous(pipe, policy):
            stock.run(pipe, 2, guidance_scale=guidance)
    expected = stock.prompts(2, ())
    assert len(seen) == 8
    assert all(torch.equal(text.context, expected["prompt_embeds"]) for text in seen)
    assert all(torch.equal(text.pooled, expected["pooled_prompt_embeds"]) for text in seen)


@pytest.mark.parametrize("name", ["FluxFillPipeline", "FluxControlPipeline", "StableDiffusion3InpaintPipeline"])
def test_a_tpm_is_made_for_the_latent_not_for_what_the_denoiser_reads_beside_it(name):
    pipe, _ = stock.build(name)
    assert DiffusersStudio(pipe).tpm_config().latent_channels == stock.CHANNELS


def test_the_pipelines_have_no_other_denoiser_argument():
    """A pipeline of a later diffusers that needs more than this file knows fails here by its name."""
    for name in NAMES:
        parts = inspect.signature(getattr(diffusers, name).__init__).parameters
        known = {"self", "transformer", "scheduler", "vae", "controlnet", "pag_applied_layers", "resolution"}
        assert {*parts} <= known | {*stock.ABSENT, "image_encoder", "feature_extractor"}, name
