"""What a CLIP's tokenizers read of a prompt, and where its phrases are in the context that it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from comfy.sd1_clip import escape_important, token_weights, unescape_important

from ...tpm.errors import HostError
from ...tpm.pixelwise.requests import Phrase, named
from ...tpm.pixelwise.tokens import TextStream, located

Block = Sequence[tuple[Any, ...]]
Tokenize = Callable[..., Mapping[str, Sequence[Block]]]

CLIPS = ("l", "g", "h")
"""Core's names of CLIP text encoders, which share one context."""
OTHER = -1  # in place of the id of a learned embedding


def phrase_items(clip: Any, text: str, phrases: Sequence[tuple[str, float, int]], length: int) -> tuple[Phrase, ...]:
    """The phrases (phrase, k, occurrence) of a prompt as regions; `length`: tokens of the context that CLIP gave.

    Raises RegionError for a phrase that is not there, HostError for a text encoder that is not understood.
    """
    found = streams(clip, text)
    total = sum(stream.length for stream in found)
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


def streams(clip: Any, text: str) -> list[TextStream]:
    """The parts of the context in their order. SD3: CLIP, then T5; Flux.1: T5; a language model: its chat."""
    names = context_names(clip, list(clip.tokenize(text)))
    return [Tokenizer(clip.tokenize, name).stream(text) for name in names]


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


class Tokenizer:
    """One of a CLIP's tokenizers: which of its tokens are those of a text, and not its frame."""

    def __init__(self, tokenize: Tokenize, name: str) -> None:
        self._tokenize, self._name = tokenize, name
        self._empty = self._blocks("")
        self._framed = name not in (*CLIPS, "t5xxl")  # a language model: a chat around the prompt, and padding
        self._padding = set(self._blocks("", llama_template="{}")[0]) if self._framed else set()

    def stream(self, text: str) -> TextStream:
        """What it reads of a prompt: without weights, or as it stands for a tokenizer that knows none."""
        blocks = self._blocks(text)
        places = [place for place, _ in self._words(blocks)]
        ids = [token for _, token in self._words(blocks)]
        for segments in (weighted_segments(text), None):
            read = self._reader(text, segments)
            plain = text if segments is None else "".join(segments)
            if read(0, len(plain)) == ids:
                break
        return TextStream(plain, read, ids, places, sum(map(len, blocks)), self._ids("A") == self._ids("a"))

    def _reader(self, text: str, segments: Sequence[str] | None) -> Callable[[int, int], list[int]]:
        """The ids of a part of the text, cut into segments as the whole is."""

        def read(start: int, end: int) -> list[int]:
            return self._ids(text[start:end] if segments is None else part_of(segments, start, end))

        return read

    def _ids(self, text: str) -> list[int]:
        return [token for _, token in self._words(self._blocks(text))]

    def _blocks(self, text: str, **options: str) -> list[list[int]]:
        """The token ids of every block of the context."""
        found = self._tokenize(text, **options)[self._name]
        return [[entry[0] if isinstance(entry[0], int) else OTHER for entry in block] for block in found]

    def _words(self, blocks: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
        """The tokens of the text as (position in the context, id)."""
        tokens, offset = [], 0
        for block in blocks:
            tokens += [(offset + place, block[place]) for place in self._inside(block)]
            offset += len(block)
        return tokens

    def _inside(self, block: Sequence[int]) -> list[int]:
        """The places in a block that hold the text."""
        if self._framed:
            return within_frame(block, self._empty[0], self._padding)
        start = 1 if self._name in CLIPS else 0  # CLIP has a start token, T5 has none
        end = self._empty[0][start]
        return list(range(start, block.index(end, start) if end in block[start:] else len(block)))


def weighted_segments(text: str) -> list[str]:
    """The parts of a prompt that core tokenizes one by one, since each may have a weight.

    A space is added where two of them would read as one word.
    """
    parts = [unescape_important(segment) for segment, _ in token_weights(escape_important(text), 1.0)]
    glued = [one[-1:].isalnum() and other[:1].isalnum() for one, other in pairwise([*parts, ""])]
    return [part + " " * joins for part, joins in zip(parts, glued, strict=True)]


def part_of(segments: Sequence[str], start: int, end: int) -> str:
    """A prompt of the same segments, from one place of their joined text to another."""
    parts, offset = [], 0
    for segment in segments:
        part = segment[max(start - offset, 0) : max(end - offset, 0)]
        escaped = part.replace("(", "\\(").replace(")", "\\)")
        parts += [f"({escaped}:1.0)"] if part else []
        offset += len(segment)
    return "".join(parts)


def within_frame(tokens: Sequence[int], frame: Sequence[int], padding: set[int]) -> list[int]:
    """The places of `tokens` that are neither padding nor the template, which `frame` is alone."""
    places = [place for place, token in enumerate(tokens) if token not in padding]
    template = [token for token in frame if token not in padding]
    words = [tokens[place] for place in places]
    before = shared(words, template)
    after = shared(words[before:][::-1], template[before:][::-1])
    return places[before : len(places) - after]


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
