"""A UNet of diffusers (SD1.x, SD2.x, SDXL) with a timestep for every pixel, through hooks alone.

    with per_pixel_unet(pipe.unet) as network:
        network.timesteps = t  # (B, 1, H, W), 0 … 999
        output = pipe.unet(latent, timestep, ...)

A residual block adds (or modulates by) one row per image. Inside the context its own row is zero, which is exact, and
the rows of each pixel are applied at the norm that follows. The distinct timesteps are embedded once and their rows
gathered; class and size embeddings are added to every pixel's. Without a map, and after the context, nothing differs
by a bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import HostError
from ...pixelwise.timestep_rows import GridRows, Reading, TimestepRows, check_divisible, fitted
from ...retiming.equations import Value
from .hooks import Attachments, is_hooked_by

KINDS = ("default", "scale_shift")  # how a residual block takes its time embedding
ARGUMENTS = ("sample", "timestep", "encoder_hidden_states", "class_labels")  # what the UNet's forward takes, in order


@contextmanager
def per_pixel_unet(unet: nn.Module, reading: Reading = "corner") -> Iterator[UNetTimesteps]:
    """A UNet2DConditionModel that reads `network.timesteps` inside this context. Raises HostError for others.

    reading: how the coarser layers read the map: its top-left pixels (the paper's stride), or means.
    """
    network = UNetTimesteps(unet, reading)
    network.attach()
    try:
        yield network
    finally:
        network.detach()


class UNetTimesteps:
    """A UNet with per-pixel timesteps. Made by `per_pixel_unet`."""

    def __init__(self, unet: nn.Module, reading: Reading = "corner") -> None:
        check_unet(unet)
        self.timesteps: Tensor | None = None  # (B, 1, H, W), 0 … 999; None: untouched
        self.background: Value | None = None  # not read: a UNet's text has no timestep
        self._unet, self._reading = unet, reading
        self._rows: TimestepRows | None = None  # rows of the call in progress
        self._attached = Attachments()

    @property
    def active(self) -> bool:
        """Whether the call in progress has a map."""
        return self._rows is not None

    def attach(self) -> None:
        """Hook the UNet. Raises HostError when it already is hooked."""
        if is_per_pixel_unet(self._unet):
            raise HostError("This UNet already takes per-pixel timesteps; leave the outer context first.")
        self._attached.add(
            self._unet.register_forward_pre_hook(self.before, with_kwargs=True),
            self._unet.register_forward_hook(self.after),
        )
        for block in residual_blocks(self._unet):
            self._attached.add(*ResidualBlockHooks(self, block).attach())

    def detach(self) -> None:
        """Remove the hooks and forget the map."""
        self._attached.detach()
        self.timesteps = None
        self._forget()

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take in one call. Raises RegionError for a latent that the coarsest layers cannot divide."""
        self._forget()
        if self.timesteps is None:
            return
        call = {**dict(zip(ARGUMENTS, args, strict=False)), **kwargs}
        latent = call["sample"]
        check_divisible((latent.shape[-2], latent.shape[-1]), unit_of(self._unet))
        self._rows = self._rows_of(fitted(self.timesteps, latent), call)

    def after(self, _: nn.Module, __: Any, ___: Any) -> None:
        """The call is over."""
        self._forget()

    def rows(self, height: int) -> tuple[GridRows, Tensor]:
        """The rows for a layer of this height, and the embedding (B, U, D) that its residual block reads."""
        assert self._rows is not None
        rows = self._rows.at(self._rows.height // height)
        activation: Any = self._unet.time_embed_act
        return rows, rows.rows if activation is None else activation(rows.rows)

    def _rows_of(self, field: Tensor, call: dict[str, Any]) -> TimestepRows:
        """The rows of a map (B, 1, H, W) for a call with these arguments."""
        unet, latent = self._unet, call["sample"]

        def embed(timesteps: Tensor) -> Tensor:
            embedded: Tensor = unet.time_embedding(unet.time_proj(timesteps).to(latent.dtype))  # type: ignore[operator]
            return embedded

        rows = TimestepRows(field, embed, self._reading)
        for each in self._image_embeddings(call, latent):
            rows.add(each)
        return rows

    def _image_embeddings(self, call: dict[str, Any], like: Tensor) -> list[Tensor]:
        """What the UNet adds to the timestep's embedding for a whole image, (B, D) each: class, sizes and pooled text.

        In the order of the UNet's own forward. like: a tensor of the dtype that they get.
        """
        unet = self._unet
        classes = unet.get_class_embed(sample=call["sample"], class_labels=call.get("class_labels"))  # type: ignore[operator]
        added = unet.get_aug_embed(  # type: ignore[operator]
            emb=like,
            encoder_hidden_states=call["encoder_hidden_states"],
            added_cond_kwargs=call.get("added_cond_kwargs"),
        )
        return [extra for extra in (classes, added) if extra is not None]

    def _forget(self) -> None:
        self._rows = None


class ResidualBlockHooks:
    """The hooks of one ResnetBlock2D."""

    def __init__(self, network: UNetTimesteps, block: Any) -> None:
        self._network, self._block = network, block

    def attach(self) -> list[Any]:
        """Hook the projection of the time embedding and the norm that follows it."""
        block = self._block
        if block.time_embedding_norm == "default":
            norm = block.norm2.register_forward_pre_hook(self.before_norm)
        else:
            norm = block.norm2.register_forward_hook(self.after_norm)
        return [block.time_emb_proj.register_forward_hook(self.after_projection), norm]

    def after_projection(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        """The block's own row becomes neutral."""
        return torch.zeros_like(output) if self._network.active else output

    def before_norm(self, _: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        """Add the rows of each pixel."""
        return (args[0] + self._spread(args[0]),) if self._network.active else None

    def after_norm(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        """norm(x)·(1 + scale) + shift per pixel."""
        if not self._network.active:
            return output
        scale, shift = self._spread(output).chunk(2, dim=1)
        return output * (1 + scale) + shift

    def _spread(self, x: Tensor) -> Tensor:
        (rows, embedding), block = self._network.rows(x.shape[-2]), self._block
        time = embedding if block.skip_time_act else block.nonlinearity(embedding)
        made = block.time_emb_proj.forward(time)  # past the hook that makes the block's own row neutral
        return rows.as_image(made, x.shape[-2])


def residual_blocks(unet: nn.Module) -> list[Any]:
    """The blocks that take a time embedding."""
    return [
        each for each in unet.modules() if type(each).__name__ == "ResnetBlock2D" and each.time_emb_proj is not None
    ]


def unit_of(unet: Any) -> int:
    """How many latent pixels the coarsest layer's are wide."""
    return 2 ** sum(getattr(block, "downsamplers", None) is not None for block in unet.down_blocks)


def is_unet(denoiser: Any) -> bool:
    """Whether this is diffusers' UNet with cross-attention."""
    return type(denoiser).__name__ == "UNet2DConditionModel"


def check_unet(unet: Any) -> None:
    """Raise HostError unless this is a UNet whose pixels can each have a timestep."""
    if not is_unet(unet):
        raise HostError(
            f"Per-pixel timesteps are made for SD1.x, SD2.x and SDXL (UNet2DConditionModel, not compiled), not"
            f" {type(unet).__name__}."
        )
    config, kinds = unet.config, {type(each).__name__ for each in unet.modules()}
    blocks = {block.time_embedding_norm for block in residual_blocks(unet)}
    unusual = "ResnetBlockCondNorm2D" in kinds or not blocks <= set(KINDS)
    if unusual or config.class_embeddings_concat or config.addition_embed_type not in (None, "text_time"):
        raise HostError("This UNet takes its timestep in a way that is not supported; use SD1.x, SD2.x or SDXL.")
    if config.time_cond_proj_dim is not None:
        raise HostError("This UNet has its guidance distilled into the timestep (LCM); use the model it was made from.")


def is_per_pixel_unet(unet: nn.Module) -> bool:
    """Whether a `UNetTimesteps` hooks this UNet."""
    return is_hooked_by(unet, UNetTimesteps)
