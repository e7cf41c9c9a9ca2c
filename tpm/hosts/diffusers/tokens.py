"""Items of a prompt → their token positions, by the tokenizers of a diffusers pipeline and the order it joins them in.

SD1.x, SD2.x: one CLIP text. SDXL: two CLIP texts side by side, the same positions. SD3 and SD3.5: the CLIP tokens
first, then T5's, which have no start token. An item is a phrase, or token indices as AsynDM's files give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import HostError
from ...pixelwise.errors import RegionError
from ...pixelwise.tokens import TextStream, cut_off, joined_places, located_one, runs_of, span_of_tokens

T5_LENGTH = 256  # diffusers' max_sequence_length


def item_tokens(
    pipe: Any, prompt: str, phrases: Sequence[str], *, occurrence: int = 1, t5_length: int = T5_LENGTH
) -> list[tuple[int, ...]]:
    """Each phrase's positions in the joined context of a prompt: its occurrence-th place in the text.

    t5_length: the `max_sequence_length` of the run (SD3). An encoder that cuts the phrase off is left out. Raises
    RegionError, naming the phrase, when no encoder has it; HostError when the pipeline has no tokenizer.
    """
    streams = streams_of(pipe, prompt, t5_length)
    return [located_one(streams, phrase, occurrence) for phrase in phrases]


def indexed_tokens(
    pipe: Any, prompt: str, items: Sequence[int | Sequence[int]], *, t5_length: int = T5_LENGTH
) -> list[tuple[int, ...]]:
    """Each item's positions from indices into the prompt's CLIP tokens, counted from 0 without the start token.

    An item is one index, or several that are averaged. T5's tokens of the same words are added. Raises RegionError for
    an index outside the prompt.
    """
    streams = streams_of(pipe, prompt, t5_length)
    return [find_indices(streams, listed(item)) for item in items]


def item_names(pipe: Any, prompt: str, items: Sequence[int | Sequence[int]]) -> list[str]:
    """The words at the indices of each item, for messages and labels."""
    clip = streams_of(pipe, prompt, 0)[0]
    return [pipe.tokenizer.decode([clip.ids[index] for index in listed(item)]).strip() for item in items]


def listed(item: int | Sequence[int]) -> list[int]:
    """The indices of an item."""
    return [item] if isinstance(item, int) else list(item)


def find_indices(streams: Sequence[TextStream], indices: Sequence[int]) -> tuple[int, ...]:
    """The positions of CLIP token indices, and of the same words in the other encoders' texts."""
    clip = streams[0]
    for index in indices:
        if not 0 <= index < len(clip.ids):
            raise RegionError(
                f"The prompt {clip.text!r} has {len(clip.ids)} tokens, so there is no token {index}; indices count from"
                " 0, without the start token."
            )
    if max(indices) >= len(clip.places):
        raise cut_off(f"Token {max(indices)}", clip.length)
    spans = [span_of_tokens(clip, *run) for run in runs_of(indices)]
    others = [[token for span in spans if span for token in other.tokens(span)] for other in streams[1:]]
    return joined_places(streams, [list(indices), *others])


def streams_of(pipe: Any, prompt: str, t5_length: int) -> list[TextStream]:
    """The parts of a pipeline's context, in order. Raises HostError without a CLIP tokenizer."""
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None:
        raise HostError(f"{type(pipe).__name__} has no tokenizer, so its prompt has no words; give masks instead.")
    streams = [stream_of(tokenizer, prompt, int(tokenizer.model_max_length))]
    if hasattr(pipe, "text_encoder_3"):
        silent = pipe.text_encoder_3 is None or pipe.tokenizer_3 is None
        streams.append(empty_stream(t5_length) if silent else stream_of(pipe.tokenizer_3, prompt, t5_length))
    return streams


def stream_of(tokenizer: Any, prompt: str, length: int) -> TextStream:
    """What a pipeline's encoder reads of a prompt: its first tokens, between a start (CLIP) and an end token."""

    def read(start: int, end: int) -> list[int]:
        return plain_ids(tokenizer, prompt[start:end])

    ids, start = read(0, len(prompt)), len(tokenizer("").input_ids) - 1
    places = range(start, start + max(min(len(ids), length - start - 1), 0))
    return TextStream(prompt, read, ids, places, length, plain_ids(tokenizer, "A") == plain_ids(tokenizer, "a"))


def empty_stream(length: int) -> TextStream:
    """The part of an encoder that a pipeline does not have, and fills with nothing."""
    return TextStream("", lambda *_: [], (), (), length)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text alone, however long."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return ids
