"""The ComfyUI adapter, in process: bit-identity, what every party sees, what the retimer gets, what is refused."""

import itertools

import pytest
import torch

from support import stand_ins
from support.retiming_runs import Log, asynchronous, call

pytestmark = pytest.mark.host

SAMPLERS = (
    "euler", "euler_ancestral", "heun", "dpm_2", "lms", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "dpmpp_3m_sde", "lcm",
    "ddim", "uni_pc", "res_multistep", "er_sde",
)  # fmt: skip
SCHEDULERS = ("simple", "normal", "sgm_uniform", "beta")
CASES = {
    "cfg 1": {"cfg": 1.0},
    "cfg 5": {},
    "batch 3": {"batch": 3},
    "img2img": {"denoise": 0.6, "filled": True},
    "inpaint": {"filled": True, "masked": True},
}


# ------------------------------------------------------------------------------------------------------- identity


@pytest.mark.parametrize("case", CASES)
def test_gamma_zero_is_bit_identical(model, run, case):
    synchronous = asynchronous(model, gamma=0.0)
    different = [
        (sampler, scheduler)
        for sampler, scheduler in itertools.product(SAMPLERS, SCHEDULERS)
        if not torch.equal(
            run(synchronous, sampler=sampler, scheduler=scheduler, **CASES[case]),
            run(model, sampler=sampler, scheduler=scheduler, **CASES[case]),
        )
    ]
    assert different == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc"])
def test_control_gamma_one_is_not(model, run, case, sampler):
    moved = run(asynchronous(model), sampler=sampler, **CASES[case])
    assert torch.isfinite(moved).all()
    assert not torch.equal(moved, run(model, sampler=sampler, **CASES[case]))


def test_no_deviation_is_bit_identical(model, run):
    assert torch.equal(run(asynchronous(model, deviation=0.0), batch=3), run(model, batch=3))


def test_the_original_stays_as_it_was(model, run):
    before = run(model)
    run(asynchronous(model))
    assert torch.equal(run(model), before)


def test_one_patched_model_serves_many_runs(model, run):
    patched = asynchronous(model)
    first = run(patched)
    run(patched, steps=5, scheduler="beta", batch=2)
    assert torch.equal(run(patched), first)


# --------------------------------------------------------------------------------------------- what the parties see


def test_only_the_network_sees_t_star(model, run):
    from asyncdiff.tpm.retiming.equations import conditioning_timestep, limits

    def seen(patched):
        seen = {"callback": [], "post_cfg": [], "options": [], "network": []}
        probe = patched.clone()
        network = probe.model.diffusion_model

        def post_cfg(args):
            seen["post_cfg"].append(float(args["sigma"][0]))
            return args["denoised"]

        def unet(apply, args):
            seen["options"].append(float(args["c"]["transformer_options"]["sigmas"][0]))
            return apply(args["input"], args["timestep"], **args["c"])

        probe.set_model_sampler_post_cfg_function(post_cfg)
        probe.set_model_unet_function_wrapper(unet)
        hook = network.register_forward_pre_hook(lambda _, args: seen["network"].append(float(args[1][0])))
        try:
            run(probe, steps=6, cfg=1.0)
        finally:
            hook.remove()
        return seen

    log = Log()
    stock, moved = seen(model), seen(asynchronous(model, watcher=log))
    assert stock["post_cfg"] == moved["post_cfg"]
    assert stock["options"] == moved["options"]
    grid = log.runs[0]
    scale = stock["network"][0] / grid[0]
    expected = [grid[0]] + [
        conditioning_timestep(grid[k], grid[k] - grid[k - 1], 0.4, limits(grid[k], t_start=grid[0]))
        for k in range(1, 6)
    ]
    assert moved["network"] == pytest.approx([scale * t for t in expected], rel=1e-5)
    assert [t for _, t in log.steps] == pytest.approx(expected)
    assert log.traces[0].t_star == pytest.approx(expected)


def test_the_callback_sees_the_true_grid(comfy, model):
    from comfy import sample as host_sample

    def sigmas_of(patched):
        shown = []
        noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        comfy_sample = host_sample.sample
        comfy_sample(
            patched, noise, 4, 1.0, "euler", "simple", stand_ins.conditioning(), stand_ins.conditioning(1),
            torch.zeros(1, 16, 8, 8), callback=lambda step, x0, x, total: shown.append((step, tuple(x.shape), total)),
        )  # fmt: skip
        return shown

    assert sigmas_of(model) == sigmas_of(asynchronous(model))


def test_a_controlnet_sees_the_true_sigma(model, run):
    class Control:
        """As much of a ControlNet as the sampler calls."""

        previous_controlnet = extra_hooks = None
        multigpu_clones = {}  # noqa: RUF012 - as the host has it

        def __init__(self):
            self.seen = []

        def get_control(self, x, t, cond, batched_number, transformer_options):
            self.seen.append(t.tolist())

        def copy(self):
            return self

        def __getattr__(self, name):
            return lambda *_: 0 if name == "inference_memory_requirements" else []

    def seen(patched):
        control = Control()
        text = stand_ins.conditioning()
        text[0][1]["control"] = control
        run(patched, cfg=1.0, steps=4, positive=text)
        return control.seen

    assert len(seen(model)) == 4
    assert seen(asynchronous(model)) == seen(model)


@pytest.mark.parametrize("coupling", [0.0, 1.0])
def test_euler_integrates_exactly_what_was_observed(comfy, model, run, coupling):
    """x_{k+1} = x_k + Δσ·ω·v_k: v as the retimer saw it is the sampler's own."""
    from comfy.patcher_extension import WrappersMP

    states = []

    def watch(executor, x, timestep, *args):
        denoised = executor(x, timestep, *args)
        states.append((float(timestep[0]), x, denoised))
        return denoised

    watched = model.clone()
    watched.add_wrapper(WrappersMP.PREDICT_NOISE, watch)
    run(asynchronous(watched, velocity_coupling=coupling), steps=5)
    assert len(states) == 5
    for (sigma, x, denoised), (sigma_next, x_next, _) in itertools.pairwise(states):
        moved = x + (x - denoised) / sigma * (sigma_next - sigma)
        assert float((x_next - moved).abs().max()) <= 1e-6 * float(moved.abs().max())


def test_coupling_one_is_lying_sigma(comfy, model, run):
    """p = 1 equals a sampler whose model is called at σ* (Lying Sigma, Detail Daemon); p = 0 does not."""
    from comfy.patcher_extension import WrappersMP

    log = Log()
    coupled = run(asynchronous(model, velocity_coupling=1.0, watcher=log), steps=5)
    told = dict(zip(log.runs[0], log.traces[0].t_star, strict=False))

    def lie(executor, x, timestep, *args):
        sigma = min(told, key=lambda known: abs(known - float(timestep[0])))
        return executor(x, torch.full_like(timestep, told[sigma]), *args)

    lying = model.clone()
    lying.add_wrapper(WrappersMP.PREDICT_NOISE, lie)
    wanted = run(lying, steps=5)
    scale = float(wanted.abs().max())
    assert float((coupled - wanted).abs().max()) < 2e-5 * scale
    assert float((run(asynchronous(model), steps=5) - wanted).abs().max()) > 1e-3 * scale


# ---------------------------------------------------------------------------------------------- learned policies


def test_every_sample_has_its_own_t_star(models, run, tpm):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Learned

    log = Log()
    patched = attach(models["sd35"], Learned(tpm), None, log)
    together = run(patched, batch=3, steps=5)
    assert [len(entry) for entry in log.traces[0].t_star[1:]] == [3] * 4
    assert len(set(log.traces[0].t_star[2])) == 3
    assert not torch.equal(together, run(models["sd35"], batch=3, steps=5))


def test_split_and_joined_guidance_calls_agree(models, run, tpm):
    """Unequal prompts run as two calls; each gets the t* of its samples."""
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Learned

    log = Log()
    patched = attach(models["sd35"], Learned(tpm), None, log)
    run(patched, batch=2, steps=4, negative=stand_ins.conditioning(1, tokens=5))
    run(patched, batch=2, steps=4)
    assert all(len(entry) == 2 for trace in log.traces for entry in trace.t_star[1:])


def test_a_flux_policy_is_refused_on_sd35(models):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.errors import PolicyError
    from asyncdiff.tpm.policies import find_policy

    with pytest.raises(PolicyError, match=r"made for Flux, the model is SD3 or SD3.5\. These fit: SD3.5 · constant"):
        attach(models["sd35"], find_policy("flux-coco"))


# ------------------------------------------------------------------------------------------------ other samplers


@pytest.mark.parametrize("guider", ["BasicGuider", "CFGGuider", "DualCFGGuider", "PerpNegGuider"])
def test_every_guider(comfy, model, guider):
    import comfy_extras.nodes_custom_sampler as custom
    import comfy_extras.nodes_perpneg as perpneg

    positive, negative, other = (stand_ins.conditioning(n) for n in range(3))

    def guided(patched):
        return {
            "BasicGuider": lambda: call(custom.BasicGuider, patched, positive),
            "CFGGuider": lambda: call(custom.CFGGuider, patched, positive, negative, 4.0),
            "DualCFGGuider": lambda: call(
                custom.DualCFGGuider, patched, positive, other, negative, 4.0, 3.0, "regular"
            ),
            "PerpNegGuider": lambda: call(perpneg.PerpNegGuider, patched, positive, negative, other, 4.0, 1.0),
        }[guider]()

    def sampled(patched):
        sigmas = call(custom.BasicScheduler, patched, "simple", 4, 1.0)
        sampler = call(custom.KSamplerSelect, "euler")
        noise = call(custom.RandomNoise, 3)
        latent = {"samples": torch.zeros(2, 16, 8, 8)}
        return call(custom.SamplerCustomAdvanced, noise, guided(patched), sampler, sigmas, latent)["samples"]

    stock = sampled(model)
    assert torch.equal(sampled(asynchronous(model, gamma=0.0)), stock)
    assert not torch.equal(sampled(asynchronous(model)), stock)


def test_a_part_of_the_steps(comfy, model):
    """KSampler (Advanced) from step 2 to 5 of 6: the part is the grid, and its first step is synchronous."""

    def part(patched):
        node = comfy.KSamplerAdvanced()
        latent = {"samples": torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))}
        text, none = stand_ins.conditioning(), stand_ins.conditioning(1)
        return node.sample(
            patched, "enable", 1, 6, 4.0, "euler", "simple", text, none, latent, 2, 5, "enable"
        )[0]["samples"]  # fmt: skip

    log = Log()
    assert torch.equal(part(asynchronous(model, gamma=0.0)), part(model))
    assert not torch.equal(part(asynchronous(model, watcher=log)), part(model))
    assert len(log.runs[0]) == 4
    assert log.traces[0].deviation == [0.0, 0.4, 0.4]


def test_skip_layer_guidance_runs_beside_it(comfy, models, run):
    import comfy_extras.nodes_slg as slg

    model = models["sd35"]

    def guided(patched):
        return call(slg.SkipLayerGuidanceDiT,
            model=patched, double_layers="0", single_layers="", scale=3.0, start_percent=0.01, end_percent=0.9,
            rescaling_scale=0.0,
        )  # fmt: skip

    stock = run(guided(model), steps=5)
    assert torch.equal(run(guided(asynchronous(model, gamma=0.0)), steps=5), stock)
    assert not torch.equal(run(guided(asynchronous(model)), steps=5), stock)


def test_lora_weights_and_a_compiled_model(comfy, model, run):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    adapted = model.clone()
    name = next(n for n, w in model.model.state_dict().items() if n.endswith("img_in.weight") or "x_embedder" in n)
    difference = 0.05 * torch.ones_like(model.model.state_dict()[name])
    assert adapted.add_patches({name: ("diff", (difference,))})
    stock = run(adapted)
    assert not torch.equal(stock, run(model))
    assert torch.equal(run(asynchronous(adapted, gamma=0.0)), stock)
    moved = run(asynchronous(adapted))
    compiled = asynchronous(adapted).clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    assert torch.allclose(run(compiled), moved, atol=1e-4)
    assert not torch.equal(moved, stock)


def test_another_packs_hooks_before_and_after(model, run):
    from comfy.patcher_extension import WrappersMP

    calls = []

    def note(executor, *args, **kwargs):
        calls.append(len(calls))
        return executor(*args, **kwargs)

    before = model.clone()
    before.add_wrapper(WrappersMP.PREDICT_NOISE, note)
    after = asynchronous(model).clone()
    after.add_wrapper(WrappersMP.PREDICT_NOISE, note)
    expected = run(asynchronous(model))
    assert torch.equal(run(asynchronous(before)), expected)
    assert torch.equal(run(after), expected)
    assert len(calls) == 6


def test_a_family_that_already_moves_its_timestep_keeps_doing_so(model, run):
    """A `process_timestep` that is there already receives t* instead of t."""
    received = []

    def halve(timestep, **_):
        received.append(float(timestep[0]))
        return timestep * 0.5

    moving = model.clone()
    moving.add_object_patch("process_timestep", halve)
    run(moving, steps=4, cfg=1.0)
    stock, moved = list(received), received
    received.clear()
    run(asynchronous(moving), steps=4, cfg=1.0)
    assert moved[0] == stock[0]
    assert all(later < earlier for later, earlier in zip(moved[1:], stock[1:], strict=True))


# ----------------------------------------------------------------------------------------------- refusals, ends


def test_a_model_without_a_time_is_refused(comfy, model):
    from comfy import model_sampling

    from asyncdiff.tpm.errors import HostError

    class OneStep(model_sampling.ModelSamplingDiscrete, model_sampling.IMG_TO_IMG):
        pass

    picture_to_picture = model.clone()
    picture_to_picture.add_object_patch("model_sampling", OneStep(None))
    with pytest.raises(HostError, match="ModelSamplingDiscrete and IMG_TO_IMG, where σ is no time"):
        asynchronous(picture_to_picture)


def test_a_model_is_made_asynchronous_only_once(model):
    from asyncdiff.tpm.errors import HostError

    with pytest.raises(HostError, match="already"):
        asynchronous(asynchronous(model))


def test_an_interrupt_leaves_the_next_run_clean(comfy, model, run):
    from comfy.model_management import InterruptProcessingException
    from comfy.patcher_extension import WrappersMP

    patched, log = model, Log()
    patched = asynchronous(model, watcher=log)
    expected = run(patched, steps=6)
    broken = patched.clone()
    calls = itertools.count()

    def stop(executor, *args):
        if next(calls) == 3:
            raise InterruptProcessingException
        return executor(*args)

    broken.add_wrapper(WrappersMP.PREDICT_NOISE, stop)
    with pytest.raises(InterruptProcessingException):
        run(broken, steps=6)
    assert log.traces[-1].steps == 4
    assert torch.equal(run(patched, steps=6), expected)
