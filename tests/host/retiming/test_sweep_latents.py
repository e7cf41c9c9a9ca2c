"""γ Sweep on videos, on video with sound, and on what has no pictures."""

import pytest
import torch
from PIL import Image

from support import other_latents, sweeps

pytestmark = pytest.mark.host

GAMMAS = (0.0, 1.0)


@pytest.fixture
def evaluations(comfy, monkeypatch):
    """How often a network was asked."""
    from comfy.model_base import BaseModel

    count, original = [], BaseModel.apply_model

    def counted(self, *args, **options):
        count.append(1)
        return original(self, *args, **options)

    monkeypatch.setattr(BaseModel, "apply_model", counted)
    return count


@pytest.fixture
def sweep(comfy, monkeypatch):
    from asyncdiff.tpm.policies import Constant

    node = sweeps.forgetful(monkeypatch)

    def go(name, vae, batch=1, **changes):
        given = {
            "model": other_latents.model(name), "seed": 1, "steps": 3, "cfg": 1.0, "sampler_name": "euler",
            "scheduler": "simple", "positive": other_latents.conditioning(name, 0),
            "negative": other_latents.conditioning(name, 1), "denoise": 1.0,
            "latent_image": {"samples": other_latents.latent(name, batch)},
            "vae": vae, "policy": Constant(0.4), "bound": "from policy", "tail_sync": 0,
            "velocity_coupling": 0.0, "title": "", "gammas": "0, 1",
        }  # fmt: skip
        return node.execute(**given | changes).args

    return go


def alone(comfy, name, gamma, batch=1):
    """One γ by itself."""
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.retiming.settings import Retiming

    patched = attach(other_latents.model(name), Constant(0.4), Retiming(gamma=gamma))
    text = [other_latents.conditioning(name, seed) for seed in (0, 1)]
    latent = {"samples": other_latents.latent(name, batch)}
    return comfy.common_ksampler(patched, 1, 3, 1.0, "euler", "simple", *text, latent)[0]["samples"]


def video_vae():
    return other_latents.PictureVAE(latent_dim=3)


def rows_of(monkeypatch):
    """The rows of the next page."""
    from asyncdiff.nodes.retiming import sweep_page

    drawn, original = [], sweep_page.draw_panel

    def spy(rows, *args, **options):
        drawn.extend(rows)
        return original(rows, *args, **options)

    monkeypatch.setattr(sweep_page, "draw_panel", spy)
    return drawn


@pytest.mark.parametrize(
    ("batch", "labels"),
    [
        (1, [("frame 1 of 9", ""), ("frame 5 of 9", ""), ("frame 9 of 9", "")]),
        (2, [(f"video {n}", f"frame {frame} of 9") for n in (1, 2) for frame in (1, 5, 9)]),
    ],
)
def test_a_video_shows_three_frames_and_loses_none(comfy, sweep, monkeypatch, batch, labels):
    rows = rows_of(monkeypatch)
    page, images, latents = sweep("wan", video_vae(), batch)
    assert [(row.label, row.detail) for row in rows] == labels
    assert page.shape[1] < 1500 * batch
    assert latents["samples"].shape == (2 * batch, 16, 3, 8, 8)
    assert images.shape == (2 * batch * 9, 64, 64, 3)
    expected = [alone(comfy, "wan", gamma, batch) for gamma in GAMMAS]
    assert torch.equal(latents["samples"], torch.cat(expected))
    assert torch.equal(images, torch.cat([video_vae().decode(latent).flatten(0, 1) for latent in expected]))


def test_a_frame_is_drawn_under_its_own_label(comfy, monkeypatch):
    from asyncdiff.nodes.retiming import sweep_page

    rows = rows_of(monkeypatch)
    frames = torch.arange(5.0).div(4).view(1, 5, 1, 1, 1).expand(1, 5, 8, 8, 3)
    sweep_page.draw_grid([frames], [0.0], [None], "t", "s")
    assert [(row.label, row.cells[0].image.getpixel((0, 0))[0]) for row in rows] == [
        ("frame 1 of 5", 0),
        ("frame 3 of 5", 128),
        ("frame 5 of 5", 255),
    ]


def test_video_with_sound_keeps_both(comfy, sweep):
    _, images, latents = sweep("ltxav", video_vae(), latent_image={
        "samples": other_latents.latent("ltxav"), "sample_rate": 16_000, "type": "audio",
    })  # fmt: skip
    video, audio = latents["samples"].unbind()
    assert (video.shape, audio.shape) == ((2, 128, 3, 4, 4), (2, 8, 6, 16))
    assert images.shape == (2 * 9, 32, 32, 3)
    assert latents["sample_rate"] == 16_000
    for place, gamma in enumerate(GAMMAS):
        for part, expected in zip((video, audio), alone(comfy, "ltxav", gamma).unbind(), strict=True):
            assert torch.equal(part[place : place + 1], expected)


def test_a_second_sweep_of_nested_latents_samples_nothing_again(sweep, evaluations):
    model, latent = other_latents.model("ltxav"), {"samples": other_latents.latent("ltxav")}
    text = {side: other_latents.conditioning("ltxav", n) for n, side in enumerate(("positive", "negative"))}
    for expected in (5, 0):
        evaluations.clear()
        sweep("ltxav", video_vae(), model=model, latent_image=latent, **text)
        assert len(evaluations) == expected


@pytest.mark.parametrize(
    ("name", "vae", "sentence"),
    [
        ("ace", other_latents.audio_vae, "γ Sweep shows pictures, and ACEStep15 makes none"),
        ("ace", video_vae, "γ Sweep shows pictures, and ACEStep15 makes none"),
        ("ltxav", other_latents.audio_vae, "γ Sweep shows pictures, and this VAE decodes audio"),
    ],
)
def test_what_has_no_pictures_is_refused_before_sampling(sweep, evaluations, name, vae, sentence):
    from asyncdiff.tpm.errors import HostError

    with pytest.raises(HostError, match=sentence) as refused:
        sweep(name, vae())
    assert "Deviation Scale" in str(refused.value)
    assert not evaluations


def test_a_latent_without_height_and_width_is_refused_before_sampling(sweep, evaluations):
    from asyncdiff.tpm.errors import HostError

    with pytest.raises(HostError, match="no height and width"):
        sweep("wan", video_vae(), latent_image={"samples": torch.zeros(1, 16, 12)})
    assert not evaluations


def test_the_strip_of_a_video_has_its_chosen_frames(comfy, monkeypatch, tmp_path):
    import folder_paths

    from asyncdiff.nodes.retiming.axes import Setting
    from asyncdiff.nodes.retiming.explorer import Explorer
    from asyncdiff.nodes.retiming.shared import Made
    from asyncdiff.tpm.policies import Constant

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    row = Setting(1, 3, 1.0, Constant(0.4), "from policy", 0, 0.0)
    strip = Explorer("7", [1.0], [row], "none")
    shades = torch.arange(9.0).div(8).view(1, 9, 1, 1, 1).expand(2, 9, 8, 8, 3)
    strip.add(0, 1.0, Made(torch.zeros(1), None), shades)
    document = strip.document()
    assert document["pictures"][:3] == [f"video 1 · frame {frame} of 9" for frame in (1, 5, 9)]
    [cell] = document["cells"]
    shown = [Image.open(tmp_path / file["filename"]).getpixel((0, 0))[0] for file in cell["files"]]
    assert shown == [0, 127, 255] * 2
