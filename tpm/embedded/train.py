"""Training of the embedded pipeline: one seeded, resumable command.

    asyncdiff embedded train --out weights/tiny-sd35

Stages: ``denoiser`` (transformer and text encoders), ``decoder`` and ``encoder`` (the VAE), ``judge``. Each continues
from its checkpoint in the work folder; a finished stage is only loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import nn

from .codec import DecoderDistillation, EncoderDistillation, Stem, new_vae
from .denoiser import FlowTraining, Scenes, new_transformer
from .detector import Detector, DetectorTraining
from .export import assemble, save_pipeline
from .judge import Judge, JudgeNetwork, JudgeTraining
from .loop import Plan, fit
from .text import TextStack, TextTraining
from .worlds import EASY, HARD, World

STAGES = ("text", "denoiser", "decoder", "encoder", "judge")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result. The defaults made the shipped weights on two CPU cores."""

    depth: int = 2
    seed: int = 0
    world: World = EASY
    text: Plan = field(default=Plan(steps=1200, batch=64, learning_rate=2e-3, ema=0.99))
    denoiser: Plan = field(default=Plan(steps=4500, batch=48, learning_rate=2e-3, ema=0.999, muon=True))
    decoder: Plan = field(default=Plan(steps=900, batch=8, learning_rate=1e-3, ema=0.99))
    encoder: Plan = field(default=Plan(steps=500, batch=8, learning_rate=1e-3, ema=0.99))
    judge: Plan = field(default=Plan(steps=700, batch=64, learning_rate=2e-3, ema=0.99))

    def plan(self, stage: str) -> Plan:
        """The plan of a stage, with the recipe's seed."""
        return replace(getattr(self, stage), seed=self.seed)


RECIPES = {
    "easy": Recipe(),
    "hard": Recipe(
        depth=3,
        world=HARD,
        text=Plan(steps=2000, batch=64, learning_rate=2e-3, ema=0.99),
        denoiser=Plan(steps=8000, batch=48, learning_rate=2e-3, ema=0.999, muon=True),
        judge=Plan(steps=900, batch=32, learning_rate=2e-3, ema=0.99),
    ),
}
"""By world."""

_JUDGES: dict[str, tuple[Callable[[], JudgeNetwork], Callable[[Any], nn.Module]]] = {
    "easy": (Judge, JudgeTraining),
    "hard": (Detector, DetectorTraining),
}


@dataclass
class Parts:
    """The networks under training, on one device."""

    stem: Stem
    text: TextStack
    transformer: SD3Transformer2DModel
    vae: AutoencoderTiny
    judge: JudgeNetwork
    world: World
    scenes: Scenes

    @classmethod
    def new(cls, recipe: Recipe, device: str) -> Parts:
        """Untrained networks, initialised by the recipe's seed."""
        torch.manual_seed(recipe.seed)
        parts = cls(
            stem := Stem().fit(recipe.seed, recipe.world),
            TextStack.new(recipe.world.tokens),
            new_transformer(recipe.depth),
            new_vae(),
            _JUDGES[recipe.world.name][0](),
            recipe.world,
            Scenes(recipe.world, stem, recipe.seed),
        )
        for part in (parts.stem, parts.text, parts.transformer, parts.vae, parts.judge):
            part.to(device)  # type: ignore[arg-type] # diffusers' decorator hides the method's own signature
        return parts

    def stage(self, name: str) -> nn.Module:
        """The module that stage ``name`` trains; it has ``loss(draw, batch)``."""
        return {
            "text": lambda: TextTraining(self.text, self.world),
            "denoiser": lambda: FlowTraining(self.stem, self.text, self.transformer, self.scenes),
            "decoder": lambda: DecoderDistillation(self.stem, self.vae, self.world),
            "encoder": lambda: EncoderDistillation(self.stem, self.vae, self.world),
            "judge": lambda: _JUDGES[self.world.name][1](self.judge),
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
