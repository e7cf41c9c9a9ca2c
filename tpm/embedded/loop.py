"""The one training loop of this room: seeded by step, atomic checkpoints, resumable to the bit."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..files import write_atomically
from .muon import Muon

CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class Plan:
    """How long and how fast one stage trains. ``ema`` is the decay of the averaged weights that are shipped."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    ema: float = 0.998
    muon: bool = False  # Muon instead of AdamW for the matrices of transformer blocks
    seed: int = 0


@dataclass(frozen=True)
class Draw:
    """The randomness of one step, a function of (seed, stage, step) alone, so that a resumed run repeats it."""

    numpy: np.random.Generator
    torch: torch.Generator
    progress: float = 0.0  # share of the stage that is done

    @classmethod
    def of(cls, seed: int, stage: str, step: int, progress: float = 0.0) -> Draw:
        """The draws of one step of a stage."""
        digest = hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()
        number = int.from_bytes(digest[:7], "big")
        return cls(np.random.default_rng(number), torch.Generator().manual_seed(number), progress)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, on the CPU."""
        return torch.randn(shape, generator=self.torch)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), on the CPU."""
        return torch.rand(shape, generator=self.torch)


def fit(
    stage: str, model: nn.Module, loss: Callable[[Draw, int], Tensor], plan: Plan, folder: Path, device: str
) -> nn.Module:
    """Train the trainable parameters of ``model`` on ``loss(draw, batch)`` and return it with EMA weights.

    Continues from ``folder/<stage>.ckpt`` when it is there.
    """
    averaged = {name: value.detach().clone() for name, value in _learned(model).items()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizers = _optimizers(model, plan)
    path = folder / f"{stage}.ckpt"
    start = _resume(path, model, averaged, optimizers, device)
    model.train()
    bar = tqdm(range(start, plan.steps), initial=start, total=plan.steps, desc=stage, mininterval=2, smoothing=0.02)
    saved, running = time.monotonic(), None
    for step in bar:
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = plan.learning_rate * _schedule(step, plan)
            optimizer.zero_grad(set_to_none=True)
        value = loss(Draw.of(plan.seed, stage, step, step / plan.steps), plan.batch)
        value.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if torch.isfinite(norm):
            for optimizer in optimizers:
                optimizer.step()
        _average(averaged, model, min(plan.ema, (step + 1) / (step + 10)))
        running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
        bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        if time.monotonic() - saved > CHECKPOINT_SECONDS or step + 1 == plan.steps:
            _save(path, step + 1, model, averaged, optimizers)
            saved = time.monotonic()
    model.load_state_dict(averaged, strict=False)
    return model.eval()


def _optimizers(model: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """AdamW, and where the plan says so Muon for the matrices inside transformer blocks."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = [name for name, p in named.items() if plan.muon and p.ndim == 2 and _in_block(name)]
    rest = [p for name, p in named.items() if name not in matrices]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    ]
    if matrices:
        optimizers.append(Muon([named[name] for name in matrices], lr=plan.learning_rate))
    return optimizers


def _in_block(name: str) -> bool:
    """Whether a parameter belongs to a transformer block; its modulation layers, wide and cheap to learn, do not."""
    return ".transformer_blocks." in name and "norm" not in name


def _learned(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: all but frozen parameters."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _schedule(step: int, plan: Plan) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    progress = min(1.0, step / plan.steps)
    return min(1.0, (step + 1) / plan.warmup) * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * progress))))


@torch.no_grad()
def _average(averaged: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    current = _learned(model)
    moving = [name for name, value in current.items() if value.is_floating_point()]
    torch._foreach_lerp_([averaged[name] for name in moving], [current[name] for name in moving], 1 - decay)
    for name in current.keys() - set(moving):
        averaged[name].copy_(current[name])


def _save(
    path: Path, step: int, model: nn.Module, averaged: dict[str, Tensor], optimizers: list[torch.optim.Optimizer]
) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "averaged": averaged,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    data = io.BytesIO()
    torch.save(state, data)
    write_atomically(path, data.getvalue())


def _resume(
    path: Path, model: nn.Module, averaged: dict[str, Tensor], optimizers: list[torch.optim.Optimizer], device: str
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    for name, value in state["averaged"].items():
        averaged[name].copy_(value)
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])
