"""Search and training on every kind of latent: videos, video with sound, other scales; and what is refused."""

import pytest
import torch

from support import other_latents
from support.training_parts import PROMPTS, SEARCH, SIDE, TRAINING, document, executed, inputs_of

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("comfy")]

STEPS = 3


def vae_of(name):
    """A VAE of the model's scale: 8 pixels a latent's pixel, or 32."""
    return other_latents.PictureVAE(2 if name == "hunyuan-image" else 3, scale=8 if name == "wan" else 32)


def empty(name):
    return {"samples": other_latents.latent(name)}


@pytest.fixture
def make():
    from asyncdiff.nodes.training.prompt_cache import PromptCache
    from asyncdiff.nodes.training.sampler import Sampling
    from asyncdiff.nodes.training.studio import HostStudio

    def go(name, latent=None, vae=None, side=SIDE):
        texts = [other_latents.conditioning(name, seed) for seed in range(len(PROMPTS))]
        texts = PromptCache.given(PROMPTS, texts, None, 1.0)
        sampling = Sampling(cfg=1.0, width=side, height=side, latent=latent)
        return HostStudio(other_latents.model(name), vae or vae_of(name), texts, sampling)

    return go


@pytest.fixture
def at(comfy, tmp_path, monkeypatch):
    """An empty folder as the only one of models/tpm."""
    import folder_paths

    from asyncdiff.nodes.retiming import nodes_policies  # noqa: F401 - adds the folder that is replaced here

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "tpm", ([str(tmp_path)], set()))
    return tmp_path


def given_to(node, settings, name, **changes):
    """A node's inputs for a family."""
    texts = {f"conditioning{n}": other_latents.conditioning(name, n) for n in range(len(PROMPTS))}
    own = {"conditionings": texts, "negative": other_latents.conditioning(name, 99), "cfg": 1.0}
    return inputs_of(node, settings | own | changes, other_latents.model(name), vae_of(name))


def constant():
    from asyncdiff.tpm.policies import Constant

    return Constant(0.4)


# --- the studio -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "latent", "side", "shape"),
    [
        ("wan", False, 64, (3, 64, 64)),
        ("wan", True, 64, (3, 3, 64, 64)),
        ("ltxav", True, 64, (3, 3, 128, 128)),
        ("hunyuan-image", False, 128, (3, 128, 128)),
        ("hunyuan-image", False, 16, (3, 32, 32)),
    ],
)
def test_the_pictures_have_the_size_of_the_latent_and_the_scale_of_the_vae(make, name, latent, side, shape):
    studio = make(name, empty(name) if latent else None, side=side)
    rendering = studio.render(["one", "two"], [1, 2], constant(), steps=STEPS)
    assert rendering.images.shape == (2, *shape)
    assert rendering.trace.sigmas == studio.sigma_grid(STEPS)
    assert rendering.trace.deviation[1] == pytest.approx(0.4)
    plain = studio.render(["one", "two"], [1, 2], steps=STEPS).images
    assert (rendering.images - plain).abs().max() > 1e-5


def test_the_frames_of_a_video_are_those_of_the_sampler_and_the_vae(comfy, make):
    from asyncdiff.nodes.retiming.patch import attach

    studio = make("wan", empty("wan"))
    frames = studio.render(["two"], [7], constant(), steps=STEPS).images
    patched = attach(other_latents.model("wan"), constant())
    texts = [other_latents.conditioning("wan", 1)] * 2
    with torch.inference_mode():
        (latent,) = comfy.common_ksampler(patched, 7, STEPS, 1.0, "euler", "simple", *texts, empty("wan"))
        (images,) = comfy.VAEDecode().decode(vae_of("wan"), latent)
    assert torch.equal(frames[0].movedim(1, -1), images[[0, 4, 8]])


def test_a_noise_belongs_to_its_seed_in_every_part_of_a_latent(make):
    studio = make("ltxav", empty("ltxav"))
    together = studio.render(["one", "two"], [5, 6], steps=STEPS).images
    alone = studio.render(["two"], [6], steps=STEPS).images
    assert (together[1] - alone[0]).abs().max() < 1e-4
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_what_it_says_of_itself_changes_with_the_latent(make):
    longer = {"samples": torch.zeros(1, 16, 5, 8, 8)}
    described = [make("wan", latent).describe() for latent in (None, empty("wan"), longer)]
    assert described[0]["size"] == [SIDE, SIDE]
    assert described[1]["latent"] == [[16, 3, 8, 8]]
    assert described[2] != described[1]


@pytest.mark.parametrize(
    ("name", "vae", "reason"),
    [
        ("ace", other_latents.audio_vae, "The rewards judge pictures, and ACEStep15 makes none"),
        ("ltxav", other_latents.audio_vae, "The rewards judge pictures, and this VAE decodes audio"),
    ],
)
def test_what_has_no_pictures_is_refused_before_anything_is_sampled(make, name, vae, reason):
    from asyncdiff.tpm.errors import HostError

    with pytest.raises(HostError, match=reason):
        make(name, empty(name), vae())


def test_a_tpm_is_not_trained_on_video_and_sound_in_one(make):
    from asyncdiff.tpm.errors import HostError

    with pytest.raises(HostError, match="use Search Policy"):
        make("ltxav", empty("ltxav")).tpm_config()
    assert make("wan", empty("wan")).tpm_config().to_dict().items() >= {
        "backbone": "WAN21", "latent_channels": 16, "context_dim": 32, "pooled_dim": 1,
    }.items()  # fmt: skip


# --- the nodes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "latent", "backbone"),
    [("wan", True, "WAN21"), ("ltxav", True, "LTXAV"), ("hunyuan-image", False, "HunyuanImage21")],
)
def test_search_makes_a_curve_for_any_model(at, monkeypatch, name, latent, backbone):
    from asyncdiff.nodes.training.nodes_search import SearchPolicy

    changes = {"latent_image": empty(name) if latent else None, "generations": 1, "width": 128, "height": 128}
    given = given_to(SearchPolicy, SEARCH, name, **changes)
    policy, report, before, after, _ = executed(SearchPolicy, given, monkeypatch)
    assert policy.backbone == backbone
    assert document(at / "mine.json")["backbone"] == backbone
    assert report.std() > 0.05
    assert before.shape == after.shape
    assert len(before) == 2 * (3 if latent else 1)


def test_a_tpm_is_trained_on_videos_saved_loaded_and_sampled_with(comfy, at, monkeypatch):
    from asyncdiff.nodes.retiming import nodes_policies
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.nodes.training.nodes_training import TrainTPM
    from asyncdiff.tpm.errors import PolicyError

    given = given_to(TrainTPM, TRAINING, "wan", latent_image=empty("wan"), iterations=2)
    _, _, before, after, _ = executed(TrainTPM, given, monkeypatch)
    assert before.shape == after.shape == (2 * 3, 64, 64, 3)
    policy = nodes_policies.load("mine.safetensors")
    assert policy.backbone == "WAN21"
    texts = [other_latents.conditioning("wan", 1)] * 2
    runs = []
    for model in (other_latents.model("wan"), attach(other_latents.model("wan"), policy)):
        with torch.inference_mode():
            runs += comfy.common_ksampler(model, 7, STEPS, 1.0, "euler", "simple", *texts, empty("wan"))
    plain, learned = (run["samples"] for run in runs)
    assert torch.isfinite(learned).all()
    assert not torch.equal(plain, learned)
    with pytest.raises(PolicyError, match="made for WAN21"):
        attach(other_latents.model("hunyuan-image"), policy)


def test_training_on_video_and_sound_is_refused_before_anything_is_sampled(at, monkeypatch):
    from comfy import sample

    from asyncdiff.nodes.training.nodes_training import TrainTPM
    from asyncdiff.tpm.errors import HostError

    monkeypatch.setattr(sample, "sample", lambda *_, **__: pytest.fail("it sampled"))
    with pytest.raises(HostError, match="video and sound in one"):
        executed(TrainTPM, given_to(TrainTPM, TRAINING, "ltxav", latent_image=empty("ltxav")), monkeypatch)
