"""Which networks can be pixel-wise: ComfyUI's classes, and who tells each a map of timesteps."""

from __future__ import annotations

from typing import Any

from ....tpm.errors import HostError
from ....tpm.pixelwise.timestep_rows import Reading, TextTime
from .base import PixelwiseNetwork
from .flux import PixelwiseFlux
from .mmdit import PixelwiseMMDiT
from .unet import PixelwiseUNet
from .video import PixelwiseLTXAV, PixelwiseLTXV, PixelwiseScail, PixelwiseWan

FAMILIES: dict[str, type[PixelwiseNetwork]] = {
    "UNetModel": PixelwiseUNet,
    "OpenAISignatureMMDITWrapper": PixelwiseMMDiT,
    "Flux": PixelwiseFlux,
    "LTXVModel": PixelwiseLTXV,
    "LTXAVModel": PixelwiseLTXAV,
    "WanModel": PixelwiseWan,
    "CausalWanModel": PixelwiseWan,
    "SCAILWanModel": PixelwiseScail,
    "SCAIL2WanModel": PixelwiseScail,
}

SUPPORTED = (
    "images of SD1.5, SD2.1, SDXL, SD3, SD3.5, Flux.1 and Flux.2,"
    " videos of LTX-Video, LTX-2, Wan 2.1, Wan 2.2 and SCAIL"
)

LAYERS = (
    "{} has no pixel-wise timesteps: its layers take one timestep for the whole {}, and would need patches that do not"
    " exist. Use one of those that can be pixel-wise: {}."
)
NO_PIXELS = "{} makes {}, and no pixels. What can be pixel-wise: {}."

IMAGES = {
    "MMDiT": "AuraFlow",
    "HunYuanDiT": "Hunyuan-DiT",
    "PixArtMS": "PixArt",
    "LensTransformer2DModel": "Lens",
    "Anima": "Anima",
    "NextDiT": "Lumina 2 (and Z-Image)",
    "NextDiTPixelSpace": "Z-Image in pixel space",
    "PixDiT_T2I": "PixelDiT",
    "PidNet": "PiD",
    "HiDreamImageTransformer2DModel": "HiDream",
    "HiDreamO1Transformer": "HiDream-O1",
    "Chroma": "Chroma",
    "ChromaRadiance": "Chroma Radiance",
    "OmniGen2Transformer2DModel": "OmniGen2",
    "BooguTransformer2DModel": "Boogu",
    "QwenImageTransformer2DModel": "Qwen-Image",
    "MageFlowTransformer2DModel": "MageFlow",
    "JoyImageTransformer3DModel": "JoyImage",
    "Ideogram4Transformer2DModel": "Ideogram 4",
    "SingleStreamDiT": "Krea 2",
    "ErnieImageModel": "ERNIE-Image",
    "StageB": "Stable Cascade",
    "StageC": "Stable Cascade",
}
VIDEOS = {
    "AsymmDiTJoint": "Mochi",
    "NaDiT": "SeedVR2",
    "HunyuanVideo": "Hunyuan Video (or Hunyuan Image)",
    "GeneralDIT": "Cosmos",
    "MiniTrainDIT": "Cosmos Predict 2",
    "VaceWanModel": "Wan VACE",
    "CameraWanModel": "Wan with a camera",
    "HumoWanModel": "HuMo",
    "AnimateWanModel": "Wan Animate",
    "WanAnimate2Model": "Wan Animate 2",
    "WanModel_S2V": "Wan S2V",
    "WanDancerModel": "WanDancer",
    "MiniMaxH3Model": "MiniMax H3",
    "Kandinsky5": "Kandinsky 5",
    "CogVideoXTransformer3DModel": "CogVideoX",
}
SOUNDS = {
    "AudioDiffusionTransformer": "Stable Audio",
    "ACEStepTransformer2DModel": "ACE-Step",
    "AceStepConditionGenerationModel": "ACE-Step 1.5",
    "MiniMaxMusic3DiT": "MiniMax Music 3",
}
SHAPES = {
    "Hunyuan3Dv2": "Hunyuan3D 2",
    "HunYuanDiTPlain": "Hunyuan3D 2.1",
    "Trellis2": "Trellis 2",
    "LatentSeqMMFlowModel": "TripoSplat",
}
"""What people call the other networks, by the name of their class."""


def pixelwise_network(network: Any, text: TextTime = "mean", reading: Reading = "corner") -> PixelwiseNetwork:
    """`network` under a map. Raises HostError for a family that is not supported, with the reason."""
    name = type(network).__name__
    if name not in FAMILIES:
        raise HostError(refusal(name))
    return FAMILIES[name](network, text, reading)


def refusal(name: str) -> str:
    """Why the networks of this class cannot be pixel-wise."""
    for kinds, what in ((SOUNDS, "sound"), (SHAPES, "shapes in space")):
        if name in kinds:
            return NO_PIXELS.format(kinds[name], what, SUPPORTED)
    made = "image" if name in IMAGES else "video" if name in VIDEOS else "image or video"
    return LAYERS.format((IMAGES | VIDEOS).get(name, name), made, SUPPORTED)
