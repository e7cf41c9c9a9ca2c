"""What a workflow loads: MODEL, CLIP, VAE, a LoRA, an upscaler of latents. `file` decides the random weights."""

import inspect
import zlib

from .codecs import CODECS
from .texts import Texts, Words

TEXT = ("STRING", {"default": ""})
CODEC = (list(CODECS),)


class Loader:
    """What the nodes here have in common."""

    CATEGORY = "tests"
    FUNCTION = "load"


class StandInModel(Loader):
    """MODEL of an entry of the zoo."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"entry": TEXT, "file": TEXT}})
    RETURN_TYPES = ("MODEL",)

    def load(self, entry, file):
        from support.zoo import ENTRIES
        from support.zoo.build import build, fill

        model = build(ENTRIES[entry])
        fill(model.model, zlib.crc32(file.encode()))
        return (model,)


class StandInCLIP(Loader):
    """CLIP that turns a text into the conditioning of an entry of the zoo."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"entry": TEXT}})
    RETURN_TYPES = ("CLIP",)

    def load(self, entry):
        from support.zoo import ENTRIES

        return (Texts(ENTRIES[entry]),)


class StandInVAE(Loader):
    """VAE by a name in `CODECS`."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"codec": CODEC}})
    RETURN_TYPES = ("VAE",)

    def load(self, codec):
        return (CODECS[codec],)


class StandInCheckpoint(Loader):
    """MODEL, CLIP and VAE at once."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"entry": TEXT, "file": TEXT, "codec": CODEC}})
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")

    def load(self, entry, file, codec):
        return *StandInModel().load(entry, file), *StandInCLIP().load(entry), *StandInVAE().load(codec)


class StandInSDXL(Loader):
    """The same of SDXL with its three levels and its own tokenizer: attention and phrases are where they are there."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")

    def load(self):
        from support.stand_ins import load, sdxl

        return load(sdxl()), Words(), CODECS["4 channels"]


class StandInLora(Loader):
    """MODEL with another part added to three of its matrices, as a LoRA's loader adds it."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "strength_model": ("FLOAT", {})}})
    RETURN_TYPES = ("MODEL",)

    def load(self, model, strength_model):
        patched = model.clone()
        state = patched.model_state_dict("diffusion_model.")
        matrices = [name for name, value in state.items() if name.endswith(".weight") and value.ndim > 1][:3]
        added = patched.add_patches({name: ("diff", (0.1 * state[name].flip(0),)) for name in matrices}, strength_model)
        assert len(added) == len(matrices) > 0
        return (patched,)


class StandInUpscaler(Loader):
    """LTX's upscaler of latents, the host's own class with random weights."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("LATENT_UPSCALE_MODEL",)

    def load(self):
        import comfy.ops
        from comfy.ldm.lightricks.latent_upsampler import LatentUpsampler
        from comfy.model_patcher import ModelPatcher

        from support.zoo.build import CPU, fill

        managed = "operations" in inspect.signature(LatentUpsampler.from_config).parameters  # by the host, since v0.27
        sizes = {"in_channels": 128, "mid_channels": 32, "num_blocks_per_stage": 1}
        network = LatentUpsampler.from_config(sizes, **({"operations": comfy.ops.manual_cast} if managed else {}))
        fill(network)
        network.model_dtype = lambda: next(network.parameters()).dtype
        return (ModelPatcher(network, CPU, CPU) if managed else network,)
