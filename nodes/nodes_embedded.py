"""Load Embedded Pipeline: the shipped SD3.5 as MODEL, CLIP and VAE of the host's own classes, without diffusers.

Core can read the transformer as it is and the VAE under other names. Its SD3 text encoder is fixed to the sizes of
CLIP-L and CLIP-G; here the same classes take every size from the folder, so a retrained folder needs no change.
"""

from __future__ import annotations

import hashlib
import inspect
from functools import partial
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.text_encoders.sd3_clip import SD3ClipModel
from comfy_api.latest import io
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Regex, normalizers
from torch import Tensor
from transformers import CLIPTokenizerFast  # type: ignore[attr-defined] # 4.x: CLIPTokenizer reads no tokenizer.json

from ..tpm.embedded.vocabulary import PromptError, check_prompt, words_of
from ..tpm.errors import HostError
from ..tpm.files import EMBEDDED_FOLDER, read_json
from ..tpm.usual import EMBEDDED_NODE_PRESET
from .schema import schema
from .sockets import PRESET

FOLDER = EMBEDDED_FOLDER
DEFAULT_PRESET = EMBEDDED_NODE_PRESET
"""The policy of runs without one, as `asyncdiff panel` has it."""

ENCODERS = {"l": ("text_encoder", "tokenizer"), "g": ("text_encoder_2", "tokenizer_2")}
"""Core's names of SD3's two CLIP encoders, and where diffusers keeps each."""

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
FILES = (
    TRANSFORMER,
    VAE,
    *(f"{encoder}/{name}" for encoder, _ in ENCODERS.values() for name in ("config.json", "model.safetensors")),
    *(f"{place}/{name}" for _, place in ENCODERS.values() for name in ("tokenizer.json", "tokenizer_config.json")),
)


class ClosedTokenizer(comfy.sd1_clip.SDTokenizer):
    """One encoder's tokenizer with ComfyUI's prompt weights; length and padding are those of its own files.

    Punctuation is dropped: the vocabulary has none, and as unknown tokens it would end the sentence for the pooled
    output. A word outside the vocabulary and a prompt that does not fit raise :class:`PromptError`. Core would continue
    a long prompt in a second block, but no caption of the embedded world is that long and the model has never seen one.
    """

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(str(folder), embedding_key=f"clip_{name}", tokenizer_class=CLIPTokenizerFast)
        self.max_length = self.tokenizer.model_max_length
        self.pad_token = self.tokenizer.pad_token_id
        backend = self.tokenizer.backend_tokenizer
        no_punctuation = normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " ")
        backend.normalizer = normalizers.Sequence([backend.normalizer, no_punctuation])

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> list[list[tuple]]:
        """One block of (token, weight) pairs, or (token, weight, word) on demand."""
        segments = comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0)
        words = " ".join(segment for segment, _ in segments)
        check_prompt(words)
        blocks = super().tokenize_with_weights(text, return_word_ids, **kwargs)
        if len(blocks) > 1:
            raise PromptError(
                f"The embedded pipeline reads at most {self.max_length - 2} words, and this prompt has "
                f"{len(words_of(words))}; shorten it."
            )
        return blocks


class EmbeddedTokenizer:
    """Both tokenizers under core's names; the block of SD3's third encoder, which is not there, is empty."""

    def __init__(self, folder: Path, **_: Any) -> None:
        self.clips = {name: ClosedTokenizer(folder / place, name) for name, (_, place) in ENCODERS.items()}

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> dict[str, list]:
        """The prompt as both encoders want it."""
        blocks = {
            name: clip.tokenize_with_weights(text, return_word_ids, **kwargs) for name, clip in self.clips.items()
        }
        return blocks | {"t5xxl": []}

    def untokenize(self, token_weight_pair: list[tuple]) -> list[tuple]:
        """Pairs with their words, as core's SD3 tokenizer gives them."""
        return self.clips["g"].untokenize(token_weight_pair)

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing: a tokenizer has no weights."""
        return {}


class SizedTextModel(comfy.clip_model.CLIPTextModel):
    """Core's CLIP text model with the vocabulary and projection of its configuration (core fixes both)."""

    def __init__(self, config_dict: dict[str, Any], dtype: torch.dtype, device: Any, operations: Any) -> None:
        super().__init__(config_dict, dtype, device, operations)
        width, made = config_dict["hidden_size"], {"dtype": dtype, "device": device}
        self.set_input_embeddings(operations.Embedding(config_dict["vocab_size"], width, **made))
        self.text_projection = operations.Linear(width, config_dict["projection_dim"], bias=False, **made)


_SPECIAL = {"start": "bos", "end": "eos", "pad": "pad"}


def new_encoder(config: dict[str, Any], **made: Any) -> comfy.sd1_clip.SDClipModel:
    """An encoder without weights that gives its penultimate layer, not normalised, and the projected pooled output."""
    return comfy.sd1_clip.SDClipModel(
        textmodel_json_config=dict(config),
        layer="hidden",
        layer_idx=config["num_hidden_layers"] - 2,
        layer_norm_hidden_state=False,
        model_class=SizedTextModel,
        special_tokens={key: config[f"{name}_token_id"] for key, name in _SPECIAL.items()},
        **made,
    )


class EmbeddedClipModel(SD3ClipModel):
    """SD3's text side of two small encoders and no T5: context (1, tokens, widths' sum), pooled (1, projections' sum).

    Core's own pads the context to the width of a T5 and knows the sizes of the official encoders only.
    """

    def __init__(self, configs: dict[str, dict[str, Any]], **made: Any) -> None:
        super().__init__(clip_l=False, clip_g=False, t5=False, **made)
        self.dtypes = {made.get("dtype")}
        self.positions = configs["l"]["max_position_embeddings"]
        self.widths = [sum(config[key] for config in configs.values()) for key in ("hidden_size", "projection_dim")]
        self.clip_l, self.clip_g = (new_encoder(configs[name], **made) for name in ("l", "g"))

    def encode_token_weights(self, token_weight_pairs: dict[str, list]) -> tuple[Tensor, Tensor, dict]:
        """Both encoders side by side; zeros where core's SD3 node was told to leave an empty prompt out."""
        pairs = {name: token_weight_pairs[name] for name in ENCODERS}
        if not any(pairs.values()):
            device = comfy.model_management.intermediate_device()
            context, pooled = self.widths
            return torch.zeros(1, self.positions, context, device=device), torch.zeros(1, pooled, device=device), {}
        outputs = [getattr(self, f"clip_{name}").encode_token_weights(blocks) for name, blocks in pairs.items()]
        return torch.cat([output[0] for output in outputs], -1), torch.cat([output[1] for output in outputs], -1), {}


def load_model(folder: Path) -> Any:
    """The transformer as a MODEL, with its preset."""
    model = comfy.sd.load_diffusion_model(str(folder / TRANSFORMER))
    model.set_attachments(PRESET, DEFAULT_PRESET)
    return model


def load_clip(folder: Path, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """The two text encoders as a CLIP; raises KeyError where a file lacks a tensor of its model."""
    configs = {name: read_json(folder / place / "config.json", HostError) for name, (place, _) in ENCODERS.items()}
    target = comfy.supported_models_base.ClipTarget(
        partial(EmbeddedTokenizer, folder), partial(EmbeddedClipModel, configs)
    )
    weights = _encoder_weights(folder)
    wanted = {"state_dict": weights, "disable_dynamic": disable_dynamic}
    known = inspect.signature(comfy.sd.CLIP).parameters
    clip = comfy.sd.CLIP(
        target,
        parameters=comfy.utils.calculate_parameters(weights),
        **{name: value for name, value in wanted.items() if name in known},
    )
    if "state_dict" not in known:
        clip.load_sd(weights, full_model=True)
    missing = clip.cond_stage_model.state_dict().keys() - weights.keys()
    if lacking := sorted(name for name in missing if not name.endswith("logit_scale")):
        raise KeyError(f"no {lacking[0]}")
    clip.patcher.cached_patcher_init = (_clip_patcher, (folder,))
    return clip


def _encoder_weights(folder: Path) -> dict[str, Tensor]:
    return {
        f"clip_{name}.transformer.{key}": value
        for name, (place, _) in ENCODERS.items()
        for key, value in load_file(folder / place / "model.safetensors").items()
    }


def load_vae(folder: Path) -> comfy.sd.VAE:
    """The tiny autoencoder as a VAE, under the names of core's TAESD (its decoder counts a clamp as layer 0)."""
    weights = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    for name, value in load_file(folder / VAE).items():
        part, _, index, rest = name.split(".", 3)
        weights[f"taesd_{part}.{int(index) + (part == 'decoder')}.{rest}"] = value
    vae = comfy.sd.VAE(sd=weights)
    vae.throw_exception_if_invalid()
    vae.patcher.cached_patcher_init = (_vae_patcher, (folder,))
    return vae


def _clip_patcher(folder: Path, disable_dynamic: bool = False) -> Any:
    """What the host calls to copy a CLIP from its files."""
    return load_clip(folder, disable_dynamic).patcher


def _vae_patcher(folder: Path, disable_dynamic: bool = False) -> Any:  # noqa: ARG001 (the host passes it)
    """What the host calls to copy a VAE from its files."""
    return load_vae(folder).patcher


def load_pipeline(folder: Path) -> tuple[Any, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of a tiny SD3.5 in diffusers' layout; a folder that is not one raises HostError."""
    check_files(folder)
    try:
        return load_model(folder), load_clip(folder), load_vae(folder)
    except comfy.model_management.OOM_EXCEPTION:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as cause:
        raise HostError(
            f"The embedded pipeline in {folder} cannot be loaded ({str(cause).strip().splitlines()[0]}); "
            "get that folder of this node pack again."
        ) from cause


def check_files(folder: Path) -> None:
    """Raise HostError unless every file of the pipeline is there and every JSON file can be read."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise HostError(
            f"The embedded pipeline in {folder} is incomplete: no {', '.join(missing)}; get that folder of this node "
            "pack again."
        )
    for name in FILES:
        if name.endswith(".json"):
            read_json(folder / name, HostError)


def fingerprint(folder: Path) -> str:
    """Changes when a file of the pipeline does: a hash of names, sizes and times."""
    stats = [(name, (folder / name).stat()) for name in FILES if (folder / name).is_file()]
    seen = [(str(folder / name), stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


class LoadEmbeddedPipeline(io.ComfyNode):
    """The shipped tiny SD3.5 for stock nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """No inputs: there is one embedded pipeline."""
        return schema(
            node_id="AsyncDiffLoadEmbeddedPipeline",
            display_name="Load Embedded Pipeline",
            description=(
                "A complete, very small Stable Diffusion 3.5 that comes with this node pack: it draws captioned shapes "
                "at 128 × 128 pixels, in seconds on a CPU and without a download. Use it with CLIP Text Encode, "
                "EmptySD3LatentImage, a KSampler and VAE Decode to try a workflow. It knows a closed vocabulary only, "
                'for example "a large red circle above a small blue square on a starry background".'
            ),
            inputs=[],
            outputs=[
                io.Model.Output(
                    tooltip="The transformer, an SD3.5 with 16 latent channels. Trained at 128 × 128; cfg 3 is good."
                ),
                io.Clip.Output(
                    tooltip="Two small CLIP encoders with a closed vocabulary. Prompt weights such as (red:1.2) work; "
                    "an unknown word gives an error that lists the known ones."
                ),
                io.Vae.Output(tooltip="A tiny autoencoder: 8 × 8 pixels a latent, 16 channels."),
            ],
            search_aliases=["tiny sd3.5", "embedded model", "demo model", "test pipeline", "load checkpoint"],
        )

    @classmethod
    def fingerprint_inputs(cls) -> str:
        """A replaced folder is loaded again."""
        return fingerprint(FOLDER)

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Load the pipeline; the host caches the outputs."""
        return io.NodeOutput(*load_pipeline(FOLDER))


NODES = [LoadEmbeddedPipeline]
