"""Which networks can be pixel-wise: ComfyUI's classes, and who tells each a map of timesteps."""

from __future__ import annotations

from typing import Any

from ....tpm.errors import HostError
from ....tpm.pixelwise.timestep_rows import Reading, TextTime
from .base import PixelwiseNetwork
from .flux import PixelwiseFlux
from .mmdit import PixelwiseMMDiT
from .unet import PixelwiseUNet

FAMILIES: dict[str, type[PixelwiseNetwork]] = {
    "UNetModel": PixelwiseUNet,
    "OpenAISignatureMMDITWrapper": PixelwiseMMDiT,
    "Flux": PixelwiseFlux,
}


def pixelwise_network(network: Any, text: TextTime = "mean", reading: Reading = "corner") -> PixelwiseNetwork:
    """`network` under a map. Raises HostError for a family that is not supported."""
    name = type(network).__name__
    if name not in FAMILIES:
        raise HostError(
            f"Pixel-wise timesteps are made for SD1.5, SD2.1, SDXL, SD3, SD3.5, Flux.1 and Flux.2; {name} is none of"
            " them. Use one of these models."
        )
    return FAMILIES[name](network, text, reading)
