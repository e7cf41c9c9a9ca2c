"""Autoencoders without weights: colours and sounds are means of channels, sizes are those of the real ones."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

SAMPLE_RATE = 48000
SAMPLES = 1024  # per latent step of a sound
STEPS_PER_SECOND = 25  # latent steps of a sound


@dataclass(frozen=True)
class PictureCodec:
    """Latents (batch, channels, [frames,] height, width) to pictures and videos with values from 0 to 1, and back."""

    channels: int
    space: int  # pixels per latent pixel
    time: int = 1  # frames per latent frame after the first
    video: bool = False

    def decode(self, latent):
        channels = latent.float().movedim(1, -1).tensor_split(3, -1)
        image = stack([part.mean(-1) for part in channels]).sigmoid()
        for axis in (-3, -2):
            image = image.repeat_interleave(self.space, axis)
        return image.repeat_interleave(self.time, 1)[:, self.time - 1 :] if image.ndim == 5 else image

    def decode_tiled(self, latent, **tiles):
        return self.decode(latent)

    def encode(self, pixels):
        """pixels: (pictures or frames, height, width, 3)."""
        from torch.nn.functional import avg_pool2d

        colours = avg_pool2d(pixels.movedim(-1, 1), self.space)[:: self.time]
        latent = colours.repeat(1, math.ceil(self.channels / 3), 1, 1)[:, : self.channels]
        return latent.movedim(1, 0)[None] if self.video else latent

    def spacial_compression_decode(self):
        return self.space

    def temporal_compression_decode(self):
        return self.time if self.video else None

    @property
    def downscale_index_formula(self):
        return self.time, self.space, self.space

    @property
    def first_stage_model(self):
        return SimpleNamespace(per_channel_statistics=Unchanged)


class Unchanged:
    """Statistics of latents whose channels have mean 0 and variance 1."""

    normalize = un_normalize = staticmethod(lambda latent: latent)


@dataclass(frozen=True)
class SoundCodec:
    """Latents with `axis` as their time to sounds (batch, samples, 2)."""

    latent_channels: int
    axis: int
    latent_frequency_bins: int = 1
    audio_sample_rate: int = SAMPLE_RATE
    output_sample_rate: int = SAMPLE_RATE

    def decode(self, latent):
        steps = latent.float().movedim(self.axis, 1).flatten(2).mean(-1)
        side = steps.repeat_interleave(SAMPLES, 1).tanh()
        return stack([side, side])

    def num_of_latents_from_frames(self, frames, rate):
        return math.ceil(STEPS_PER_SECOND * frames / rate)

    @property
    def first_stage_model(self):
        return self


def stack(parts):
    import torch

    return torch.stack(parts, -1)


CODECS = {
    "4 channels": PictureCodec(4, 8),
    "16 channels": PictureCodec(16, 8),
    "128 channels": PictureCodec(128, 16),
    "Wan 2.1": PictureCodec(16, 8, 4, video=True),
    "LTX": PictureCodec(128, 32, 8, video=True),
    "LTX sound": SoundCodec(8, 2, 16),
    "ACE-Step 1.5": SoundCodec(64, -1),
    "Stable Audio 3": SoundCodec(256, -1),
}
