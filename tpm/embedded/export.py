"""Writing the trained parts as a diffusers pipeline folder of real classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel, T5Tokenizer

from ..files import write_json
from .text import CONTEXT_DIM, TextStack

SHIFT = 3.0


def assemble(text: TextStack, transformer: SD3Transformer2DModel, vae: AutoencoderTiny) -> StableDiffusion3Pipeline:
    """A complete SD3.5 pipeline. SD3.5 may run with zeros in place of T5; this one always does: its T5 is silent."""
    first, second = text.encoders
    t5, t5_tokenizer = silent_t5()
    parts: dict[str, Any] = {  # the pipeline's annotations do not know a tiny VAE
        "transformer": transformer.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        "vae": vae.eval(),
        "text_encoder": first.eval(),
        "tokenizer": text.tokenizer,
        "text_encoder_2": second.eval(),
        "tokenizer_2": text.tokenizer,
        "text_encoder_3": t5,
        "tokenizer_3": t5_tokenizer,
    }
    return StableDiffusion3Pipeline(**parts)


def silent_t5() -> tuple[T5EncoderModel, PreTrainedTokenizerBase]:
    """A T5 encoder whose last norm is zero, and so its output: diffusers loads no SD3 folder without a T5."""
    tokenizer = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)], extra_ids=0)
    tokenizer.model_max_length = 256
    config = T5Config(
        vocab_size=len(tokenizer), d_model=CONTEXT_DIM, d_kv=8, d_ff=8, num_layers=1, num_heads=1,
        is_encoder_decoder=False, use_cache=False,
    )  # fmt: skip
    encoder = T5EncoderModel(config)
    torch.nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    return encoder.eval(), tokenizer


def save_pipeline(pipeline: StableDiffusion3Pipeline, folder: Path) -> None:
    """Write the pipeline folder: rounded to half precision, loaded as float32 by default."""
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    pipeline.to(torch.float32)
    for name in ("tokenizer", "tokenizer_2"):
        _write_for_older_transformers(folder / name)
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        _load_as_float32(folder / name / "config.json")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["tokenizer_3"] = ["transformers", "T5TokenizerFast"]  # the name that transformers 4 knows as well
    write_json(folder / "model_index.json", index)


def _load_as_float32(path: Path) -> None:
    """Let transformers, which loads in the type that the configuration names, agree with diffusers."""
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {key: value for key, value in config.items() if "dtype" not in key} | {"dtype": "float32"})


def _write_for_older_transformers(folder: Path) -> None:
    """The vocabulary as the two files that CLIPTokenizer of transformers 4 reads."""
    model = json.loads(Tokenizer.from_file(str(folder / "tokenizer.json")).to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
