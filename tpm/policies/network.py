"""The timestep prediction module (TPM): a small transformer from the state of a step to (a, b), Eq 7.

Tokens: three patch maps (x, v, x0), the prompt, four times and a few global tokens. No dropout, no normalisation layer;
inputs are squashed instead. The last layer starts at zero, so an untrained TPM answers a = b = 0, whose mode and mean
are exactly 0.5: the synchronous sampler.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..documents import STRICT
from ..errors import PolicyError
from ..retiming.contract import StepState, TextCondition, check_backbone_name
from ..retiming.equations import Value

LARGEST = {
    "latent_channels": 1024, "context_dim": 65_536, "pooled_dim": 65_536, "width": 2048, "heads": 128, "layers": 64,
    "mlp_ratio": 16, "patch": 64, "grid": 64, "text_tokens": 256, "global_tokens": 256, "time_features": 1024,
    "readout_width": 2048,
}  # fmt: skip
"""Bounds of a TPM's sizes, so that a damaged file cannot ask for terabytes: some ten times the paper's sizes."""

LOGIT_LIMIT = 6.0  # |a|, |b| ≤ 6: α and β stay below 26 and every density stays smooth


@dataclass(frozen=True)
class TPMConfig:
    """The size of a TPM and the backbone it reads. The defaults are the paper-sized module."""

    __pydantic_config__ = STRICT

    backbone: str  # "sd3" or "flux"
    latent_channels: int  # C of x (B, C, H, W)
    context_dim: int  # width of the prompt's context (B, n, context_dim)
    pooled_dim: int  # width of the pooled prompt (B, pooled_dim)
    width: int = 192
    heads: int = 4
    layers: int = 4
    mlp_ratio: int = 4
    patch: int = 4
    grid: int = 8  # each map becomes grid × grid tokens, whatever the resolution
    text_tokens: int = 4
    global_tokens: int = 4
    time_features: int = 32
    readout_width: int = 96

    def __post_init__(self) -> None:
        check_backbone_name(self.backbone)
        sizes = {name: value for name, value in asdict(self).items() if name != "backbone"}
        for name, value in sizes.items():
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST[name]:
                raise PolicyError(f"A TPM's {name} must be a whole number from 1 to {LARGEST[name]}, got {value!r}.")
        if self.width % self.heads or self.width % 4 or self.time_features % 2:
            raise PolicyError("A TPM's width must divide by its heads and by 4, and its time_features by 2.")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)


SD35 = TPMConfig("sd3", latent_channels=16, context_dim=4096, pooled_dim=2048)
FLUX = TPMConfig("flux", latent_channels=16, context_dim=4096, pooled_dim=768)


def squash(x: Tensor) -> Tensor:
    """4·tanh(x/4): the identity for ordinary values, bounded for outliers; stands in for a normalisation layer."""
    return 4 * torch.tanh(x / 4)


class TPM(nn.Module):
    """(x, v, x0, times, prompt) → (a, b), each (B,). 3.35 M parameters for SD3.5, 3.11 M for Flux, 205 tokens."""

    def __init__(self, config: TPMConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.maps = nn.ModuleList(PatchMap(config) for _ in ("x", "v", "x0"))
        self.text = TextEncoder(config)
        self.times_in = nn.Linear(config.time_features, width)
        self.times_slot = nn.Parameter(torch.empty(4, width))
        self.global_in = nn.Parameter(torch.empty(config.global_tokens, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)
        self._initialise()

    def encode_text(self, text: TextCondition | None, batch: int) -> Tensor:
        """Prompt tokens (batch, text_tokens + 1, width), to be computed once per run. Absent parts count as zeros."""
        text = text or TextCondition()
        weight = self.times_in.weight
        context = text.context if text.context is not None else weight.new_zeros(1, 1, self.config.context_dim)
        pooled = text.pooled if text.pooled is not None else weight.new_zeros(1, self.config.pooled_dim)
        _check_width("context", context, self.config.context_dim)
        _check_width("pooled prompt", pooled, self.config.pooled_dim)
        return self.text(_as(context, weight, batch), _as(pooled, weight, batch))

    def times(self, state: StepState) -> Tensor:
        """(t_k, t_{k+1}, t*_k, k/K) per sample, (B, 4). Built by fills: the host never waits for the device."""
        assert state.x is not None
        values: list[Value] = [state.sigma, state.sigma_next, state.t_star, state.index / state.steps]
        blank = self.times_in.weight.new_zeros(state.x.shape[0])
        return torch.stack([blank + value for value in values], dim=-1)

    def forward(self, x: Tensor, v: Tensor, x0: Tensor, times: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b), each (B,) in fp32 within ±6.

        x, v, x0: (B, C, H, W), any H and W. times: (B, 4), see `times`. text: (B, T, width), see `encode_text`.
        """
        _check_channels(x, self.config.latent_channels)
        weight = self.times_in.weight
        latent = [tokens(part.to(weight)) for tokens, part in zip(self.maps, (x, v, x0), strict=True)]
        temporal = self.times_in(sinusoid(times.to(weight), self.config.time_features)) + self.times_slot
        overall = self.global_in.expand(x.shape[0], -1, -1)
        condition = torch.cat([text.to(weight), temporal, overall], dim=1)
        tokens = torch.cat([*latent, condition], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, -condition.shape[1] :])

    def _initialise(self) -> None:
        """Xavier weights, zero biases, damped residual branches, and a last layer of zeros."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        for tokens in (self.times_slot, self.global_in, self.text.queries):
            nn.init.xavier_uniform_(tokens)
        for name, weight in self.blocks.named_parameters():
            if name.endswith(("attention_out.weight", "mlp_out.weight")):
                weight.data.mul_((2 * self.config.layers) ** -0.5)
        nn.init.zeros_(self.head.last.weight)


class PatchMap(nn.Module):
    """A latent map (B, C, H, W) → (B, grid², width): patches, GELU, then pooling to a fixed grid.

    The nonlinearity before the pooling keeps high-frequency energy visible. Sizes that the patch does not divide are
    padded by repeating the edge.
    """

    def __init__(self, config: TPMConfig) -> None:
        super().__init__()
        self.patch, self.grid = config.patch, config.grid
        self.conv = nn.Conv2d(config.latent_channels, config.width, config.patch, stride=config.patch)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(squash(x), (0, -width % self.patch, 0, -height % self.patch), mode="replicate")
        pooled = F.adaptive_avg_pool2d(F.gelu(self.conv(x)), self.grid)
        return pooled.flatten(2).transpose(1, 2) + grid_positions(self.grid, pooled.shape[1], pooled)


class TextEncoder(nn.Module):
    """The prompt → a few tokens that learned queries gather from the context, and one from the pooled vector."""

    def __init__(self, config: TPMConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.context_in = nn.Linear(config.context_dim, config.width)
        self.pooled_in = nn.Linear(config.pooled_dim, config.width)
        self.queries = nn.Parameter(torch.empty(config.text_tokens, config.width))

    def forward(self, context: Tensor, pooled: Tensor) -> Tensor:
        """From context (B, n, context_dim) and pooled (B, pooled_dim) → (B, text_tokens + 1, width)."""
        entries = self.context_in(squash(context))
        queries = self.queries.expand(len(entries), -1, -1)
        gathered = attend(queries, entries, entries, self.heads)
        return torch.cat([gathered, self.pooled_in(squash(pooled)).unsqueeze(1)], dim=1)


class Block(nn.Module):
    """One transformer encoder layer without dropout or normalisation: tokens (B, T, width) → the same shape."""

    def __init__(self, config: TPMConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, config.mlp_ratio * width)
        self.mlp_out = nn.Linear(config.mlp_ratio * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.attention_in(tokens).chunk(3, dim=-1)
        tokens = tokens + self.attention_out(attend(query, key, value, self.heads))
        return tokens + self.mlp_out(F.gelu(self.mlp_in(tokens)))


class Head(nn.Module):
    """The read-out: condition tokens (B, T, width), flattened → (a, b), each (B,). fp32: r ≈ 0.5 needs the digits."""

    def __init__(self, config: TPMConfig) -> None:
        super().__init__()
        tokens = config.text_tokens + 1 + 4 + config.global_tokens
        self.first = nn.Linear(tokens * config.width, config.readout_width)
        self.last = nn.Linear(config.readout_width, 2)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        with _full_precision(tokens.device.type):
            hidden = F.gelu(_linear_fp32(self.first, tokens.flatten(1)))
            a, b = _linear_fp32(self.last, hidden).clamp(-LOGIT_LIMIT, LOGIT_LIMIT).unbind(-1)
        return a, b


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention of (B, T, width) over (B, S, width) → (B, T, width)."""
    q, k, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def sinusoid(values: Tensor, features: int, scale: float = 1000.0) -> Tensor:
    """Sin and cos of `scale`·values at `features`/2 geometric frequencies: (…) → (…, features)."""
    half = features // 2
    frequency = torch.exp(torch.arange(half, device=values.device, dtype=values.dtype) * (-math.log(10_000) / half))
    angle = scale * values.unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def grid_positions(grid: int, width: int, like: Tensor) -> Tensor:
    """Fixed 2-D sinusoidal positions (grid², width), half the channels for the row and half for the column."""
    axis = sinusoid(torch.arange(grid, device=like.device, dtype=like.dtype), width // 2, scale=1.0)
    rows = axis.unsqueeze(1).expand(-1, grid, -1)
    columns = axis.unsqueeze(0).expand(grid, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def _full_precision(device: str) -> AbstractContextManager[object]:
    """Autocast off; nothing to do on devices that have none (meta)."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _linear_fp32(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x.float(), layer.weight.float(), layer.bias.float())


def _as(part: Tensor, like: Tensor, batch: int) -> Tensor:
    """`part` on the device and in the dtype of `like`, one row repeated to the batch."""
    if part.shape[0] not in (1, batch):
        raise PolicyError(f"The prompt has a batch of {part.shape[0]}, the latent of {batch}; give one per image.")
    return part.to(like).expand(batch, *part.shape[1:])


def _check_width(what: str, part: Tensor, expected: int) -> None:
    if part.shape[-1] != expected:
        raise PolicyError(
            f"This TPM reads a {what} of width {expected}, the model's has {part.shape[-1]}; use a TPM that was"
            " trained for this model."
        )


def _check_channels(x: Tensor, expected: int) -> None:
    if x.ndim != 4 or x.shape[1] != expected:
        raise PolicyError(
            f"This TPM reads latents (batch, {expected}, height, width), the model's are {tuple(x.shape)}; use a TPM"
            " that was trained for this model."
        )
