"""Video networks that take a timestep for each token: LTX-Video, LTX-2, Wan 2.1 and 2.2, and what others made of Wan.

ComfyUI hands every network what its model's `process_timestep` makes of the timestep. For these a row for each token
may come out of it, so the map goes in there, and no layer is changed. What a family does there itself is kept: where a
part of the video is given (image to video), its tokens have their share of the timestep, mostly none. Tokens that are
no pixels of the latent (references, poses) and sound are told the background's timestep.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ....tpm.pixelwise.timestep_rows import coarse, text_time
from ...weak import released
from .base import Current, Function, PixelwiseNetwork

Conditions = dict[str, Any]  # what the host gives to the network beside latent and timestep


class PixelwiseVideo(PixelwiseNetwork):
    """A video network under a map. Its latents are (B, C, T, H, W), and a frame of the latent is a frame of tokens."""

    makes, watches = "videos", False

    def patches(self, current: Current) -> dict[str, Function]:
        """See `PixelwiseNetwork`."""
        path = "process_timestep"
        return {path: released(partial(self.process_timestep, current(path)))}

    def process_timestep(self, original: Function, timestep: Tensor, **conditions: Any) -> Any:
        """Timesteps (n, tokens) in place of the one of each video (n,)."""
        if self._call.timesteps is None:
            return original(timestep, **conditions)
        return self.rows(original(torch.ones_like(timestep), **conditions), conditions)

    def rows(self, share: Any, conditions: Conditions) -> Any:
        """What the network gets. share: what the family makes of a timestep of 1."""
        field = self._call.timesteps
        assert field is not None
        tokens = coarse(field, self.patch).flatten(1)
        tokens = tokens * shared(share, tokens.shape[1])
        before, after = self.beside(conditions)
        if not before and not after:
            return tokens
        beside = self.background[:, None]
        return torch.cat([beside.expand(-1, before), tokens, beside.expand(-1, after)], dim=1)

    def beside(self, _conditions: Conditions) -> tuple[int, int]:
        """How many tokens that are no pixels come before those of the latent, and after them."""
        return 0, 0

    @property
    def background(self) -> Tensor:
        """The background's timestep, (n,)."""
        field = self._call.timesteps
        assert field is not None
        return text_time(field, "background", self._call.background)


def shared(share: Tensor, tokens: int) -> Tensor:
    """The share (n, tokens) of each token, from one of each video (n,), of each frame (n, T), or of each token."""
    flat = share.reshape(len(share), -1)
    return flat.repeat_interleave(tokens // flat.shape[1], dim=1)


class PixelwiseWan(PixelwiseVideo):
    """Wan 2.1 and 2.2 (text, image, 5B) and CausalAR, whole videos at once. A timestep is 1000·σ."""

    def __init__(self, network: Any, *args: Any) -> None:
        super().__init__(network, *args)
        self.unit = self.patch = network.patch_size[-1]

    def beside(self, conditions: Conditions) -> tuple[int, int]:
        """A reference frame comes first; frames for context, and latents for context, come last."""
        before = self.tokens(conditions.get("reference_latent")) if self.network.ref_conv is not None else 0
        after = [conditions.get("time_dim_concat"), *(conditions.get("context_latents") or [])]
        return before, sum(map(self.tokens, after))

    def tokens(self, latent: Tensor | None) -> int:
        """How many tokens a latent (B, C, H, W) or (B, C, T, H, W) has; none where there is none."""
        if latent is None:
            return 0
        cells = [math.ceil(side / self.patch) for side in latent.shape[-2:]]
        return math.prod(latent.shape[2:-2]) * math.prod(cells)


class PixelwiseScail(PixelwiseWan):
    """SCAIL: reference frames before the video, and the pose after it."""

    def beside(self, conditions: Conditions) -> tuple[int, int]:
        """See `PixelwiseWan`."""
        after = (conditions.get("time_dim_concat"), conditions.get("pose_latents"))
        return self.tokens(conditions.get("reference_latent")), sum(map(self.tokens, after))


class PixelwiseLTXV(PixelwiseVideo):
    """LTX-Video. A timestep is σ, and every latent pixel a token."""

    unit = patch = 1


class PixelwiseLTXAV(PixelwiseLTXV):
    """LTX-2. The timesteps of video and sound are two; only the video has a map."""

    def rows(self, share: Any, conditions: Conditions) -> Any:
        """See `PixelwiseVideo`."""
        video, sound = share
        return super().rows(video, conditions), sound * self.background.reshape(-1, *[1] * (sound.ndim - 1))

    def around(self, executor: Any, x: Any, *args: Any, denoise_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """The network's call, the host's DIFFUSION_MODEL wrapper.

        It reads one timestep of each frame unless its mask differs inside of a frame; so the mask says that it does.
        """
        if self._call.timesteps is not None:
            denoise_mask = uneven(denoise_mask, picture(x))
        return executor(x, *args, denoise_mask=denoise_mask, **kwargs)


def picture(x: Any) -> Tensor:
    """The video (B, C, T, H, W) of what the network gets: the first part, where sound comes with it."""
    video: Tensor = x[0] if isinstance(x, list | tuple) else x
    return video


def uneven(mask: Tensor | None, video: Tensor) -> Tensor:
    """A mask of the video that differs inside of every frame, and is below 0 where the given one is.

    The network has had the shares of its timesteps already, and looks at nothing else in it.
    """
    made = video.new_ones(video[:1, :1].shape) if mask is None else mask.clone()
    corner = made[..., 0, 0]
    made[..., 0, 0] = torch.where(corner < 0, corner, corner + 2)
    return made
