"""Videos are judged by their frames, and images as they always were."""

import torch

from asyncdiff.tpm.rewards.noise import residual_noise
from asyncdiff.tpm.training.compare.measure import Arm, Measurer
from asyncdiff.tpm.training.studio import noise_of, scored, still_images
from support.toy_studio import ToyStudio


def brightness(images, prompts):
    """Brighter is better, and more so for a longer prompt."""
    assert images.ndim == 4
    assert len(images) == len(prompts)
    return {"bright": images.mean((1, 2, 3)) * torch.tensor([float(len(p)) for p in prompts])}


def test_the_score_of_a_video_is_the_mean_over_its_frames_each_by_its_own_prompt():
    frames = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    got = scored(brightness, frames, ["a", "abcd"])["bright"]
    assert torch.allclose(got, frames.mean((1, 2, 3, 4)) * torch.tensor([1.0, 4.0]))
    each = torch.stack([residual_noise(frames[:, n]) for n in range(3)])
    assert torch.allclose(noise_of(frames), each.mean(0))


def test_images_are_scored_as_they_are():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert still_images(images) == (images, 1)
    assert torch.equal(noise_of(images), residual_noise(images))
    assert torch.equal(scored(brightness, images, ["a", "b"])["bright"], brightness(images, ["a", "b"])["bright"])


def test_a_measurer_takes_a_studio_of_videos():
    class VideoStudio(ToyStudio):
        def render(self, *args, **options):
            made = super().render(*args, **options)
            made.images = torch.stack([made.images, made.images / 2], dim=1)
            return made

    prompts, seeds = ["one", "two", "three"], [1, 2, 3]
    (measured,) = Measurer(VideoStudio(), brightness, batch=2, keep=2).measure([Arm("plain", 3)], prompts, seeds)
    (single,) = Measurer(ToyStudio(), brightness, batch=2, keep=2).measure([Arm("plain", 3)], prompts, seeds)
    assert torch.allclose(measured.scores["bright"], single.scores["bright"] * 0.75)
    assert measured.images.shape == (2, 2, *single.images.shape[1:])
