"""A CLIP's real tokens: where a prompt's phrases are in the context that it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...tpm.errors import HostError
from ...tpm.pixelwise.prompts import OTHER, Stream, framed, located
from ...tpm.pixelwise.requests import Phrase, named

Tokenize = Callable[..., Mapping[str, Any]]

CLIPS = ("l", "g", "h")
"""Core's names of CLIP text encoders, which share one context."""


def phrase_items(clip: Any, text: str, phrases: Sequence[tuple[str, float, int]], length: int) -> tuple[Phrase, ...]:
    """The phrases (phrase, k, occurrence) of a prompt as regions; `length`: tokens of the context that CLIP gave.

    Raises RegionError for a phrase that is not there, HostError for a text encoder that is not understood.
    """
    found = streams(clip, text, [phrase for phrase, _, _ in phrases])
    total = sum(len(stream.prompt) for stream in found)
    if total != length:
        raise HostError(
            f"This text encoder gives {length} tokens where its tokenizer gives {total}, so that phrases cannot be"
            " found in it; use Region from Mask."
        )
    positions = located(found, [(phrase, occurrence) for phrase, _, occurrence in phrases])
    return tuple(
        Phrase(name, strength, tokens)
        for name, (_, strength, _), tokens in zip(named(phrases), phrases, positions, strict=True)
    )


def streams(clip: Any, text: str, phrases: Sequence[str]) -> list[Stream]:
    """The parts of the context in their order. SD3: CLIP, then T5; Flux.1: T5; a language model: its chat."""
    names = context_names(clip, list(clip.tokenize(text)))
    return [stream(clip.tokenize, name, text, phrases) for name in names]


def context_names(clip: Any, names: list[str]) -> list[str]:
    """The tokenizers whose tokens are the context, without encoders that are not loaded."""
    clips = [name for name in names if name in CLIPS]
    if "t5xxl" not in names:
        return clips[:1] if clips else names[:1]
    if "g" not in names:
        return ["t5xxl"]
    model = clip.cond_stage_model
    parts = {"g": ("clip_l", "clip_g"), "t5xxl": ("t5xxl",)}
    return [
        name for name, encoders in parts.items() if any(getattr(model, each, None) is not None for each in encoders)
    ]


def stream(tokenize: Tokenize, name: str, text: str, phrases: Sequence[str]) -> Stream:
    """One tokenizer's view of the prompt and of the phrases."""
    prompt, empty = ids(tokenize(text)[name]), ids(tokenize("")[name])
    if name in (*CLIPS, "t5xxl"):
        return Stream(prompt, tuple((ids(tokenize(phrase)[name]),) for phrase in phrases), frozenset(empty))
    bare = {"llama_template": "{}"}  # a language model: words differ after a space, and a template surrounds them
    variants = tuple(tuple(ids(tokenize(start + phrase, **bare)[name]) for start in ("", " ")) for phrase in phrases)
    special = frozenset(ids(tokenize("", **bare)[name]))
    return Stream(framed(prompt, empty, special), variants, special)


def ids(blocks: Sequence[Sequence[tuple]]) -> tuple[int, ...]:
    """The token ids of all blocks in a row; a textual inversion's embedding is no id."""
    return tuple(entry[0] if isinstance(entry[0], int) else OTHER for block in blocks for entry in block)
