"""The latent space and its autoencoder.

The stem, principal components of image patches, defines the latent space in seconds. The shipped ``AutoencoderTiny``
then learns to draw images from it (stage ``decoder``) and to produce it (stage ``encoder``), as the published tiny
autoencoders were distilled from large ones. Training the denoiser on stem latents needs no encoder at all.

Two scales meet here. *Model space* is what the denoiser sees: zero mean, unit variance per channel. *Raw space* is what
the VAE encodes to and decodes from: raw = model / 1.5305 + 0.0609, the constants that every SD3 host applies.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional as F

from .loop import Draw
from .render import render
from .worlds import EASY, World

LATENT_CHANNELS = 16
PATCH = 8
SCALE, SHIFT = 1.5305, 0.0609


def to_raw(latents: Tensor) -> Tensor:
    """Model space to raw VAE space."""
    return latents / SCALE + SHIFT


def draw_images(draw: Draw, count: int, world: World = EASY, held_out: bool = False) -> Tensor:
    """Random renders (n, 3, 128, 128) in [0, 1]."""
    return render([world.broad(draw.numpy, held_out) for _ in range(count)])[0]


class Stem(nn.Module):
    """Image (B, 3, H, W) in [-1, 1] → model-space latents (B, 16, H/8, W/8): principal components of 8×8 patches.

    Components are whitened in part (divided by their standard deviation to the power 0.7), so that coarse structure
    stands above detail at every noise level, as in pixels, and then scaled to a mean variance of 1.
    """

    mean: Tensor  # (192,)
    basis: Tensor  # (192, 16)
    gain: Tensor  # (16,)

    def __init__(self) -> None:
        super().__init__()
        size = 3 * PATCH * PATCH
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.zeros(size, LATENT_CHANNELS))
        self.register_buffer("gain", torch.ones(LATENT_CHANNELS))

    @torch.no_grad()
    def fit(self, seed: int, world: World = EASY, images: int = 1024) -> Stem:
        """Find the components on random renders; a function of ``seed`` and ``world`` alone."""
        patches = _to_patches(draw_images(Draw.of(seed, "stem", 0), images, world) * 2 - 1).flatten(0, 2).double()
        self.mean.copy_(patches.mean(0))
        variance, vectors = torch.linalg.eigh(torch.cov(patches.T))
        variance, vectors = variance.flip(0)[:LATENT_CHANNELS], vectors.flip(1)[:, :LATENT_CHANNELS]
        largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
        self.basis.copy_(vectors * largest.sign())
        gain = variance**-0.35
        self.gain.copy_(gain / (variance * gain.square()).mean().sqrt())
        return self

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        return ((_to_patches(image) - self.mean) @ self.basis * self.gain).movedim(-1, 1)

    def inverse(self, latents: Tensor) -> Tensor:
        """The linear reconstruction of the image: blocky, but there before any decoder is trained."""
        patches = (latents.movedim(1, -1) / self.gain) @ self.basis.T + self.mean
        return F.pixel_shuffle(patches.movedim(-1, 1), PATCH)


def _to_patches(image: Tensor) -> Tensor:
    return F.pixel_unshuffle(image, PATCH).movedim(1, -1)


def new_vae() -> AutoencoderTiny:
    """The VAE to be shipped, untrained: 8×, 16 latent channels, the scale and shift of SD3."""
    return AutoencoderTiny(latent_channels=LATENT_CHANNELS, scaling_factor=SCALE, shift_factor=SHIFT)


class DecoderDistillation(nn.Module):
    """The shipped decoder learns to draw the image from (slightly noisy) stem latents."""

    def __init__(self, stem: Stem, vae: AutoencoderTiny, world: World = EASY) -> None:
        super().__init__()
        self._world = world
        self.stem, self.decoder = stem, vae.decoder

    def loss(self, draw: Draw, batch: int) -> Tensor:
        """The loss of one batch."""
        image = _training_images(draw, batch, self.stem, self._world)
        latents = _jitter(draw, self.stem(image))
        if draw.progress > 0.85:  # the last steps see whole images, so that the borders come out right
            whole = max(1, batch // 4)
            return reconstruction_loss(self.decoder(to_raw(latents[:whole])), image[:whole])
        crop, window = _crop(draw, image, latents)
        return reconstruction_loss(self.decoder(to_raw(window)), crop)


class EncoderDistillation(nn.Module):
    """The shipped encoder learns the stem's latents."""

    def __init__(self, stem: Stem, vae: AutoencoderTiny, world: World = EASY) -> None:
        super().__init__()
        self._world = world
        self.stem, self.encoder = stem, vae.encoder

    def loss(self, draw: Draw, batch: int) -> Tensor:
        """The loss of one batch."""
        image = _training_images(draw, batch, self.stem, self._world)
        crop, wanted = _crop(draw, image, self.stem(image))
        made = (self.encoder(crop) - SHIFT) * SCALE
        return F.mse_loss(made[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1])


def _training_images(draw: Draw, count: int, stem: Stem, world: World) -> Tensor:
    """Random renders in [-1, 1], where the stem is."""
    return draw_images(draw, count, world).to(stem.mean) * 2 - 1


def _jitter(draw: Draw, latents: Tensor) -> Tensor:
    return latents + (0.12 * draw.uniform(len(latents), 1, 1, 1) * draw.normal(*latents.shape)).to(latents)


def _crop(draw: Draw, image: Tensor, latents: Tensor, cells: int = 8) -> tuple[Tensor, Tensor]:
    """The same random square of image and latents, ``cells`` latent cells wide."""
    top, left = (int(n) for n in draw.numpy.integers(0, latents.shape[-1] - cells + 1, 2))
    rows, columns = slice(PATCH * top, PATCH * (top + cells)), slice(PATCH * left, PATCH * (left + cells))
    return image[:, :, rows, columns], latents[:, :, top : top + cells, left : left + cells]


def reconstruction_loss(made: Tensor, target: Tensor) -> Tensor:
    """L1 for sharp edges and L2 for colours that are right on average."""
    return F.l1_loss(made, target) + 2 * F.mse_loss(made, target)
