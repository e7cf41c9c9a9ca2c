"""Items of a prompt → their token positions, by the tokenizers of a diffusers pipeline and the order it joins them in.

SD1.x, SD2.x: one CLIP text. SDXL: two CLIP texts side by side, the same positions. SD3 and SD3.5: the CLIP tokens
first, then T5's, which have no BOS. An item is a phrase, or token indices as AsynDM's files give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import HostError
from ...pixelwise.errors import RegionError
from ...pixelwise.phrases import joined, occurrences, phrase_tokens

T5_LENGTH = 256  # diffusers' max_sequence_length


@dataclass(frozen=True)
class Stream:
    """One tokenizer's part of the context, for one prompt."""

    tokenizer: Any
    length: int  # of this part of the context, padding included
    ids: tuple[int, ...]  # of the prompt, cut to the length, with BOS, EOS and padding
    whole: tuple[int, ...]  # of the prompt without any of that

    @property
    def special(self) -> frozenset[int]:
        """BOS, EOS, padding."""
        return frozenset(self.tokenizer.all_special_ids)

    def find(self, phrase: str, occurrence: int = 1) -> tuple[int, ...]:
        """The positions of a phrase; see `phrases.phrase_tokens`."""
        return phrase_tokens(phrase, plain_ids(self.tokenizer, phrase), self.ids, self.special, occurrence)


def item_tokens(
    pipe: Any, prompt: str, phrases: Sequence[str], *, occurrence: int = 1, t5_length: int = T5_LENGTH
) -> list[tuple[int, ...]]:
    """Each phrase's positions in the joined context of a prompt: its occurrence-th place in every text.

    t5_length: the `max_sequence_length` of the run (SD3). A phrase must be in one of the texts. Raises RegionError,
    naming the phrase, when it is in none or is cut off; HostError when the pipeline has no tokenizer.
    """
    streams = streams_of(pipe, prompt, t5_length)
    return [find_phrase(streams, phrase, occurrence) for phrase in phrases]


def indexed_tokens(
    pipe: Any, prompt: str, items: Sequence[int | Sequence[int]], *, t5_length: int = T5_LENGTH
) -> list[tuple[int, ...]]:
    """Each item's positions from indices into the prompt's CLIP tokens, counted from 0 without BOS.

    An item is one index, or several that are averaged. Where T5 has the same words, its tokens are added. Raises
    RegionError for an index outside the prompt.
    """
    streams = streams_of(pipe, prompt, t5_length)
    return [find_indices(streams, prompt, [item] if isinstance(item, int) else list(item)) for item in items]


def item_names(pipe: Any, prompt: str, items: Sequence[int | Sequence[int]]) -> list[str]:
    """The words at the indices of each item, for messages and labels."""
    clip = streams_of(pipe, prompt, 0)[0]
    listed = [[item] if isinstance(item, int) else list(item) for item in items]
    return [clip.tokenizer.decode([clip.whole[index] for index in indices]).strip() for indices in listed]


def find_phrase(streams: Sequence[Stream], phrase: str, occurrence: int = 1) -> tuple[int, ...]:
    """The positions of a phrase in all streams that have it."""
    tries = [look_up(stream, phrase, occurrence) for stream in streams]
    if not any(places for places, _ in tries):
        check_not_cut(streams[0], phrase)
        raise next(error for _, error in tries if error is not None)
    return joined([(stream.length, places) for stream, (places, _) in zip(streams, tries, strict=True)])


def look_up(stream: Stream, phrase: str, occurrence: int) -> tuple[tuple[int, ...], RegionError | None]:
    """The positions of a phrase in one stream, or () and why."""
    if not stream.ids:
        return (), None
    try:
        return stream.find(phrase, occurrence), None
    except RegionError as error:
        return (), error


def find_indices(streams: Sequence[Stream], prompt: str, indices: Sequence[int]) -> tuple[int, ...]:
    """The positions of CLIP token indices, and of the same words in the other streams."""
    clip = streams[0]
    for index in indices:
        if not 0 <= index < len(clip.whole):
            raise RegionError(
                f"The prompt {prompt!r} has {len(clip.whole)} tokens, so there is no token {index}; indices count from"
                " 0, without the start token."
            )
    places = tuple(index + 1 for index in indices)  # behind BOS
    if max(places) >= clip.length - 1:
        raise cut_off(clip.tokenizer.decode([clip.whole[max(indices)]]), clip.length)
    found = [places] + [same_words(clip, other, indices) for other in streams[1:]]
    return joined([(stream.length, each) for stream, each in zip(streams, found, strict=True)])


def same_words(clip: Stream, other: Stream, indices: Sequence[int]) -> tuple[int, ...]:
    """Where another stream has the words at these CLIP tokens; () where it cuts words in another way."""
    wanted = [clip.whole[index] for index in indices]
    before = occurrences(clip.whole[: indices[0]], wanted)
    return look_up(other, clip.tokenizer.decode(wanted).strip(), len(before) + 1)[0]


def streams_of(pipe: Any, prompt: str, t5_length: int) -> list[Stream]:
    """The parts of a pipeline's context, in order. Raises HostError without a CLIP tokenizer."""
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None:
        raise HostError(f"{type(pipe).__name__} has no tokenizer, so its prompt has no words; give masks instead.")
    streams = [stream_of(tokenizer, prompt, int(tokenizer.model_max_length))]
    if hasattr(pipe, "text_encoder_3"):
        silent = pipe.text_encoder_3 is None or pipe.tokenizer_3 is None
        streams.append(Stream(None, t5_length, (), ()) if silent else stream_of(pipe.tokenizer_3, prompt, t5_length))
    return streams


def stream_of(tokenizer: Any, prompt: str, length: int) -> Stream:
    """What a pipeline's encoder is given."""
    if length < 1:
        return Stream(tokenizer, 0, (), ())
    cut = tokenizer(prompt, padding="max_length", max_length=length, truncation=True)
    return Stream(tokenizer, length, tuple(cut.input_ids), tuple(plain_ids(tokenizer, prompt)))


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text alone, however long."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return ids


def check_not_cut(stream: Stream, phrase: str) -> None:
    """Raise RegionError when a phrase stands in the prompt, but behind what the encoder reads."""
    wanted = plain_ids(stream.tokenizer, phrase)
    if wanted and occurrences(stream.whole, wanted) and not occurrences(stream.ids, wanted):
        raise cut_off(phrase, stream.length)


def cut_off(phrase: str, length: int) -> RegionError:
    """The error for words that the text encoder does not read."""
    return RegionError(f"{phrase!r} stands behind the {length} tokens that the text encoder reads; shorten the prompt.")
