"""The studio: prompts and seeds in, images and a trace out; loading failures as sentences."""

import json

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import FlowMatchHeunDiscreteScheduler

from asyncdiff.tpm.errors import HostError, PolicyError
from asyncdiff.tpm.hosts.diffusers import DiffusersStudio, loading, simple_sigmas
from asyncdiff.tpm.hosts.diffusers.first import FirstEvaluation
from asyncdiff.tpm.hosts.diffusers.studio import memory_errors_as_sentences
from asyncdiff.tpm.policies import Constant
from asyncdiff.tpm.retiming.settings import Retiming

GOLDEN = "1 .9770 .9514 .9231 .8922 .8573 .8182 .7747 .7244 .6667 .6007 .5222 .4286 .3170 .1772 0"


def test_simple_grid_is_the_golden_one(studio):
    assert [round(s, 4) for s in studio.sigma_grid(15)] == [float(s) for s in GOLDEN.split()]


def test_scheduler_grid_is_the_one_that_shifts_twice(studio):
    grid = studio.sigma_grid(15, "scheduler")
    assert len(grid) == 16
    assert grid[-2] == pytest.approx(0.0089, abs=1e-4)


def test_flux_grid_depends_on_the_size(flux_studio):
    grid = flux_studio.sigma_grid(10, "scheduler", size=(512, 512))
    by_hand = [0.94413, 0.8825, 0.81416, 0.73797, 0.65249, 0.5559, 0.44589, 0.31945, 0.17261]  # mu = .63
    assert grid == pytest.approx([1.0, *by_hand, 0.0], abs=1e-4)
    assert flux_studio.sigma_grid(10, "scheduler", size=(1024, 1024))[5] > grid[5]


@pytest.mark.parametrize("grid", ["simple", "scheduler"])
def test_the_grid_told_beforehand_is_the_one_sampled(studio, grid):
    before = studio.sigma_grid(4, grid)
    rendering = studio.render(["a"], [0], Constant(0.1), steps=4, grid=grid)
    assert rendering.trace.sigmas == before


def test_tpm_config_reads_the_pipeline(studio, flux_studio):
    for one, backbone in ((studio, "sd3"), (flux_studio, "flux")):
        config = one.tpm_config(width=32, heads=2)
        found = (config.backbone, config.latent_channels, config.context_dim, config.pooled_dim, config.width)
        assert found == (backbone, 4, 12, 8, 32)


def test_rendering(studio):
    done = []
    rendering = studio.render(
        ["a", "bb"], [1, 2], Constant(0.2), Retiming(gamma=2), steps=3, progress=lambda *at: done.append(at)
    )
    assert rendering.images.shape == (2, 3, 64, 64)
    assert rendering.images.dtype == torch.float32
    assert 0 <= rendering.images.min() <= rendering.images.max() <= 1
    assert rendering.trace.deviation[1:] == pytest.approx([0.4, 0.4])
    assert rendering.seconds > 0
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_no_policy_is_the_untouched_pipeline_and_gamma_zero_equals_it(studio):
    plain = studio.render(["a"], [1], steps=3)
    assert plain.trace is None
    assert torch.equal(plain.images, studio.render(["a"], [1], Constant(0.4), Retiming(gamma=0), steps=3).images)
    assert not torch.equal(plain.images, studio.render(["a"], [1], Constant(0.4), steps=3).images)


def test_an_image_depends_on_its_seed_not_on_its_batch(studio):
    together = studio.render(["a", "bb", "a"], [1, 2, 3], steps=3).images
    alone = studio.render(["bb"], [2], steps=3).images
    assert torch.allclose(together[1:2], alone, atol=1e-4)
    assert not torch.allclose(together[0], together[2], atol=1e-2)


def test_size_guidance_and_negative_prompt_matter(studio):
    plain = studio.render(["a"], [1], steps=2).images
    assert studio.render(["a"], [1], steps=2, size=(96, 64)).images.shape == (1, 3, 64, 96)
    assert not torch.equal(studio.render(["a"], [1], steps=2, guidance=1.0).images, plain)
    assert not torch.equal(studio.render(["a"], [1], steps=2, negative="bad").images, plain)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"grid": "karras"}, "karras"),
        ({"seeds": []}, "one seed"),
        ({"prompts": [], "seeds": []}, "one seed"),
        ({"seeds": [-1]}, "Seeds"),
        ({"size": (100, 64)}, "multiples of 16"),
        ({"size": (0, 64)}, "multiples of 16"),
    ],
)
def test_bad_arguments_are_sentences(studio, changes, word):
    with pytest.raises(HostError, match=word):
        studio.render(**{"prompts": ["a"], "seeds": [0], "steps": 2, **changes})


def test_other_sentences(studio, flux_studio):
    with pytest.raises(PolicyError, match="made for flux"):
        studio.render(["a"], [0], Constant(0.1, backbone="flux"), steps=2)
    with pytest.raises(HostError, match="no negative"):
        flux_studio.render(["a"], [0], steps=2, negative="blurry")
    with pytest.raises(HostError, match="not enough memory"), memory_errors_as_sentences(4):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    with pytest.raises(RuntimeError, match="other"), memory_errors_as_sentences(4):
        raise RuntimeError("other")


def test_images_that_are_not_finite_are_a_sentence(studio):
    bias = studio.pipe.transformer.proj_out.bias.data
    before = bias.clone()
    bias.fill_(float("nan"))
    try:
        with pytest.raises(HostError, match="not finite"):
            studio.render(["a"], [0], steps=2)
    finally:
        bias.copy_(before)


def test_a_scheduler_that_makes_its_own_grid_is_a_sentence_for_the_simple_one(studio):
    euler, studio.pipe.scheduler = studio.pipe.scheduler, FlowMatchHeunDiscreteScheduler(shift=3.0)
    try:
        with pytest.raises(HostError, match="scheduler"):
            studio.render(["a"], [0], steps=2)
        rendering = studio.render(["a"], [0], Constant(0.1), steps=3, grid="scheduler")
        assert rendering.trace.sigmas == studio.sigma_grid(3, "scheduler")
    finally:
        studio.pipe.scheduler = euler


def test_simple_sigmas_of_a_thousand_steps_are_distinct():
    assert len(set(simple_sigmas(1000))) == 1000


def test_models_that_cannot_be_loaded_are_sentences(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "wan").mkdir()
    (tmp_path / "wan" / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    (tmp_path / "fill").mkdir()
    (tmp_path / "fill" / "model_index.json").write_text(json.dumps({"_class_name": "FluxFillPipeline"}))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text("{")
    (tmp_path / "hollow").mkdir()
    index = {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"]}
    (tmp_path / "hollow" / "model_index.json").write_text(json.dumps(index))
    cases = {
        tmp_path / "none": "no folder",
        "not a model": "no folder",
        tmp_path / "empty": "model_index.json",
        tmp_path / "wan": "WanPipeline; this is for .* SD1.x and SD2.x",
        tmp_path / "fill": "FluxFillPipeline does not make pictures from text alone",
        tmp_path / "broken": "JSON",
        tmp_path / "hollow": "cannot be loaded",
    }
    for model, word in cases.items():
        with pytest.raises(HostError, match=word) as caught:
            DiffusersStudio.load(model)
        assert "\n" not in str(caught.value)


def test_a_pipeline_folder_loads(tmp_path, studio, monkeypatch):
    """A saved pipeline comes back as a studio with the same answers."""
    studio.pipe.save_pretrained(tmp_path / "model")
    loaded = DiffusersStudio.load(tmp_path / "model", device="cpu")
    assert loaded.folder == tmp_path / "model"
    assert loaded.backbone == "sd3"
    assert loaded.pipe.transformer.dtype == torch.float32
    monkeypatch.setattr(loaded.pipe, "encode_prompt", studio.pipe.encode_prompt, raising=False)
    ours, theirs = (s.render(["a"], [1], Constant(0.2), steps=3).images for s in (studio, loaded))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)  # a loaded VAE decodes for a CPU: `decode_for_cpu`


def test_devices_and_dtypes():
    assert loading.choose_device("cpu") == "cpu"
    assert loading.choose_dtype(None, "cpu") is torch.float32
    assert loading.choose_dtype(None, "cuda") is torch.bfloat16
    assert loading.choose_dtype("float16", "cpu") is torch.float16
    with pytest.raises(HostError, match="dtype"):
        loading.choose_dtype("int8", "cpu")
    with pytest.raises(HostError, match="not available"):
        loading.choose_device("tpu")


# ------------------------------------------------------------------------------------- the first evaluation is shared


class Counted:
    """The rows that the denoiser computes."""

    def __init__(self, studio):
        self.rows, self.studio = [], studio

    def __enter__(self):
        note = lambda module, args, kwargs: self.rows.append(len(kwargs["hidden_states"]))  # noqa: E731
        self.hook = self.studio.pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self.hook.remove()


def test_equal_samples_are_evaluated_once_at_the_first_step(studio):
    prompts, seeds = ["a", "a", "bb", "a"], [1, 1, 1, 2]
    alone = studio.render(prompts, seeds, Constant(0.3), steps=3)
    first = FirstEvaluation()
    with Counted(studio) as counted:
        shared = studio.render(prompts, seeds, Constant(0.3), steps=3, first=first)
    assert counted.rows == [6, 8, 8]  # with guidance two rows for each sample
    assert (first.asked, first.evaluated) == (8, 6)
    assert torch.allclose(shared.images, alone.images, atol=1e-5)
    assert shared.trace == alone.trace


def test_arms_from_the_same_noises_share_their_first_evaluation_to_the_bit(studio):
    first = FirstEvaluation()
    alone = [studio.render(["a", "bb"], [1, 2], Constant(d), steps=3).images for d in (0.1, 0.3)]
    with Counted(studio) as counted:
        shared = [studio.render(["a", "bb"], [1, 2], Constant(d), steps=3, first=first).images for d in (0.1, 0.3)]
    assert counted.rows == [4, 4, 4, 4, 4]
    assert all(torch.equal(*pair) for pair in zip(shared, alone, strict=True))


@pytest.mark.parametrize("change", [{"seeds": [1, 3]}, {"prompts": ["a", "c"]}, {"guidance": 2.0}, {"steps": 4}])
def test_another_start_is_evaluated_anew(studio, change):
    call = {"prompts": ["a", "bb"], "seeds": [1, 2], "policy": Constant(0.3), "steps": 3}
    first = FirstEvaluation()
    studio.render(**call, first=first)
    changed = {**call, **change}
    assert torch.equal(studio.render(**changed, first=first).images, studio.render(**changed).images)


def test_only_arguments_with_a_row_for_each_sample_lose_rows():
    """As Flux is called; and a call that holds more than is known is left alone."""
    seen, first = [], FirstEvaluation()

    def stock(**given):
        seen.append({name: len(value) for name, value in given.items() if isinstance(value, torch.Tensor)})
        return (given["hidden_states"] * 2,)

    rows = {name: torch.ones(3, 5) for name in ("hidden_states", "encoder_hidden_states", "pooled_projections")}
    call = {**rows, "timestep": torch.ones(3), "guidance": None, "img_ids": torch.zeros(3, 3), "return_dict": False}
    (answer,) = first.ask(stock, (), call, [0, 0, 0])
    assert torch.equal(answer, torch.full((3, 5), 2.0))
    assert seen[-1] == {**dict.fromkeys(rows, 1), "timestep": 1, "img_ids": 3}
    first.ask(stock, (), {**call, "controlnet_block_samples": [torch.ones(3)]}, [0, 0, 0])
    assert seen[-1]["hidden_states"] == 3
