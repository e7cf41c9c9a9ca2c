"""SD1.x and SDXL: UNets of ε and v under the schedulers of diffusers, small and with random weights."""

from itertools import pairwise

import pytest
import torch

from support import noise_pipelines as noise
from support.by_latent import ByLatent

pytest.importorskip("diffusers")

import diffusers

from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.hosts.diffusers import asynchronous
from asyncdiff.tpm.hosts.diffusers.noise import SCHEDULERS
from asyncdiff.tpm.policies import Constant, Recorded
from asyncdiff.tpm.retiming.settings import Retiming


def recorder(pipe):
    """The timesteps and the number of rows of each call of the UNet, as they arrive there."""
    seen = []

    def note(_module, args, kwargs):
        seen.append((args[1].clone(), len(args[0])))

    return seen, pipe.unet.register_forward_pre_hook(note, with_kwargs=True)


def expected_times(times, d):
    """What the denoiser is told where the scheduler's timesteps are these."""
    return times[:1] + [min(max(b + d * (b - a), 0), 999) for a, b in pairwise(times)]


@pytest.mark.parametrize("name", noise.SDXL + noise.SD1)
def test_a_stock_pipeline_is_driven(name):
    pipe = noise.build(name)
    reference = noise.run(pipe, 2)
    assert torch.isfinite(reference).all()
    with asynchronous(pipe, Constant(0.4), Retiming(gamma=0.0)):
        assert torch.equal(noise.run(pipe, 2), reference)
    seen, hook = recorder(pipe)
    with asynchronous(pipe, Constant(0.3)) as run:
        changed = noise.run(pipe, 2)
    hook.remove()
    assert (changed - reference).abs().max() > 1e-3
    times = [1000 * u - 1 for u in run.trace.sigmas[:-1]]
    assert times == pytest.approx(pipe.scheduler.timesteps.tolist()[-len(times) :], abs=1e-3)
    assert [float(t.reshape(-1)[0]) for t, _ in seen] == pytest.approx(expected_times(times, 0.3), abs=1e-3)
    with asynchronous(pipe, ByLatent(0.2)) as run:
        assert not torch.equal(noise.run(pipe, 2), reference)
    assert all(len(set(entry)) == 2 for entry in run.trace.t_star[1:-1])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_every_scheduler(kind, prediction):
    pipe = noise.build("StableDiffusionXLPipeline", kind, prediction_type=prediction)
    reference = noise.run(pipe, 2)
    with asynchronous(pipe, ByLatent(0.0, flat=True), Retiming(velocity_coupling=1.0)):
        assert torch.equal(noise.run(pipe, 2), reference)
    stock = pipe.scheduler.timesteps.tolist()
    with asynchronous(pipe, Constant(0.3)) as run:
        assert (noise.run(pipe, 2) - reference).abs().max() > 1e-3
    assert pipe.scheduler.timesteps.tolist() == stock
    assert run.trace.proposed[1:] == pytest.approx([0.3] * (len(run.trace.sigmas) - 2))
    assert "u = (trained timestep + 1)" in run.trace.notes[0]
    assert run.trace.sigmas == pytest.approx([(t + 1) / 1000 for t in dict.fromkeys(stock)] + [0])


@pytest.mark.parametrize(
    ("kind", "prediction"),
    [
        *((kind, "epsilon") for kind in SCHEDULERS),
        *((kind, "v_prediction") for kind in ("EulerDiscreteScheduler", "DDIMScheduler")),
    ],
)
def test_a_prediction_that_does_not_depend_on_the_timestep_gives_the_synchronous_result(kind, prediction):
    """The conditioning has no other path into the picture."""
    pipe = noise.build("StableDiffusionXLPipeline", kind, prediction_type=prediction)
    torch.nn.init.zeros_(pipe.unet.time_embedding.linear_2.weight)
    reference = noise.run(pipe, 2)
    with asynchronous(pipe, ByLatent(0.3)) as run:
        assert torch.equal(noise.run(pipe, 2), reference)
    assert run.trace.deviation[1][1] > 0.2


def test_a_trace_replays_bit_for_bit():
    pipe = noise.build("StableDiffusionXLPipeline")
    with asynchronous(pipe, ByLatent(0.3)) as run:
        picture = noise.run(pipe, 2)
    with asynchronous(pipe, Recorded(run.trace)):
        assert torch.equal(noise.run(pipe, 2), picture)


def test_sdxl_is_told_759_for_799():
    pipe = noise.build("StableDiffusionXLPipeline", timestep_spacing="trailing")
    seen, hook = recorder(pipe)
    with asynchronous(pipe, Constant(0.2)):
        noise.run(pipe, num_inference_steps=5)
    hook.remove()
    assert [float(t.reshape(-1)[0]) for t, _ in seen] == pytest.approx([999, 759, 559, 359, 159], abs=1e-3)


def test_heun_holds_its_ratio():
    pipe = noise.build("StableDiffusionXLPipeline", "HeunDiscreteScheduler")
    seen, hook = recorder(pipe)
    with asynchronous(pipe, Constant(0.2)) as run:
        noise.run(pipe)
    hook.remove()
    grid, t_star = run.trace.sigmas, run.trace.t_star
    told = [(float(t.reshape(-1)[0]) + 1) / 1000 for t, _ in seen]
    assert told[::2] == pytest.approx(t_star, abs=1e-5)
    assert told[1::2] == pytest.approx([max(t_star[k] / grid[k] * grid[k + 1], 1e-3) for k in range(2)], abs=1e-5)


def scaled(latent, kept, kind):
    """A scheduler's latent at the network's scale."""
    return latent * kept**0.5 if kind == "EulerDiscreteScheduler" else latent


@pytest.mark.parametrize("coupling", [0.0, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "DDIMScheduler"])
def test_a_policy_sees_what_the_network_sees_and_its_noise(kind, prediction, coupling):
    """x at the network's scale and v = ε: the step that is made is α'·(x − s·ω·ε)/α + s'·ω·ε with ω = (u*/u)^p."""
    pipe = noise.build("StableDiffusionXLPipeline", kind, prediction_type=prediction, timestep_spacing="leading")
    inputs, latents = [], []
    hook = pipe.unet.register_forward_pre_hook(lambda _m, args: inputs.append(args[0][2:]))
    policy = ByLatent(0.2)

    def keep(_pipe, _i, _t, tensors):
        latents.append(tensors["latents"])
        return tensors

    with asynchronous(pipe, policy, Retiming(velocity_coupling=coupling)) as run:
        noise.run(pipe, 2, callback_on_step_end=keep)
    hook.remove()
    levels = pipe.scheduler.alphas_cumprod
    for k, state in enumerate(policy.states[:-1]):
        assert torch.allclose(state.x, inputs[k], atol=1e-5)
        kept, after = (levels[round(at.sigma * 1000 - 1)] for at in policy.states[k : k + 2])
        omega = torch.tensor(run.trace.t_star[k]).reshape(-1, 1, 1, 1) / state.sigma if k and coupling else 1.0
        noise_part = state.v * omega
        clean = (state.x - (1 - kept) ** 0.5 * noise_part) / kept**0.5
        moved = clean * after**0.5 + (1 - after) ** 0.5 * noise_part
        assert torch.allclose(moved, scaled(latents[k], after, kind), rtol=1e-3, atol=1e-3), k
    assert torch.equal(policy.states[0].text.pooled, noise.arguments(pipe, 2)["pooled_prompt_embeds"])
    assert torch.equal(policy.states[0].text.context, noise.arguments(pipe, 2)["prompt_embeds"])


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "StableDiffusionPipeline"])
def test_the_pipeline_is_restored(name):
    pipe = noise.build(name)
    noise.run(pipe)
    before = set(vars(pipe)), set(vars(pipe.scheduler)), set(vars(pipe.unet))
    kind = type(pipe)
    with asynchronous(pipe, Constant(0.2)):
        noise.run(pipe)
    assert (set(vars(pipe)), set(vars(pipe.scheduler)), set(vars(pipe.unet))) == before
    assert type(pipe) is kind
    assert "step" not in vars(pipe.scheduler)
    assert "_compiled_call_impl" not in vars(pipe.unet)


def test_a_sibling_that_shares_the_parts_and_a_scheduler_that_is_replaced_inside():
    pipe = noise.build("StableDiffusionXLPipeline")
    sibling = diffusers.StableDiffusionXLImg2ImgPipeline.from_pipe(pipe)
    sibling.set_progress_bar_config(disable=True)
    plain = noise.run(sibling, 2)
    with asynchronous(pipe, Constant(0.3)) as run:
        assert not torch.equal(noise.run(sibling, 2), plain)
        assert run.trace.steps == 3
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
        noise.run(pipe)
        assert run.trace.steps == 3
        with pytest.raises(HostError, match="not with PNDM"):
            pipe.scheduler = diffusers.PNDMScheduler.from_config(pipe.scheduler.config)


def test_two_experts_of_sdxl_one_after_the_other():
    """A base that stops early, and a refiner that goes on with the same grid."""
    pipe = noise.build("StableDiffusionXLPipeline")
    refiner = diffusers.StableDiffusionXLImg2ImgPipeline.from_pipe(pipe)
    refiner.set_progress_bar_config(disable=True)
    with asynchronous(pipe, Constant(0.3)) as run:
        half = noise.run(pipe, 1, num_inference_steps=10, denoising_end=0.6)
        noise.run(refiner, 1, num_inference_steps=10, denoising_start=0.6, image=half)
    assert [trace.steps for trace in run.traces] == [6, 4]


CASES = {
    "PNDM": ({"kind": "PNDMScheduler"}, "not with PNDMScheduler"),
    "LCM": ({"kind": "LCMScheduler"}, "Euler.*, not with LCMScheduler"),
    "flow": ({"kind": "FlowMatchEulerDiscreteScheduler"}, "not with FlowMatchEuler"),
    "continuous": ({"timestep_type": "continuous", "prediction_type": "v_prediction"}, "timestep_type"),
    "sample": ({"prediction_type": "sample"}, "'sample' is not supported"),
    "flow sigmas": ({"kind": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_scheduler_that_does_not_fit_is_a_sentence(case):
    settings, words = CASES[case]
    pipe = noise.build("StableDiffusionXLPipeline")
    kind = settings.pop("kind", "EulerDiscreteScheduler") if "kind" in settings else "EulerDiscreteScheduler"
    pipe.scheduler = getattr(diffusers, kind)(**settings)
    with pytest.raises(HostError, match=words), asynchronous(pipe, Constant(0.1)):
        pass
    assert "step" not in vars(pipe.scheduler)


def test_a_pipeline_with_a_loop_of_another_kind_is_a_sentence():
    pipe = noise.build("StableDiffusionPipeline")
    panorama = diffusers.StableDiffusionPanoramaPipeline(**pipe.components, requires_safety_checker=False)
    with (
        pytest.raises(HostError, match=r"Panorama.* one step for each .* SD1\.x, SD2\.x"),
        asynchronous(panorama, Constant(0.1)),
    ):
        pass
