"""How each family's text-to-image pipeline is called: its guidance, its grid, its sizes; what `DiffusersStudio` asks.

A grid is ComfyUI's "simple" one, or the one that the pipeline makes itself ("scheduler").
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

from torch import Tensor

from ...errors import HostError
from ...retiming.equations import distinct
from ...retiming.solvers import Solver

Grid = Literal["simple", "scheduler"]
Size = tuple[int, int]  # (width, height), pixels


class TextToImage:
    """A flow family, with a negative prompt and maps as latents. Subclasses say what differs."""

    guidance = 5.0  # the usual scale
    argument = "guidance_scale"  # the call's argument for it
    negative = True  # whether the call takes a negative prompt
    refusal = "This pipeline"  # the subject of the sentence where it takes none

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def scheduler(self, solver: Solver) -> Any:
        """A scheduler that steps as `solver` does, on the pipeline's grid; for Euler the pipeline's own."""
        from .solvers import with_solver

        return with_solver(self.pipe.scheduler, solver)

    @property
    def unit(self) -> int:
        """What the sides of a picture must be multiples of, in pixels: whole patches of 2 × 2 latent pixels."""
        return int(self.pipe.vae_scale_factor * 2)

    def grid(self, steps: int, grid: Grid) -> dict[str, Any]:
        """The call's arguments that make the grid; none where the pipeline makes its own."""
        sigmas = self.unshifted(steps, grid)
        return {} if sigmas is None else {"sigmas": sigmas}

    def levels(self, steps: int, grid: Grid, size: Size | None) -> list[float]:
        """The K + 1 points of a run on the line from 1 to 0, before anything is sampled."""
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        shifts = scheduler.config.get("use_dynamic_shifting")
        arguments: dict[str, Any] = {"mu": self.shift(steps, size)} if shifts else {}
        sigmas = self.unshifted(steps, grid)
        if sigmas is None:
            scheduler.set_timesteps(steps, **arguments)
        else:
            scheduler.set_timesteps(sigmas=sigmas, **arguments)
        return distinct(scheduler.sigmas.tolist())

    def unshifted(self, steps: int, grid: Grid) -> list[float] | None:
        """The σ to hand to the scheduler, which shifts them; None where it makes its own."""
        if grid == "scheduler":
            return self.own_sigmas(steps)
        self.check_takes("sigmas")
        return simple_sigmas(steps)

    def own_sigmas(self, steps: int) -> list[float] | None:
        """The σ that the pipeline hands to its scheduler; None for none."""
        return [1 - k / steps for k in range(steps)]

    def check_takes(self, argument: str) -> None:
        """Raise HostError where the scheduler makes its own grid."""
        if argument not in inspect.signature(self.pipe.scheduler.set_timesteps).parameters:
            raise HostError(
                f"{type(self.pipe.scheduler).__name__} makes its own grid: use grid='scheduler' or the Euler scheduler."
            )

    def shift(self, steps: int, size: Size | None) -> float:  # noqa: ARG002 - Flux.2's depends on the steps
        """The dynamic shift of a resolution, as the pipelines compute it."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        config = self.pipe.scheduler.config
        return float(
            calculate_shift(
                self.patches(size),
                config.get("base_image_seq_len", 256),
                config.get("max_image_seq_len", 4096),
                config.get("base_shift", 0.5),
                config.get("max_shift", 1.15),
            )
        )

    def patches(self, size: Size | None) -> int:
        """How many patches a picture has."""
        width, height = size or (self.default_side,) * 2
        return (height // self.unit) * (width // self.unit)

    @property
    def default_side(self) -> int:
        """Pixels of a picture where no size is given."""
        return int(self.pipe.default_sample_size * self.pipe.vae_scale_factor)

    def text(self, negative: str, count: int) -> dict[str, Any]:
        """The call's arguments beside the prompts, for `count` of them."""
        if self.negative:
            return {"negative_prompt": [negative] * count}
        if negative:
            raise HostError(f"{self.refusal} takes no negative prompt; leave it empty.")
        return {}

    def as_map(self, latents: Tensor, size: Size | None) -> Tensor:  # noqa: ARG002 - of packed ones
        """The pipeline's final latents as (n, C, H, W)."""
        return latents

    def widths(self) -> tuple[int, int, int]:
        """(channels of the latent as a map, width of the prompt's context, width of the pooled prompt or 1)."""
        config = self.pipe.transformer.config
        channels = config.out_channels or config.in_channels  # Fill and Control read more than the latent
        return channels, config.joint_attention_dim, config.pooled_projection_dim


class SD3(TextToImage):
    """SD3 and SD3.5; 5 is the paper's scale."""

    def own_sigmas(self, steps: int) -> list[float] | None:  # noqa: ARG002
        return None

    def text(self, negative: str, count: int) -> dict[str, Any]:
        """See TextToImage. Without a T5 no T5 tokens, as in ComfyUI; diffusers would append 256 zero vectors."""
        missing = self.pipe.text_encoder_3 is None
        return super().text(negative, count) | ({"max_sequence_length": 0} if missing else {})


class Flux(TextToImage):
    """Flux.1-dev, whose guidance is distilled."""

    guidance = 3.5
    negative = False
    refusal = "Flux.1-dev has its guidance built in and"

    def as_map(self, latents: Tensor, size: Size | None) -> Tensor:
        width, height = size or (self.default_side,) * 2
        unpacked: Tensor = self.pipe._unpack_latents(latents, height, width, self.pipe.vae_scale_factor)
        return unpacked

    def widths(self) -> tuple[int, int, int]:
        """See TextToImage: Flux packs 2 × 2 patches."""
        channels, context, pooled = super().widths()
        return channels // 4, context, pooled


class Flux2(TextToImage):
    """Flux.2 and its Klein, which takes its negative prompt from nowhere but its embeddings."""

    guidance = 4.0
    negative = False
    refusal = "Flux.2"

    def shift(self, steps: int, size: Size | None) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return float(compute_empirical_mu(image_seq_len=self.patches(size), num_steps=steps))

    def as_map(self, latents: Tensor, size: Size | None) -> Tensor:
        """See TextToImage. Klein's are unpacked already, into what its VAE decodes."""
        if latents.ndim == 4:
            return latents
        width, _ = size or (self.default_side,) * 2
        return latents.unflatten(1, (-1, width // self.unit)).movedim(-1, 1)

    def widths(self) -> tuple[int, int, int]:
        """See TextToImage: there is no pooled prompt."""
        config = self.pipe.transformer.config
        return config.out_channels or config.in_channels, config.joint_attention_dim, 1


class QwenImage(TextToImage):
    """Qwen-Image, guided by a second call."""

    guidance = 4.0
    argument = "true_cfg_scale"

    def as_map(self, latents: Tensor, size: Size | None) -> Tensor:
        width, height = size or (self.default_side,) * 2
        unpacked: Tensor = self.pipe._unpack_latents(latents, height, width, self.pipe.vae_scale_factor)
        return unpacked[:, :, 0]

    def widths(self) -> tuple[int, int, int]:
        config = self.pipe.transformer.config
        return config.in_channels // 4, config.joint_attention_dim, 1


class ZImage(TextToImage):
    """Z-Image. Its Turbo is made for a scale of 0."""

    @property
    def default_side(self) -> int:
        """See TextToImage: the pipeline has it in its code."""
        return 1024

    def widths(self) -> tuple[int, int, int]:
        config = self.pipe.transformer.config
        return config.in_channels, config.cap_feat_dim, 1


class NoisePrediction(TextToImage):
    """SD1.x, SD2.x and SDXL. The grid is one of trained timesteps t; on the line from 1 to 0 they are (t + 1)/n."""

    def scheduler(self, solver: Solver) -> Any:
        """See TextToImage. Euler is made as well where the pipeline's own scheduler is another one."""
        from .noise import with_noise_solver

        return with_noise_solver(self.pipe.scheduler, solver)

    @property
    def unit(self) -> int:
        return int(self.pipe.vae_scale_factor)

    def grid(self, steps: int, grid: Grid) -> dict[str, Any]:
        return {} if grid == "scheduler" else {"timesteps": self.simple_timesteps(steps)}

    def levels(self, steps: int, grid: Grid, size: Size | None) -> list[float]:  # noqa: ARG002
        from .noise import NoisePrediction as Dialect

        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        if grid == "scheduler":
            scheduler.set_timesteps(steps)
        else:
            scheduler.set_timesteps(timesteps=self.simple_timesteps(steps))
        return distinct(Dialect(self.pipe).levels([], scheduler.timesteps.tolist()))

    def simple_timesteps(self, steps: int) -> list[int]:
        """ComfyUI's "simple" scheduler: every (n/K)-th of n trained timesteps, the highest first. K values."""
        self.check_takes("timesteps")
        config = self.pipe.scheduler.config
        if any(config.get(f"use_{kind}_sigmas") for kind in ("karras", "exponential", "beta")):
            raise HostError(
                f"{type(self.pipe.scheduler).__name__} spaces σ by a rule of its own in this pipeline; use"
                " grid='scheduler', or switch that off in its configuration."
            )
        trained = config.num_train_timesteps
        return [trained - 1 - int(k * trained / steps) for k in range(steps)]

    def widths(self) -> tuple[int, int, int]:
        config = self.pipe.unet.config
        added = config.projection_class_embeddings_input_dim or 0
        pooled = added - 6 * (config.addition_time_embed_dim or 0)
        return config.out_channels, config.cross_attention_dim, max(pooled, 1)


BY_BACKBONE: dict[str, type[TextToImage]] = {
    "sd3": SD3, "flux": Flux, "flux2": Flux2, "qwen-image": QwenImage, "z-image": ZImage, "sdxl": NoisePrediction,
    "sd1": NoisePrediction, "sd2": NoisePrediction,
}  # fmt: skip
"""By the word of the dialect."""


def simple_sigmas(steps: int) -> list[float]:
    """ComfyUI's "simple" scheduler before the shift: every (1000/K)-th of 1,000 σ, the highest first. K values."""
    return [(1000 - int(k * 1000 / steps)) / 1000 for k in range(steps)]
