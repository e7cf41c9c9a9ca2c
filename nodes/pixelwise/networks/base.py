"""Networks in their official layout (ComfyUI's classes) that are told a map of timesteps.

A family of images (`unet`, `mmdit`, `flux`) names some bound functions of its network and what stands in for them; a
family of videos (`video`) takes a timestep for each token as it is. The host puts the stand-ins in place; no module and
no weight is replaced, so weight names, LoRA and other patches stay as they are. Outside of `told`, and for a call
without a map, each stand-in is the function that it replaced, so nothing differs by a bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from ....tpm.pixelwise.attention_maps import AttentionWatch
from ....tpm.pixelwise.regions import Size
from ....tpm.pixelwise.timestep_rows import Embed, GridRows, Reading, TextTime, TimestepRows, modulate, text_time
from ....tpm.retiming.equations import Value
from ...weak import released, weakly

Function = Callable[..., Any]
Current = Callable[[str], Function]  # the bound function at a path below the model, as patched so far

NETWORK = "diffusion_model"  # the network's path below the model


@dataclass
class Call:
    """What one call of the network is told, and what watches its attention."""

    timesteps: Tensor | None = None  # (B, 1, H, W) fp32 in the network's unit; None: the scalar that it is given
    background: Value | None = None  # the background's timestep, for what is outside of the map: a number or (b,)
    watch: AttentionWatch | None = None  # takes in queries and keys
    keys: dict[Any, Tensor] = field(default_factory=dict)  # the text's keys, by the block that waits for its queries


class PixelwiseNetwork(ABC):
    """One network under a map. `unit`: latents must be multiples of it; `patch`: pixels that share a timestep."""

    unit: int
    patch: int
    makes = "images"  # "images" or "videos"
    watches = True  # whether its attention to the prompt can be watched

    def __init__(self, network: Any, text: TextTime = "mean", reading: Reading = "corner") -> None:
        self._held, self._text, self._reading = weakly(network), text, reading
        self._call = Call()

    @property
    def network(self) -> Any:
        """The network, which holds the stand-ins and therefore is held weakly."""
        return self._held()

    @contextmanager
    def told(self, call: Call) -> Iterator[None]:
        """The network's calls inside this context are told `call`."""
        self._call = call
        try:
            yield
        finally:
            self._call = Call()

    @abstractmethod
    def patches(self, current: Current) -> dict[str, Function]:
        """What to put at which path below the model; `current` says what is there now."""

    def attention_grid(self, size: Size) -> Size:
        """The grid of the queries that are watched, for a latent of this size."""
        return size


class LayeredNetwork(PixelwiseNetwork):
    """A network of images, some of whose layers have stand-ins that read the map."""

    span: float = 1000.0  # the timestep of pure noise
    time: str  # the path of the module that embeds the timestep
    additions: tuple[str, ...]  # paths of the modules whose output is added to it

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._rows: TimestepRows | None = None

    @contextmanager
    def told(self, call: Call) -> Iterator[None]:
        """See `PixelwiseNetwork`."""
        self._rows = None
        try:
            with super().told(call):
                yield
        finally:
            self._rows = None

    def patches(self, current: Current) -> dict[str, Function]:
        """See `PixelwiseNetwork`."""

        def inside(path: str) -> Function:
            return current(f"{NETWORK}.{path}")

        stand_ins = {f"{self.time}.forward": self._embedded}
        stand_ins |= {f"{name}.forward": self._added for name in self.additions if self._has(name)}
        timing = {path: partial(stand_in, inside(path)) for path, stand_in in stand_ins.items()}
        return {f"{NETWORK}.{path}": released(stand_in) for path, stand_in in (timing | self.layers(inside)).items()}

    @abstractmethod
    def layers(self, current: Current) -> dict[str, partial[Any]]:
        """The stand-ins of the layers that read the embedding, each with the function that it replaces."""

    @abstractmethod
    def embedding(self, original: Function, *args: Any) -> Embed:
        """How timesteps (U,) become rows (U, D), from the time module's function and what it was called with."""

    @property
    def watch(self) -> AttentionWatch | None:
        """What watches the attention of the call in progress."""
        return self._call.watch

    def keep(self, block: Any, key: Tensor) -> None:
        """Keep the text's keys of a block of the call in progress."""
        self._call.keys[block] = key

    def kept(self, block: Any) -> Tensor | None:
        """The text's keys of a block, which are then forgotten."""
        return self._call.keys.pop(block, None)

    @property
    def tokens(self) -> GridRows | None:
        """The rows of the image tokens of a transformer; None without a map."""
        return None if self._rows is None else self._rows.at(self.patch)

    @property
    def rows(self) -> TimestepRows | None:
        """The rows of the call in progress; None without a map."""
        return self._rows

    def final(self, layer: Any, original: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A transformer's last modulation per token, then its projection."""
        tokens = self.tokens
        if tokens is None:
            return original(x, *args, **kwargs)
        shift, scale = layer.adaLN_modulation(tokens.rows).chunk(2, dim=-1)
        return layer.linear(modulate(layer.norm_final(x), shift, scale, tokens))

    def _embedded(self, original: Function, *args: Any, **kwargs: Any) -> Tensor:
        """Keep the rows of the map; the rest of the network, the text stream, gets one timestep."""
        field = self._call.timesteps
        if field is None:
            return original(*args, **kwargs)
        embed = self.embedding(original, *args, *kwargs.values())
        self._rows = TimestepRows(field, embed, self._reading, self.span)
        return embed(text_time(field, self._text, self._call.background))

    def _added(self, original: Function, *args: Any) -> Tensor:
        output = original(*args)
        if self._rows is not None:
            self._rows.add(output)
        return output

    def _has(self, name: str) -> bool:
        return getattr(self.network, name, None) is not None
