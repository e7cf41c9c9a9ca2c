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


def test_of_video_with_sound_the_video_counts(preview, comfy):
    latent = other_latents.latent("ltxav")
    frames = latent.unbind()[0].shape[2]
    shown, masks = preview(latent)
    assert shown.shape[0] == min(frames, 3)
    assert masks.shape == (frames, 4, 4)


def test_what_does_not_fit_is_a_sentence(preview, comfy):
    from asyncdiff.tpm.pixelwise.errors import RegionError

    with pytest.raises(RegionError, match="no height and width"):
        preview(other_latents.latent("ace"))
    with pytest.raises(RegionError, match="9 images are not the frames of 2 videos"):
        preview(torch.zeros(2, 16, 3, 8, 8), torch.zeros(9, 64, 64, 3))
