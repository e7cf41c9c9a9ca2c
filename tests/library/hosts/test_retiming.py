"""Asynchronous conditioning on real pipeline classes of diffusers with tiny random weights."""

from itertools import pairwise

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, FluxPipeline, StableDiffusion3Pipeline

from asyncdiff.tpm.errors import HostError, PolicyError
from asyncdiff.tpm.hosts.diffusers import asynchronous
from asyncdiff.tpm.hosts.diffusers.flow import SD3, Flux, count_columns
from asyncdiff.tpm.hosts.diffusers.retiming import retimed
from asyncdiff.tpm.policies import Constant, Learned, Recorded
from asyncdiff.tpm.policies.network import TPM, TPMConfig
from asyncdiff.tpm.retiming.settings import Retiming

STEPS = 3
CONTEXT, POOLED, CHANNELS = 12, 8, 4  # of the pipelines in conftest


def prompt(family, batch):
    """The prompt as tensors; SD3 also gets the unconditional one."""
    draw = torch.Generator().manual_seed(5)
    context, pooled = torch.randn(batch, 6, CONTEXT, generator=draw), torch.randn(batch, POOLED, generator=draw)
    call = {"prompt_embeds": context, "pooled_prompt_embeds": pooled}
    if family == "sd3":
        call |= {"negative_prompt_embeds": -context, "negative_pooled_prompt_embeds": -pooled, "guidance_scale": 5.0}
    return call


def sample(pipe, batch=1, **call):
    family = "sd3" if "StableDiffusion3" in type(pipe).__name__ else "flux"
    generator = torch.Generator().manual_seed(1)
    settings = {
        "num_inference_steps": STEPS,
        "height": 64,
        "width": 64,
        "output_type": "latent",
        "generator": generator,
    }
    return pipe(**{**settings, **prompt(family, batch), **call}).images


def untrained(family):
    torch.manual_seed(3)
    return TPM(TPMConfig(family, CHANNELS, CONTEXT, POOLED, width=16, heads=2, layers=1, grid=2)).eval()


def trained(family):
    tpm = untrained(family)
    torch.nn.init.normal_(tpm.head.last.weight)
    return tpm


def recorder(pipe):
    """Record the timestep of every call of the denoiser, as it arrives there."""
    seen = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["timestep"].clone()), with_kwargs=True
    )
    return seen, hook


SILENT = {
    "gamma 0": lambda _family: (Constant(0.4), Retiming(gamma=0.0)),
    "D 0": lambda _family: (Constant(0.0), Retiming(gamma=2.0)),
    "untrained TPM": lambda family: (Learned(untrained(family)), Retiming(gamma=2.0, bound=1.0)),
    "untrained TPM, p 1": lambda family: (Learned(untrained(family)), Retiming(velocity_coupling=1.0)),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_what_does_not_deviate_is_bit_identical(make_pipe, family, solver, batch):
    pipe = make_pipe(family, solver)
    reference = sample(pipe, batch)
    assert torch.isfinite(reference).all()
    for name, silent in SILENT.items():
        with asynchronous(pipe, *silent(family)):
            assert torch.equal(sample(pipe, batch), reference), name
    assert torch.equal(sample(pipe, batch), reference)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_control_what_deviates_is_not(make_pipe, family, solver):
    pipe = make_pipe(family, solver)
    reference = sample(pipe)
    for policy in (Constant(0.3), Learned(trained(family))):
        with asynchronous(pipe, policy):
            assert (sample(pipe) - reference).abs().max() > 1e-3, policy.name


def conditioned(sigmas, d):
    """t* of every step; the stock SD3 grid shifts twice and ends near 0, so its last step is clamped to σ_min."""
    return sigmas[:1] + [max(1e-3, b + d * (b - a)) for a, b in pairwise(sigmas[:-1])]


def by_hand(pipe, d, scale):
    """SD3 with guidance 5 and Euler, written out: the denoiser is told scale · t*, all else is stock."""
    call = prompt("sd3", 1)
    context = torch.cat([call["negative_prompt_embeds"], call["prompt_embeds"]])
    pooled = torch.cat([call["negative_pooled_prompt_embeds"], call["pooled_prompt_embeds"]])
    x = torch.randn(1, CHANNELS, 8, 8, generator=torch.Generator().manual_seed(1))
    pipe.scheduler.set_timesteps(STEPS)
    sigmas = pipe.scheduler.sigmas.tolist()
    for k, t_star in enumerate(conditioned(sigmas, d)):
        with torch.no_grad():
            v = pipe.transformer(torch.cat([x] * 2), context, pooled, torch.full((2,), scale * t_star)).sample
        x = x + (sigmas[k + 1] - sigmas[k]) * (v[:1] + 5.0 * (v[1:] - v[:1]))
    return x


def test_the_pipeline_equals_the_algorithm_written_out(make_pipe):
    pipe = make_pipe("sd3")
    with asynchronous(pipe, Constant(0.3)):
        image = sample(pipe)
    assert torch.allclose(image, by_hand(pipe, 0.3, 1000.0), atol=1e-4)


def test_control_the_wrong_timestep_scale_is_caught(make_pipe):
    pipe = make_pipe("sd3")
    with asynchronous(pipe, Constant(0.3)) as run:
        run.dialect.scale = 1.0
        with pytest.raises(HostError, match="did not make"):
            sample(pipe)


@pytest.mark.parametrize(("family", "scale"), [("sd3", 1000.0), ("flux", 1.0)])
def test_only_the_denoiser_sees_t_star(make_pipe, family, scale):
    pipe = make_pipe(family)
    sample(pipe)
    stock = (pipe.scheduler.timesteps.tolist(), pipe.scheduler.sigmas.tolist())
    told = []
    with asynchronous(pipe, Constant(0.2)) as run:
        seen, hook = recorder(pipe)
        sample(pipe, callback_on_step_end=lambda _pipe, _i, t, tensors: told.append(t.item()) or tensors)
        hook.remove()
    sigmas = pipe.scheduler.sigmas.tolist()
    assert (pipe.scheduler.timesteps.tolist(), sigmas) == stock
    assert told == stock[0]
    expected = conditioned(sigmas, 0.2)
    assert [t[0].item() for t in seen] == pytest.approx([scale * t for t in expected])
    assert run.trace.t_star == pytest.approx(expected)


def test_heun_holds_its_ratio_and_asks_once_per_step(make_pipe):
    pipe = make_pipe("sd3", "heun")
    with asynchronous(pipe, Constant(0.2)) as run:
        seen, hook = recorder(pipe)
        sample(pipe)
        hook.remove()
    grid, t_star = run.trace.sigmas, run.trace.t_star
    assert len(seen) == 2 * STEPS - 1
    assert len(grid) == STEPS + 1
    assert [t[0].item() / 1000 for t in seen[::2]] == pytest.approx(t_star)
    held = [t_star[k] / grid[k] * grid[k + 1] for k in range(STEPS - 1)]
    assert [t[0].item() / 1000 for t in seen[1::2]] == pytest.approx(held)


def attributes(pipe):
    """Everything that a watcher could have left behind."""
    hooks = [len(getattr(pipe.transformer, name)) for name in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")]
    return set(vars(pipe)), set(vars(pipe.scheduler)), set(vars(pipe.transformer)), hooks


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_the_pipeline_is_restored(make_pipe, family):
    pipe = make_pipe(family)
    sample(pipe)
    before = attributes(pipe)
    with asynchronous(pipe, Constant(0.2)):
        assert attributes(pipe) != before
        sample(pipe)
    assert attributes(pipe) == before
    assert pipe.scheduler.step.__func__ is FlowMatchEulerDiscreteScheduler.step


def test_the_pipeline_is_restored_after_an_exception_and_can_run_again(make_pipe):
    pipe = make_pipe("sd3")
    reference = sample(pipe)
    before = attributes(pipe)

    def fail(_pipe, index, _t, tensors):
        if index == 1:
            raise KeyboardInterrupt
        return tensors

    with pytest.raises(KeyboardInterrupt), asynchronous(pipe, Constant(0.2)):
        sample(pipe, callback_on_step_end=fail)
    assert attributes(pipe) == before
    assert pipe.scheduler.step.__func__ is FlowMatchEulerDiscreteScheduler.step
    assert torch.equal(sample(pipe), reference)


def test_a_run_after_an_interrupted_one_starts_afresh(make_pipe):
    pipe = make_pipe("sd3")

    def fail(_pipe, _index, _t, _tensors):
        raise RuntimeError("stop")

    with asynchronous(pipe, Learned(trained("sd3"))) as run:
        whole = sample(pipe)
        with pytest.raises(RuntimeError, match="stop"):
            sample(pipe, callback_on_step_end=fail)
        assert torch.equal(sample(pipe), whole)
    assert [trace.steps for trace in run.traces] == [STEPS, 1, STEPS]


def test_somebody_elses_wrapper_of_step_survives(make_pipe):
    pipe = make_pipe("sd3")
    calls = []
    stock = pipe.scheduler.step

    def wrapper(*args, **kwargs):
        calls.append(1)
        return stock(*args, **kwargs)

    pipe.scheduler.step = wrapper
    with asynchronous(pipe, Constant(0.2)):
        sample(pipe)
    assert pipe.scheduler.step is wrapper
    assert len(calls) == STEPS


def test_nesting_is_refused_with_a_sentence(make_pipe):
    pipe = make_pipe("sd3")
    other = StableDiffusion3Pipeline(**{**pipe.components, "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)})
    with asynchronous(pipe, Constant(0.2)):
        for again in (pipe, other):
            with pytest.raises(HostError, match="already runs"), asynchronous(again, Constant(0.1)):
                pass
        sample(pipe)
    assert "step" not in vars(pipe.scheduler)
    assert "step" not in vars(other.scheduler)


# Not Flux with Heun: that pipeline counts Heun's evaluations as steps, and leaves a single one of these six.
@pytest.mark.parametrize(("family", "solver"), [("sd3", "euler"), ("sd3", "heun"), ("flux", "euler")])
def test_image_to_image(make_pipe, family, solver):
    pipe = make_pipe(family, solver, image_to_image=True)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    call = {"image": image, "strength": 0.5, "num_inference_steps": 6}
    reference = sample(pipe, **call)
    for policy in (Constant(0.0), Learned(untrained(family))):
        with asynchronous(pipe, policy):
            assert torch.equal(sample(pipe, **call), reference)
    with asynchronous(pipe, Constant(0.3)) as run:
        assert not torch.equal(sample(pipe, **call), reference)
    assert run.trace.steps == 3
    assert run.trace.t_star[0] == run.trace.sigmas[0] < 1.0


def test_skip_layer_guidance_gets_the_same_t_star(make_pipe):
    pipe = make_pipe("sd3")
    call = {"skip_guidance_layers": [0], "skip_layer_guidance_stop": 1.0}
    reference = sample(pipe, 3, **call)
    with asynchronous(pipe, Learned(untrained("sd3"))):
        assert torch.equal(sample(pipe, 3, **call), reference)
    with asynchronous(pipe, Learned(trained("sd3"))):
        seen, hook = recorder(pipe)
        sample(pipe, 3, **call)
        hook.remove()
    assert [len(t) for t in seen] == [6, 6, 3, 6, 3]
    assert torch.equal(seen[1][:3], seen[1][3:])
    assert torch.equal(seen[2], seen[1][:3])
    assert len(seen[1].unique()) == 3


def test_without_guidance_the_batch_is_not_doubled(make_pipe):
    pipe = make_pipe("sd3")
    reference = sample(pipe, 3, guidance_scale=1.0)
    with asynchronous(pipe, Learned(untrained("sd3"))):
        assert torch.equal(sample(pipe, 3, guidance_scale=1.0), reference)


def test_true_guidance_of_flux_makes_two_calls_with_one_t_star(make_pipe):
    pipe = make_pipe("flux")
    call = prompt("flux", 1)
    negative = {
        "negative_prompt_embeds": -call["prompt_embeds"],
        "negative_pooled_prompt_embeds": -call["pooled_prompt_embeds"],
    }
    with asynchronous(pipe, Learned(trained("flux"))) as run:
        seen, hook = recorder(pipe)
        sample(pipe, true_cfg_scale=3.0, **negative)
        hook.remove()
    assert len(seen) == 2 * STEPS
    assert all(torch.equal(a, b) for a, b in zip(seen[::2], seen[1::2], strict=True))
    assert run.trace.steps == STEPS


class Witness(Constant):
    """A constant policy that keeps the states it was shown."""

    needs_state = True

    def ratio(self, state):
        states.append(state)
        return super().ratio(state)


states = []


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_the_policy_sees_the_conditional_prompt_and_the_latent_as_a_map(make_pipe, family):
    pipe = make_pipe(family)
    states.clear()
    policy = Witness(0.2)
    object.__setattr__(policy, "needs_state", True)
    latents = []
    with asynchronous(pipe, policy):
        sample(
            pipe,
            2,
            width=96,
            callback_on_step_end=lambda _p, _i, _t, tensors: latents.append(tensors["latents"]) or tensors,
        )
    call = prompt(family, 2)
    assert len(states) == STEPS - 1
    assert torch.equal(states[0].text.context, call["prompt_embeds"])
    assert torch.equal(states[0].text.pooled, call["pooled_prompt_embeds"])
    assert states[0].x.shape == states[0].v.shape == (2, CHANNELS, 8, 12)
    latent = latents[0] if family == "sd3" else FluxPipeline._unpack_latents(latents[0], 64, 96, 8)
    assert torch.equal(states[1].x, latent)
    step = states[0].x + (states[0].sigma_next - states[0].sigma) * states[0].v
    assert torch.allclose(step, latent, atol=1e-6)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_learned_policy_decides_per_sample_with_k_minus_one_calls_and_one_prompt_encoding(make_pipe, family):
    pipe, tpm, counts = make_pipe(family), trained(family), {"tpm": 0, "text": 0}
    tpm.register_forward_hook(lambda *_: counts.update(tpm=counts["tpm"] + 1))
    tpm.text.register_forward_hook(lambda *_: counts.update(text=counts["text"] + 1))
    with asynchronous(pipe, Learned(tpm)) as run:
        seen, hook = recorder(pipe)
        sample(pipe, 3)
        hook.remove()
        assert counts == {"tpm": STEPS - 1, "text": 1}
        sample(pipe, 3)
    assert counts == {"tpm": 2 * (STEPS - 1), "text": 2}
    assert len(seen[0].unique()) == 1  # the first evaluation is synchronous
    assert run.trace.t_star[0] == run.trace.sigmas[0]
    assert all(len(set(entry)) == 3 for entry in run.trace.t_star[1:])
    assert run.traces[0].t_star == run.traces[1].t_star


def test_readouts_differ_and_sampling_is_reproducible(make_pipe):
    pipe, tpm = make_pipe("sd3"), trained("sd3")

    def run(readout, seed=None):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        with asynchronous(pipe, Learned(tpm, readout, generator)):
            return sample(pipe)

    assert not torch.equal(run("mode"), run("mean"))
    assert torch.equal(run("sample", 1), run("sample", 1))
    assert not torch.equal(run("sample", 1), run("sample", 2))


@pytest.mark.parametrize("target", ["timestep", "velocity"])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_trace_replays_bit_for_bit(make_pipe, family, target):
    pipe = make_pipe(family)
    retiming = Retiming(gamma=1.5, target=target, velocity_coupling=0.5 if target == "timestep" else 0.0)
    with asynchronous(pipe, Learned(trained(family)), retiming) as run:
        image = sample(pipe, 2)
    with asynchronous(pipe, Recorded(run.trace), retiming):
        assert torch.equal(sample(pipe, 2), image)


def test_half_precision_runs_and_keeps_its_identity(make_pipe):
    pipe = make_pipe("flux")
    pipe.transformer.bfloat16()
    embeds = {name: value.bfloat16() for name, value in prompt("flux", 2).items()}
    reference = sample(pipe, 2, **embeds)
    with asynchronous(pipe, Learned(untrained("flux")), Retiming(velocity_coupling=1.0)):
        assert torch.equal(sample(pipe, 2, **embeds), reference)
    with asynchronous(pipe, Learned(trained("flux"))):
        assert not torch.equal(sample(pipe, 2, **embeds), reference)


def test_what_cannot_be_driven_is_a_sentence(make_pipe):
    pipe = make_pipe("sd3")
    with pytest.raises(PolicyError, match="made for flux"), asynchronous(pipe, Constant(0.1, backbone="flux")):
        pass
    pipe.scheduler = DDIMScheduler()
    with pytest.raises(HostError, match="flow-matching"), asynchronous(pipe, Constant(0.1)):
        pass
    with pytest.raises(HostError, match="SD3"), asynchronous(object(), Constant(0.1)):
        pass


def test_a_tpm_of_another_size_is_a_sentence_and_leaves_the_pipeline_restored(make_pipe):
    pipe = make_pipe("sd3")
    tpm = TPM(TPMConfig("sd3", 16, CONTEXT, POOLED, width=16, heads=2, layers=1))
    with pytest.raises(PolicyError, match="trained for this model"), asynchronous(pipe, Learned(tpm)):
        sample(pipe)
    assert "step" not in vars(pipe.scheduler)


def test_reading_a_trace_before_any_run_is_a_sentence(make_pipe):
    with asynchronous(make_pipe("sd3"), Constant(0.1)) as run, pytest.raises(HostError, match="Nothing has run"):
        _ = run.trace
    assert run.traces == []


def test_packing_is_what_flux_does():
    latent = torch.arange(2 * 4 * 6 * 10.0).reshape(2, 4, 6, 10)
    packed = FluxPipeline._pack_latents(latent, 2, 4, 6, 10)
    flux = Flux()
    flux.columns = count_columns(FluxPipeline._prepare_latent_image_ids(2, 3, 5, "cpu", torch.float32))
    assert torch.equal(flux.to_map(packed), latent)
    assert torch.equal(flux.from_map(latent), packed)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (4, 1), (3, 5)])
def test_columns_are_counted_from_positions(rows, columns):
    ids = FluxPipeline._prepare_latent_image_ids(1, rows, columns, "cpu", torch.float32)
    assert count_columns(ids) == columns


def test_retimed_keeps_the_elements_that_do_not_deviate():
    timestep = torch.full((4,), 700.1234)
    told = SD3().told
    assert retimed(timestep, 0.7, 0.7, told) is timestep
    mixed = retimed(timestep, torch.tensor([0.5, 0.25]), 0.5, told)
    assert torch.equal(mixed, torch.tensor([700.1234, 250.0, 700.1234, 250.0]))
    whole = retimed(torch.full((2,), 700), torch.tensor([0.5, 0.25]), 0.7, told)
    assert torch.equal(whole, torch.tensor([500.0, 250.0]))
