"""Preview Regions on every kind of latent."""

from types import SimpleNamespace

import pytest
import torch

from support import other_latents

pytestmark = pytest.mark.host


@pytest.fixture
def preview(comfy, monkeypatch):
    from comfy_api.latest import ui

    from asyncdiff.nodes.pixelwise.nodes_regions import PreviewRegions, RegionFromMask

    monkeypatch.setattr(ui, "PreviewImage", lambda *_, **__: None)
    monkeypatch.setattr(PreviewRegions, "hidden", SimpleNamespace(unique_id=None), raising=False)

    def go(latent, image=None):
        mask = torch.zeros(1, 64, 64)
        mask[:, 16:48, 16:48] = 1
        regions = RegionFromMask.execute(mask, 0.5, "middle").args[0]
        return PreviewRegions.execute(regions, {"samples": latent}, -1, image).args

    return go


@pytest.mark.parametrize(
    ("videos", "frames", "expected"), [(1, 9, [0, 4, 8]), (2, 9, [0, 4, 8, 9, 13, 17]), (1, 2, [0, 1])]
)
def test_of_a_video_three_frames_are_shown(preview, videos, frames, expected):
    image = torch.linspace(0, 1, videos * frames).view(-1, 1, 1, 1).expand(-1, 64, 64, 3)
    shown, masks = preview(torch.zeros(videos, 16, 3, 8, 8), image)
    assert len(shown) == len(expected)
    wanted, _ = preview(torch.zeros(len(expected), 16, 8, 8), image[expected])
    assert torch.equal(shown[:, :768], wanted[:, :768])  # above the legend, which names the frames
    assert masks.shape == (3, 8, 8)


def test_of_video_with_sound_the_video_counts(preview, comfy):
    shown, masks = preview(other_latents.latent("ltxav"))
    assert shown.shape[0] == 3
    assert masks.shape == (3, 4, 4)


def test_what_does_not_fit_is_a_sentence(preview, comfy):
    from asyncdiff.tpm.pixelwise.errors import RegionError

    with pytest.raises(RegionError, match="no height and width"):
        preview(other_latents.latent("ace"))
    with pytest.raises(RegionError, match="2 videos, and 9 frames"):
        preview(torch.zeros(2, 16, 3, 8, 8), torch.zeros(9, 64, 64, 3))
