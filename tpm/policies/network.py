"""The timestep prediction module (TPM): a small transformer from the state of a step to (a, b), Eq 7.

Tokens: three patch maps (x, v, x0), the prompt, four times and a few global tokens. A map may be of an image, a video
or a sound, with the same weights (`_map_tokens`). No dropout, no normalisation layer; inputs are squashed instead. The
last layer starts at zero, so an untrained TPM answers a = b = 0, whose mode and mean are exactly 0.5: the synchronous
sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..documents import STRICT
from ..errors import PolicyError
from ..retiming.contract import DeviceState, StepState, TextCondition, check_backbone_name
from ..retiming.equations import Value
from .arithmetic import (
    SQUASH,
    attend,
    fewer_frames,
    frame_positions,
    full_precision,
    grid_positions,
    linear_fp32,
    merge_heads,
    sinusoid,
    sinusoid_frequencies,
    squash,
)

LARGEST = {
    "latent_channels": 1024, "context_dim": 65_536, "pooled_dim": 65_536, "width": 2048, "heads": 128, "layers": 64,
    "mlp_ratio": 16, "patch": 64, "grid": 64, "text_tokens": 256, "global_tokens": 256, "time_features": 1024,
    "readout_width": 2048,
}  # fmt: skip
"""Bounds of a TPM's sizes, so that a damaged file cannot ask for terabytes: some ten times the paper's sizes."""

MAPS = ("x", "v", "x0")
TIMES = 4  # t_k, t_{k+1}, t*_k and k/K
FRAMES = 4  # a video's frames are averaged to at most so many, evenly over its length
LOGIT_LIMIT = 6.0  # |a|, |b| ≤ 6: α and β stay below 26 and every density stays smooth


@dataclass(frozen=True)
class TPMConfig:
    """The size of a TPM and the backbone it reads. The defaults are the paper-sized module."""

    __pydantic_config__ = STRICT

    backbone: str  # the model family, see `contract.Backbone`
    latent_channels: int  # C of x (B, C, …)
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


class Fixed(NamedTuple):
    """What no call of a TPM changes. Made from the weights, so make it again after an update of them."""

    patches: Tensor  # (3·width, C, patch, patch): the three maps' projections as one
    bias: Tensor  # (3·width,)
    places: Tensor  # (T, width), added to the tokens of one frame: positions of maps, slots of the times, else 0
    frequencies: Tensor  # (time_features / 2,)


class TPM(nn.Module):
    """(x, v, x0, times, prompt) → (a, b), each (B,). 3.35 M parameters for SD3.5, 3.11 M for Flux, 205 tokens."""

    def __init__(self, config: TPMConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.maps = nn.ModuleList(PatchMap(config) for _ in MAPS)
        self.text = TextEncoder(config)
        self.times_in = nn.Linear(config.time_features, width)
        self.times_slot = nn.Parameter(torch.empty(TIMES, width))
        self.global_in = nn.Parameter(torch.empty(config.global_tokens, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)
        self._initialise()

    def check(self, shape: Sequence[int], text: TextCondition | None = None) -> None:
        """Raise PolicyError unless it reads latents of this shape (B, C, …), and this prompt."""
        _check_shape(shape, self.config.latent_channels)
        self._check_text(text or TextCondition())

    def encode_text(self, text: TextCondition | None, batch: int) -> Tensor:
        """Prompt tokens (batch, text_tokens + 1, width), to be computed once per run. Absent parts count as zeros."""
        text = text or TextCondition()
        weight = self.times_in.weight
        context = text.context if text.context is not None else weight.new_zeros(1, 1, self.config.context_dim)
        pooled = text.pooled if text.pooled is not None else weight.new_zeros(1, self.config.pooled_dim)
        self._check_text(TextCondition(context, pooled))
        return self.text(_as(context, weight, batch), _as(pooled, weight, batch))

    def _check_text(self, text: TextCondition) -> None:
        for what, part, expected in (
            ("context", text.context, self.config.context_dim),
            ("pooled prompt", text.pooled, self.config.pooled_dim),
        ):
            if part is not None and part.shape[-1] != expected:
                raise PolicyError(
                    f"This TPM reads a {what} of width {expected}, the model's has {part.shape[-1]}; use a TPM that was"
                    " trained for this model."
                )

    def times(self, state: StepState | DeviceState) -> Tensor:
        """(t_k, t_{k+1}, t*_k, k/K) per sample, (B, 4). Built by fills: the host never waits for the device."""
        assert state.x is not None
        weight, batch = self.times_in.weight, state.x.shape[0]
        values: list[Value] = [state.sigma, state.sigma_next, state.t_star, state.progress]
        filled = [v.expand(batch) if isinstance(v, Tensor) else weight.new_full((batch,), v) for v in values]
        return torch.stack(filled, dim=-1)

    def fixed(self) -> Fixed:
        """The part that no call changes, to be computed once per run. Gradients reach the weights through it."""
        config, weight = self.config, self.times_in.weight
        weights, biases = zip(*(part.parameters() for part in self.maps), strict=True)
        patches, bias = torch.cat(weights) * SQUASH, torch.cat(biases)
        positions = grid_positions(config.grid, config.width, weight).repeat(len(MAPS), 1)
        text, overall = (weight.new_zeros(n, config.width) for n in (config.text_tokens + 1, config.global_tokens))
        places = torch.cat([positions, text, self.times_slot, overall])
        return Fixed(patches, bias, places, sinusoid_frequencies(config.time_features, weight))

    def forward(
        self, x: Tensor, v: Tensor, x0: Tensor, times: Tensor, text: Tensor, fixed: Fixed | None = None
    ) -> tuple[Tensor, Tensor]:
        """(a, b), each (B,) in fp32 within ±6.

        x, v, x0: (B, C, H, W), a video (B, C, T, H, W), or a sound (B, C, L), of any size. times: (B, 4), see `times`.
        text: (B, T, width), see `encode_text`. fixed: see `fixed`; without it, it is made for this call.
        """
        _check_shape(x.shape, self.config.latent_channels)
        weight, fixed = self.times_in.weight, fixed or self.fixed()
        maps = self._map_tokens(torch.cat([x, v, x0], dim=1).to(weight), fixed)
        temporal = self.times_in(sinusoid(times.to(weight), fixed.frequencies, scale=1000.0))
        overall = self.global_in.expand(x.shape[0], -1, -1)
        condition = [text, temporal, overall]
        tokens = torch.cat([*maps, *condition], dim=1) + self._places(fixed, maps[0].shape[1])
        *blocks, last = self.blocks
        for block in blocks:
            tokens = block(tokens)
        return self.head(last(tokens, read=sum(part.shape[1] for part in condition)))

    def _map_tokens(self, maps: Tensor, fixed: Fixed) -> Sequence[Tensor]:
        """The three maps, stacked (B, 3·C, …) → thrice (B, F·grid², width): patches, GELU, pooling to a fixed grid.

        An image (B, 3·C, H, W) has F = 1. Each frame of a video (B, 3·C, T, H, W) is read as an image, and frames are
        averaged to F = min(T, 4). A sound (B, 3·C, L) is patches along its length, averaged to grid² of them.
        The nonlinearity before the pooling keeps high-frequency energy visible. Sizes that the patch does not divide
        are padded by repeating the edge.
        """
        config = self.config
        if maps.ndim == 5:
            return self._video_tokens(maps, fixed)
        cells = config.grid if maps.ndim == 4 else (1, config.grid**2)
        images = maps if maps.ndim == 4 else maps.unsqueeze(2)
        pooled = F.adaptive_avg_pool2d(self._patches(images, fixed), cells)
        return pooled.view(len(maps), len(MAPS), config.width, -1).transpose(2, 3).unbind(1)

    def _video_tokens(self, maps: Tensor, fixed: Fixed) -> Sequence[Tensor]:
        """As `_map_tokens`, of videos (B, 3·C, T, H, W)."""
        patches = self._patches(maps.transpose(1, 2).flatten(0, 1), fixed)
        frames = F.adaptive_avg_pool2d(patches, self.config.grid).unflatten(0, (len(maps), -1))
        by_map = fewer_frames(frames, FRAMES).flatten(3).unflatten(2, (len(MAPS), -1))
        return by_map.permute(2, 0, 1, 4, 3).flatten(2, 3).unbind()

    def _patches(self, images: Tensor, fixed: Fixed) -> Tensor:
        """Images (N, 3·C, H, W) → patches (N, 3·width, ⌈H/patch⌉, ⌈W/patch⌉)."""
        patch = self.config.patch
        short = (0, -images.shape[-1] % patch, 0, -images.shape[-2] % patch)
        images = torch.tanh((F.pad(images, short, mode="replicate") if any(short) else images) / SQUASH)
        return F.gelu(F.conv2d(images, fixed.patches, fixed.bias, stride=patch, groups=len(MAPS)))

    def _places(self, fixed: Fixed, tokens: int) -> Tensor:
        """What is added to the tokens where each map has so many: a video's frames have a place over time as well."""
        frames, places = tokens // self.config.grid**2, fixed.places
        if frames == 1:
            return places
        positions, others = places[: self.config.grid**2], places[len(MAPS) * self.config.grid**2 :]
        times = frame_positions(frames, FRAMES, self.config.width, places)
        return torch.cat([(positions + times.unsqueeze(1)).flatten(0, 1).repeat(len(MAPS), 1), others])

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
    """The weights with which one latent map is read, patch by patch; `TPM` reads its three maps in one call."""

    def __init__(self, config: TPMConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(config.latent_channels, config.width, config.patch, stride=config.patch)


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
    """One transformer encoder layer without dropout or normalisation."""

    def __init__(self, config: TPMConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, config.mlp_ratio * width)
        self.mlp_out = nn.Linear(config.mlp_ratio * width, width)

    def forward(self, tokens: Tensor, read: int | None = None) -> Tensor:
        """Tokens (B, T, width) → the same shape, or only the last `read` of them: no more is computed than is read."""
        joined = self.attention_in(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = joined.permute(2, 0, 3, 1, 4).unbind()
        if read is not None:
            query, tokens = query[:, :, -read:], tokens[:, -read:]
        tokens = tokens + self.attention_out(merge_heads(F.scaled_dot_product_attention(query, key, value)))
        return tokens + self.mlp_out(F.gelu(self.mlp_in(tokens)))


class Head(nn.Module):
    """The read-out: condition tokens (B, T, width), flattened → (a, b), each (B,). fp32: r ≈ 0.5 needs the digits."""

    def __init__(self, config: TPMConfig) -> None:
        super().__init__()
        tokens = config.text_tokens + 1 + TIMES + config.global_tokens
        self.first = nn.Linear(tokens * config.width, config.readout_width)
        self.last = nn.Linear(config.readout_width, 2)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        with full_precision(tokens.device.type):
            hidden = F.gelu(linear_fp32(self.first, tokens.flatten(1)))
            a, b = linear_fp32(self.last, hidden).clamp(-LOGIT_LIMIT, LOGIT_LIMIT).unbind(-1)
        return a, b


def _as(part: Tensor, like: Tensor, batch: int) -> Tensor:
    """`part` on the device and in the dtype of `like`, one row repeated to the batch."""
    if part.shape[0] not in (1, batch):
        raise PolicyError(f"The prompt has a batch of {part.shape[0]}, the latent of {batch}; give one per image.")
    return part.to(like).expand(batch, *part.shape[1:])


def _check_shape(shape: Sequence[int], channels: int) -> None:
    if len(shape) not in (3, 4, 5) or shape[1] != channels:
        raise PolicyError(
            f"This TPM reads latents (batch, {channels}, height, width), videos or sounds with {channels} channels, the"
            f" model's are {tuple(shape)}; use a TPM that was trained for this model."
        )
