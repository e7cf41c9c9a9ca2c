"""Training of the embedded pipeline: one seeded, resumable command.

    asyncdiff embedded train --out weights/tiny-sd35

Stages: ``denoiser`` (transformer and text encoders), ``decoder`` and ``encoder`` (the VAE), ``judge``. Each continues
from its checkpoint in the work folder; a finished stage is only loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import nn

from .codec import DecoderDistillation, EncoderDistillation, Stem, new_vae
from .denoiser import FlowTraining, Scenes, new_transformer
from .export import assemble, save_pipeline
from .judge import Judge, JudgeTraining
from .loop import Plan, fit
from .text import TextStack, TextTraining

STAGES = ("text", "denoiser", "decoder", "encoder", "judge")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result. The defaults made the shipped weights on two CPU cores."""

    depth: int = 2
    seed: int = 0
    text: Plan = field(default=Plan(steps=1200, batch=64, learning_rate=2e-3, ema=0.99))
    denoiser: Plan = field(default=Plan(steps=4500, batch=48, learning_rate=2e-3, ema=0.999, muon=True))
    decoder: Plan = field(default=Plan(steps=900, batch=8, learning_rate=1e-3, ema=0.99))
    encoder: Plan = field(default=Plan(steps=500, batch=8, learning_rate=1e-3, ema=0.99))
    judge: Plan = field(default=Plan(steps=700, batch=64, learning_rate=2e-3, ema=0.99))

    def plan(self, stage: str) -> Plan:
        """The plan of a stage, with the recipe's seed."""
        return replace(getattr(self, stage), seed=self.seed)


@dataclass
class Parts:
    """The networks under training, on one device."""

    stem: Stem
    text: TextStack
    transformer: SD3Transformer2DModel
    vae: AutoencoderTiny
    judge: Judge
    scenes: Scenes

    @classmethod
    def new(cls, recipe: Recipe, device: str) -> Parts:
        """Untrained networks, initialised by the recipe's seed."""
        torch.manual_seed(recipe.seed)
        parts = cls(
            stem := Stem().fit(recipe.seed),
            TextStack.new(),
            new_transformer(recipe.depth),
            new_vae(),
            Judge(),
            Scenes(stem, recipe.seed),
        )
        for part in (parts.stem, parts.text, parts.transformer, parts.vae, parts.judge):
            part.to(device)  # type: ignore[arg-type] # diffusers' decorator hides the method's own signature
        return parts

    def stage(self, name: str) -> nn.Module:
        """The module that stage ``name`` trains; it has ``loss(draw, batch)``."""
        return {
            "text": lambda: TextTraining(self.text),
            "denoiser": lambda: FlowTraining(self.stem, self.text, self.transformer, self.scenes),
            "decoder": lambda: DecoderDistillation(self.stem, self.vae),
            "encoder": lambda: EncoderDistillation(self.stem, self.vae),
            "judge": lambda: JudgeTraining(self.judge),
        }[name]()


def train(recipe: Recipe, work: Path, out: Path, device: str = "cpu", stages: tuple[str, ...] = STAGES) -> Parts:
    """Run ``stages`` in order, checkpoints in ``work``, and write the pipeline folder and the judge to ``out``."""
    parts = Parts.new(recipe, device)
    for name in STAGES:
        plan = recipe.plan(name)
        if name not in stages:
            plan = replace(plan, steps=0)
        module = parts.stage(name)
        fit(name, module, module.loss, plan, work, device)  # type: ignore[arg-type]
    out.mkdir(parents=True, exist_ok=True)
    save_pipeline(assemble(parts.text, parts.transformer, parts.vae), out)
    parts.judge.save(out)
    return parts
