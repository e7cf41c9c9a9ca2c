"""SDXL, Flux.2, Qwen-Image and Z-Image: one network, one noise and one text in ComfyUI and in diffusers."""

import inspect

import pytest
import torch

from support import twins

pytestmark = pytest.mark.host
SAME = 5e-5  # of the largest value: the two hosts sum in another order
SIGMAS = [1.0, 0.93, 0.8, 0.62, 0.4, 0.15]
TIMES = [999, 832, 666, 499, 333, 166]  # SDXL's of the same number of steps
SIDE, TOKENS = 8, 32


def texts():
    """Context and pooled prompt, and those of the negative prompt."""
    draw = torch.Generator().manual_seed(5)
    pair = [(torch.randn(1, TOKENS, twins.CONTEXT, generator=draw), torch.randn(1, twins.POOLED, generator=draw))]
    return pair[0] + tuple(-part for part in pair[0])


def pipeline(name, **parts):
    import diffusers

    kind = getattr(diffusers, name)
    wanted = set(inspect.signature(kind.__init__).parameters)
    absent = {"text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "vae"} & wanted
    pipe = kind(**dict.fromkeys(absent), **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Case:
    """A family: its pipeline, the call of it, and the same for ComfyUI."""

    channels, guidance = 16, 3.0

    def __init__(self, network):
        self.network, make = network
        self.model = make()
        shape = (1, self.channels, SIDE, SIDE)
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        self.pipe = self.pipeline()

    def pipeline(self):
        from diffusers import FlowMatchEulerDiscreteScheduler

        return pipeline(self.name, transformer=self.network, scheduler=FlowMatchEulerDiscreteScheduler())

    def in_diffusers(self):
        """Latents (1, C, H, W)."""
        size = {"height": SIDE * self.pixels, "width": SIDE * self.pixels}
        return self.unpacked(self.pipe(**self.call(), **size, output_type="latent").images)

    def call(self):
        context, _, other, _ = texts()
        return {"prompt_embeds": context, "negative_prompt_embeds": other, "sigmas": SIGMAS, "latents": self.noise}

    pixels = 8

    def unpacked(self, latent):
        return latent

    def conditionings(self):
        context, pooled, other, other_pooled = texts()
        return [[context, {"pooled_output": pooled}]], [[other, {"pooled_output": other_pooled}]]

    def sigmas(self):
        return torch.tensor([*SIGMAS, 0.0])

    def in_comfyui(self, model, sampler="euler"):
        """The same from the functions behind SamplerCustom, at the network's scale of the latent."""
        import comfy.sample
        import comfy.samplers

        noise = self.noise if model.model.latent_format.latent_dimensions == 2 else self.noise.unsqueeze(2)
        positive, negative = self.conditionings()
        method = comfy.samplers.ksampler(sampler)
        with torch.no_grad():
            done = comfy.sample.sample_custom(
                model, noise, self.guidance, method, self.sigmas(), positive, negative, torch.zeros_like(noise),
                disable_pbar=True, seed=3,
            )  # fmt: skip
            return model.model.process_latent_in(done).reshape(self.noise.shape)


class SDXL(Case):
    channels = 4

    def __init__(self):
        super().__init__(twins.sdxl())

    def pipeline(self):
        from diffusers import EulerDiscreteScheduler

        schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
        scheduler = EulerDiscreteScheduler(**schedule, timestep_spacing="leading", steps_offset=1)
        return pipeline("StableDiffusionXLPipeline", unet=self.network, scheduler=scheduler, add_watermarker=False)

    def call(self):
        context, pooled, other, other_pooled = texts()
        text = {"prompt_embeds": context, "pooled_prompt_embeds": pooled, "negative_prompt_embeds": other}
        text |= {"negative_pooled_prompt_embeds": other_pooled, "guidance_scale": self.guidance}
        return {**text, "timesteps": TIMES, "latents": self.noise.clone()}

    def sigmas(self):
        levels = self.model.get_model_object("model_sampling").sigmas
        return torch.cat([levels[TIMES], torch.zeros(1)])


class Qwen(Case):
    """Without guidance: the pipeline of diffusers changes the norm of what guidance gives, ComfyUI does not."""

    name, guidance = "QwenImagePipeline", 1.0

    def __init__(self):
        super().__init__(twins.qwen_image())

    def call(self):
        mask = torch.ones(1, TOKENS, dtype=torch.long)
        masks = {"prompt_embeds_mask": mask, "negative_prompt_embeds_mask": mask}
        packed = self.pipe._pack_latents(self.noise, 1, 16, SIDE, SIDE)
        return {**super().call(), **masks, "latents": packed, "true_cfg_scale": 1.0}

    def unpacked(self, latent):
        side = SIDE * self.pixels
        return self.pipe._unpack_latents(latent, side, side, self.pipe.vae_scale_factor)[:, :, 0]


class Z(Case):
    name = "ZImagePipeline"

    def __init__(self):
        super().__init__(twins.z_image())

    def call(self):
        call = super().call()
        for part in ("prompt_embeds", "negative_prompt_embeds"):
            call[part] = list(call[part])
        return {**call, "guidance_scale": self.guidance - 1}  # it adds to the conditional prediction


class Flux2(Case):
    name, channels, guidance, pixels = "Flux2Pipeline", 128, 1.0, 16

    def __init__(self):
        super().__init__(twins.flux2())

    def call(self):
        context = texts()[0]
        padded = torch.cat([torch.zeros(1, 512 - TOKENS, twins.CONTEXT), context], dim=1)  # as ComfyUI does
        return {"prompt_embeds": padded, "sigmas": SIGMAS, "latents": self.noise, "guidance_scale": 4.0}

    def unpacked(self, latent):
        return latent.mT.unflatten(-1, (SIDE, SIDE))

    def conditionings(self):
        context = texts()[0]
        extra = {
            "guidance": 4.0,
            "pooled_output": torch.zeros(1, twins.POOLED),
        }  # not read, but old hosts want it to be there
        return [[context, extra]], [[context, extra]]


CASES = {"SDXL": SDXL, "Qwen-Image": Qwen, "Z-Image": Z, "Flux.2": Flux2}


@pytest.fixture(scope="module", params=CASES)
def case(comfy, request):
    pytest.importorskip("diffusers")
    return CASES[request.param]()


def difference(one, other):
    """The largest difference, as a part of the largest value."""
    return float((one - other).abs().max() / other.abs().max())


@pytest.fixture(scope="module")
def plain(case):
    return case.in_diffusers()


def test_the_twins_are_twins(case, plain):
    assert difference(case.in_comfyui(case.model), plain) < SAME


@pytest.mark.parametrize("coupling", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["constant", "TPM"])
def test_both_hosts_give_the_same_asynchronous_latents(case, plain, kind, coupling):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.hosts.diffusers import asynchronous
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.retiming.settings import Retiming
    from support.by_latent import ByLatent

    retiming = Retiming(velocity_coupling=coupling)
    policies = [Constant(0.3) if kind == "constant" else ByLatent(0.2) for _ in range(2)]
    with asynchronous(case.pipe, policies[0], retiming) as run:
        expected = case.in_diffusers()
    moved = case.in_comfyui(attach(case.model, policies[1], retiming))
    assert difference(expected, plain) > 1e-3
    assert difference(moved, expected) < SAME
    assert run.trace.steps == len(SIGMAS)
    if kind == "TPM":
        for ours, theirs in zip(*(policy.states for policy in policies), strict=True):
            assert ours.sigma == pytest.approx(theirs.sigma, abs=1e-6)
            assert difference(theirs.x.reshape(ours.x.shape), ours.x) < SAME
            assert difference(theirs.v.reshape(ours.v.shape), ours.v) < SAME * 10


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun"])
def test_solvers_of_the_studio_are_comfyuis_samplers_for_sdxl(comfy, solver):
    pytest.importorskip("diffusers")
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.hosts.diffusers import asynchronous
    from asyncdiff.tpm.hosts.diffusers.noise import with_noise_solver
    from asyncdiff.tpm.policies import Constant

    case = SDXL()
    euler = case.in_diffusers()
    case.pipe.scheduler = with_noise_solver(case.pipe.scheduler, solver)
    plain = case.in_diffusers()
    assert difference(plain, euler) > 1e-3
    assert difference(case.in_comfyui(case.model, solver), plain) < SAME
    with asynchronous(case.pipe, Constant(0.3)):
        moved = case.in_diffusers()
    assert difference(moved, plain) > 1e-3
    apart = difference(case.in_comfyui(attach(case.model, Constant(0.3)), solver), moved)
    assert apart < (SAME if solver == "dpmpp_2m" else 0.02)  # heun: see `noise.SOLVERS`
