"""The denoiser: a small SD3.5 MMDiT and its text encoders, trained together with rectified flow on stem latents."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from .codec import LATENT_CHANNELS, PATCH, Stem
from .loop import Draw
from .render import render
from .text import CONTEXT_DIM, TextStack
from .world import PIXELS, Scene
from .worlds import World

CAPTION_DROPOUT = 0.1
SCENES = 32_768
TRAIN_TIMESTEPS = 1000
POSITIONS = 32  # side of the table of positions, in patches: latents up to 64 × 64 are accepted
# StableDiffusion3Pipeline without a T5 encoder appends this many zero vectors to the context (256 by default; ComfyUI
# appends none). They are attended to, so training shows some of each.
ZERO_TOKENS = (*[0] * 9, *[1] * 7, 4, 16, 64, 256)


def new_transformer(depth: int) -> SD3Transformer2DModel:
    """An SD3.5-medium in miniature: width 64·depth, RMS-normed queries and keys, dual attention in the first block."""
    transformer = SD3Transformer2DModel(
        sample_size=PIXELS // PATCH,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=depth,
        attention_head_dim=64,
        num_attention_heads=depth,
        joint_attention_dim=CONTEXT_DIM,
        caption_projection_dim=64 * depth,
        pooled_projection_dim=CONTEXT_DIM,
        pos_embed_max_size=POSITIONS,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    # diffusers would space neighbouring patches a quarter of a position apart here, too close for a small model to tell
    # them apart quickly. The table is part of the weights, so the shipped one may be spaced by whole positions.
    table = get_2d_sincos_pos_embed(64 * depth, POSITIONS, base_size=POSITIONS, output_type="pt")
    transformer.pos_embed.pos_embed.copy_(table[None])
    for name, parameter in transformer.named_parameters():
        if name.startswith("proj_out") or (".linear." in f".{name}" and "norm" in name):
            nn.init.zeros_(parameter)  # adaLN-zero: every block starts as the identity (Peebles and Xie, 2023)
    return transformer


class FlowTraining(nn.Module):
    """Rectified flow (Eq 3 of the paper): predict v = ε − x₀ at x_σ = (1 − σ)·x₀ + σ·ε.

    The scenes are drawn once; captions, noise and σ are fresh at every step. The text encoders are frozen.
    """

    def __init__(self, stem: Stem, text: TextStack, transformer: SD3Transformer2DModel, scenes: Scenes) -> None:
        super().__init__()
        self.stem, self.text, self.transformer = stem, text.requires_grad_(False), transformer
        self._scenes = scenes

    def loss(self, draw: Draw, batch: int) -> Tensor:
        """The flow-matching loss of one batch."""
        device = next(self.parameters()).device
        latents, captions = self._scenes.batch(draw, batch)
        latents = latents.to(device)
        sigma = _training_sigmas(draw, batch).to(device)
        noise = draw.normal(*latents.shape).to(device)
        noisy = torch.lerp(latents, noise, sigma.view(-1, 1, 1, 1))
        with torch.no_grad():
            context, pooled = self.text(captions)
        zeros = int(draw.numpy.choice(ZERO_TOKENS))
        velocity = self.transformer(
            hidden_states=noisy,
            encoder_hidden_states=F.pad(context, (0, 0, 0, zeros)),
            pooled_projections=pooled,
            timestep=sigma * TRAIN_TIMESTEPS,
            return_dict=False,
        )[0]
        return F.mse_loss(velocity, noise - latents)


class Scenes:
    """Training scenes and their stem latents, drawn on first use: a function of the seed alone."""

    def __init__(self, world: World, stem: Stem, seed: int, count: int = SCENES) -> None:
        self._world, self._stem, self._seed, self._count = world, stem, seed, count
        self._drawn: tuple[list[Scene], Tensor] | None = None

    def batch(self, draw: Draw, size: int) -> tuple[Tensor, list[str]]:
        """Latents (size, 16, 16, 16) and captions, a tenth of them empty."""
        scenes, latents = self._drawn = self._drawn or self._draw()
        rows = draw.numpy.integers(self._count, size=size)
        captions = [self._world.caption(draw.numpy, scenes[row]) for row in rows]
        keep = draw.numpy.random(size) >= CAPTION_DROPOUT
        return latents[rows].float(), [text if kept else "" for text, kept in zip(captions, keep, strict=True)]

    @torch.no_grad()
    def _draw(self) -> tuple[list[Scene], Tensor]:
        rng = Draw.of(self._seed, "scenes", 0).numpy
        scenes = [self._world.sample(rng) for _ in range(self._count)]
        chunks = [scenes[start : start + 64] for start in range(0, self._count, 64)]
        bar = tqdm(chunks, desc="scenes", leave=False, mininterval=2)
        latents = [self._stem(render(chunk)[0].to(self._stem.mean) * 2 - 1).half().cpu() for chunk in bar]
        return scenes, torch.cat(latents)


def _training_sigmas(draw: Draw, count: int) -> Tensor:
    """Half logit-normal, half uniform, all under the shift of 2 that favours the noisy end."""
    uniform = draw.uniform(count)
    normal = torch.sigmoid(draw.normal(count))
    sigma = torch.where(draw.uniform(count) < 0.5, normal, uniform)
    return (2 * sigma / (1 + sigma)).clamp(1e-4, 1)
