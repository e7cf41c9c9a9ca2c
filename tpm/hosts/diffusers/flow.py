"""The flow-matching families: SD3, Flux, Flux.2, Qwen-Image and Z-Image. Time on the unit line is σ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...errors import HostError
from ...retiming.contract import TextCondition
from ...retiming.equations import Value
from .calls import Call, ExactTimestep, claiming, unrounded
from .dialects import Exact, Maps, Place, conditional


class Flow(Maps):
    """Flow matching with maps as latents: what its families share. The denoiser is told scale · σ."""

    backbone: str
    part = "transformer"
    argument = "timestep"
    note = ""
    scale = 1000.0

    def told(self, unit: Value) -> Value:
        return self.scale * unit

    def scheduler_time(self, told: float) -> float:
        return told * 1000 / self.scale

    def levels(self, sigmas: list[float], times: list[float]) -> list[float]:  # noqa: ARG002
        return sigmas

    def check_scheduler(self, scheduler: Any) -> None:
        """See `Dialect`: a flow-matching one."""
        config = getattr(scheduler, "config", {})
        families = [family.__name__ for family in type(scheduler).__mro__]
        flow = any(name.startswith("FlowMatch") for name in families) or config.get("use_flow_sigmas", False)
        if not flow or not all(hasattr(scheduler, name) for name in ("sigmas", "step_index", "begin_index")):
            raise HostError(
                f"The scheduler {type(scheduler).__name__} is not a flow-matching one; use"
                " FlowMatchEulerDiscreteScheduler or FlowMatchHeunDiscreteScheduler."
            )

    def rows(self, call: Call) -> int | None:  # noqa: ARG002 - the protocol's signature
        return None

    def prompt(self, call: Call) -> TextCondition:
        return TextCondition(call.get("encoder_hidden_states"), call.get("pooled_projections"))

    def layout(self, call: Call) -> Any:
        return call.get("img_ids")

    def seen(self, sample: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        return sample

    def velocity(self, output: Tensor, sample: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        return output

    def output(self, scaled: Tensor, velocity: Tensor, output: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        return scaled


class SD3(Flow):
    """SD3 and SD3.5: timestep 1000·σ, and latents are maps."""

    backbone = "sd3"


class Packed(Flow):
    """Latents (B, rows · columns, …) in reading order. The denoiser is told σ, and casts it to its dtype."""

    scale = 1.0

    def __init__(self) -> None:
        self.columns = 0

    def read_layout(self, layout: Any, latent: Tensor) -> None:
        """See `Dialect`. Copies the patches' positions to the host, once per run."""
        if layout is None:
            raise HostError("The denoiser was called without img_ids; a policy that reads the latent needs them.")
        self.columns = count_columns(layout, latent.shape[1])


class Patches(Packed):
    """Latents packed as 2 × 2 patches, (B, rows · columns, 4C)."""

    def to_map(self, latent: Tensor) -> Tensor:
        """(B, rows · columns, 4C) → (B, C, 2 rows, 2 columns)."""
        batch, patches, channels = latent.shape
        grid = latent.reshape(batch, patches // self.columns, self.columns, channels // 4, 2, 2)
        return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def from_map(self, latent: Tensor) -> Tensor:
        """(B, C, H, W) → (B, H·W/4, 4C)."""
        batch, channels, height, width = latent.shape
        grid = latent.reshape(batch, channels, height // 2, 2, width // 2, 2)
        return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


class Flux(Patches):
    """Flux.1. It casts σ and then multiplies it by 1000; its embedding computes in fp32."""

    backbone = "flux"

    def exact(self, timestep: Tensor, call: Call, compiled: bool) -> Exact:  # noqa: ARG002
        return Exact(unrounded(timestep, call.get("hidden_states")), lambda told: told.as_subclass(ExactTimestep))


class Flux2(Packed):
    """Flux.2 and its Klein: 128 channels, one for each place of a 2 × 2 patch already, and no pooled prompt."""

    backbone = "flux2"

    def exact(self, timestep: Tensor, call: Call, compiled: bool) -> Exact:
        """See `Dialect`. It casts σ, multiplies it by 1000, and asks it for the dtype of its embedding."""
        latent = call.get("hidden_states")
        if compiled or not is_half(latent.dtype):
            return Exact(timestep, lambda told: told)
        used = (timestep.to(latent.dtype) * 1000).to(torch.float32) / 1000
        return Exact(used, lambda told: told.as_subclass(claiming(latent.dtype)))

    def to_map(self, latent: Tensor) -> Tensor:
        """(B, rows · columns, C) → (B, C, rows, columns)."""
        return latent.unflatten(1, (-1, self.columns)).movedim(-1, 1)

    def from_map(self, latent: Tensor) -> Tensor:
        """(B, C, H, W) → (B, H·W, C)."""
        return latent.movedim(1, -1).flatten(1, 2)


class QwenImage(Patches):
    """Qwen-Image. Guidance is two calls; its prompt has no pooled part."""

    backbone = "qwen-image"

    def exact(self, timestep: Tensor, call: Call, compiled: bool) -> Exact:
        """See `Dialect`. It casts σ, and rounds the frequencies of its embedding to the dtype of that."""
        dtype = cast_dtype(call.get("hidden_states"))
        if compiled or not is_half(dtype):
            return Exact(timestep, lambda told: told)
        return Exact(timestep.to(dtype).to(torch.float32), lambda told: told.as_subclass(claiming(dtype)))

    def layout(self, call: Call) -> Any:
        return call.get("img_shapes")

    def read_layout(self, layout: Any, latent: Tensor) -> None:
        """See `Dialect`. layout: (frames, rows, columns) of the latent and of reference images, for each sample."""
        while layout and not isinstance(layout[0], int):
            layout = layout[0]
        if not layout or latent.shape[1] % layout[-1]:
            raise HostError("The denoiser was called without img_shapes that fit the latent; use a stock pipeline.")
        self.columns = int(layout[-1])


class ZImage(Flow):
    """Z-Image: told 1 − σ; latents are maps, and the network gets a list of them and of prompts.

    Guidance stacks [conditional, unconditional]. The network predicts −v; its pipelines turn the sign before the step.
    """

    backbone = "z-image"
    argument = "t"

    def told(self, unit: Value) -> Value:
        return 1 - unit

    def scheduler_time(self, told: float) -> float:
        return 1000 * (1 - told)

    def prompt(self, call: Call) -> TextCondition:
        """See `Dialect`. Prompts of different lengths are filled up with zeros; those among images are left out."""
        prompts = call.get("cap_feats")
        flat = isinstance(prompts, list) and all(isinstance(each, Tensor) for each in prompts)
        return TextCondition(pad_sequence(prompts, batch_first=True) if flat else None)

    def conditional(self, prompts: TextCondition, batch: int) -> TextCondition:
        return conditional(prompts, batch, part=0)


def is_half(dtype: torch.dtype) -> bool:
    """Whether numbers of this type round a timestep."""
    return torch.finfo(dtype).bits < 32


def cast_dtype(latent: Tensor) -> torch.dtype:
    """The dtype of what a linear layer makes from a latent."""
    kind = latent.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else latent.dtype


def count_columns(image_ids: Tensor, patches: int | None = None) -> int:
    """Patches in one row, from positions (…, L, 3 or 4) = (image, row, column, …) in reading order.

    patches: how many of them the latent has; reference images may follow (Kontext). Raises HostError where the latent
    is no rectangle, as with several images of different widths in one sequence.
    """
    positions = image_ids.reshape(-1, *image_ids.shape[-2:])[0, :patches, 2].tolist()
    columns = positions.index(positions[0], 1) if positions[0] in positions[1:] else len(positions)
    if positions != positions[:columns] * (len(positions) // columns):
        raise HostError(
            "The latent of this run is not one rectangle, so that a policy that reads it (a TPM) cannot be used; use a"
            " constant or a curve, or images of one width."
        )
    return columns
