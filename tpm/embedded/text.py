"""The text side: a CLIP tokenizer over the closed vocabulary and two small CLIP text encoders, as SD3.5 has them."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from .labels import IGNORED
from .loop import Draw
from .vocabulary import WORDS
from .worlds import World

WIDTHS = (64, 64)
CONTEXT_DIM = sum(WIDTHS)
_START, _END = "<|startoftext|>", "<|endoftext|>"


def new_tokenizer(length: int) -> CLIPTokenizer:
    """A CLIP tokenizer for texts of ``length`` tokens whose byte-pair merges make every word of the vocabulary one."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=5000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz"),
    )  # fmt: skip
    bpe.train_from_iterator(WORDS, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(pieces), _START, _END]
    return _load_tokenizer({token: number for number, token in enumerate(tokens)}, merges, length)


def _load_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]], length: int) -> CLIPTokenizer:
    with TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        Path(folder, "merges.txt").write_text(
            "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n", encoding="utf-8"
        )
        return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def new_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModelWithProjection:
    """An untrained CLIP text encoder with heads of 64."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=width,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


class TextStack(nn.Module):
    """Tokenizer and both encoders; called as ``StableDiffusion3Pipeline`` calls them (penultimate layers, pooled)."""

    def __init__(self, tokenizer: CLIPTokenizer, encoders: list[CLIPTextModelWithProjection]) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoders = nn.ModuleList(encoders)

    @classmethod
    def new(cls, length: int) -> TextStack:
        """Untrained encoders over the closed vocabulary, for captions of ``length`` tokens."""
        tokenizer = new_tokenizer(length)
        return cls(tokenizer, [new_text_encoder(tokenizer, width, 3) for width in WIDTHS])

    def forward(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Context (B, tokens, 128) and pooled (B, 128)."""
        tokens = self.tokenizer(
            captions, padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True
        )
        ids = torch.tensor(tokens["input_ids"], device=next(self.parameters()).device)
        outputs = [encoder(ids, output_hidden_states=True) for encoder in self.encoders]
        context = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        return context, torch.cat([output.text_embeds for output in outputs], -1)


class TextTraining(nn.Module):
    """Pre-training on captions alone: both outputs must tell every attribute of every object by a linear read-out.

    SD3.5 is trained on frozen encoders that know language; a denoiser on encoders that know nothing spends most of its
    training on finding out which colour belongs to which shape. The read-outs are thrown away.
    """

    def __init__(self, text: TextStack, world: World) -> None:
        super().__init__()
        self.text, self._world = text, world
        self._sizes = [len(members) for members in world.heads.values()]
        classes = sum(self._sizes)
        self.from_context, self.from_pooled = nn.Linear(CONTEXT_DIM, classes), nn.Linear(CONTEXT_DIM, classes)

    def loss(self, draw: Draw, batch: int) -> Tensor:
        """Cross-entropy over all attributes, from the mean of the context and from the pooled output."""
        scenes = [self._world.broad(draw.numpy) for _ in range(batch)]
        truth = self._world.labels(scenes)
        context, pooled = self.text([self._world.caption(draw.numpy, scene) for scene in scenes])
        value = context.new_zeros(())
        for logits in (self.from_context(context.mean(1)), self.from_pooled(pooled)):
            for part, wanted in zip(logits.split(self._sizes, -1), truth.values(), strict=True):
                value = value + F.cross_entropy(part, wanted.to(part.device), ignore_index=IGNORED)
        return value / (2 * len(self._sizes))
