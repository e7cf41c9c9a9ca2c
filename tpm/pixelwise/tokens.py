"""From a phrase to the positions of its tokens in what a network gets, by the phrase's place in the prompt's text.

A tokenizer is asked for the ids of parts of the prompt, and never for those of the phrase alone: a word has other ids
behind a quote or a comma than at the start of a text, and unknown signs all have the same one. No tokenizer is
imported: the hosts hand over a function.

A token begins at a place of the text where the ids up to there are the first ones of the whole, or the ids from there
on its last ones, and where the word or sign on the other side of the place has a token of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .errors import RegionError

Span = tuple[int, int]  # where a phrase begins in a text, and where it ends
Read = Callable[[int, int], Sequence[int]]
"""The ids of a prompt's text from one place to another, without start, end, padding and template tokens."""

JOINER = "\u200d"  # makes one emoji of its two neighbours


@dataclass(frozen=True)
class TextStream:
    """What one text encoder reads of a prompt.

    text: the prompt without what its tokenizer takes for weights. ids: its tokens. places: where each of them is in
    this encoder's part of the context; shorter than the ids where the encoder cuts the text off. length: the tokens of
    that part, padding included. folds_case: whether "Cat" and "cat" are the same to the tokenizer.
    """

    text: str
    read: Read
    ids: Sequence[int]
    places: Sequence[int]
    length: int
    folds_case: bool = False

    def spans(self, phrase: str) -> list[Span]:
        """Where a phrase stands in the text: as it is written and, for a tokenizer that folds case, in any case."""
        exact = spans_of(self.text, phrase)
        return exact + [span for span in spans_of(self.text, phrase, self.folds_case) if span not in exact]

    def tokens(self, span: Span) -> tuple[int, ...]:
        """The indices, among the ids of the text, of the tokens that hold a span and no other word; () without such."""
        start, end = self._edge(span[0], -1), self._edge(span[1], 1)
        return () if start is None or end is None else tuple(range(start, end))

    def _edge(self, place: int, direction: int) -> int | None:
        """The tokens before a place, or before the nearest one in a direction with only punctuation in between."""
        while (found := self.tokens_before(place)) is None:
            sign = self.text[place - 1 : place] if direction < 0 else self.text[place : place + 1]
            if not is_punctuation(sign):
                return None
            place += direction
        return found

    def tokens_before(self, place: int) -> int | None:
        """How many tokens the text has before a place; None where a token lies across it.

        A space belongs to the token behind it, or to the one before it.
        """
        words, rest = len(self.text[:place].rstrip()), self.text[place:]
        found = self._tokens_before(words)
        return found if found is not None else self._tokens_before(place + len(rest) - len(rest.lstrip()))

    def _tokens_before(self, place: int) -> int | None:
        whole, before, behind = list(self.ids), list(self.read(0, place)), list(self.read(place, len(self.text)))
        if not before or not behind:
            return 0 if not before else len(whole)
        if whole[: len(before)] == before and len(self.read(0, self._next(place))) > len(before):
            return len(before)
        if whole[-len(behind) :] == behind and len(self.read(self._previous(place), len(self.text))) > len(behind):
            return len(whole) - len(behind)
        return None

    def _next(self, place: int) -> int:
        """The place behind the next word or sign."""
        rest = self.text[place:]
        place += len(rest) - len(rest.lstrip()) + 1
        while not is_word_edge(self.text, place):
            place += 1
        return place

    def _previous(self, place: int) -> int:
        """The place before the last word or sign."""
        place -= 1
        while not is_word_edge(self.text, place):
            place -= 1
        return place


def located(streams: Sequence[TextStream], phrases: Sequence[tuple[str, int]]) -> list[tuple[int, ...]]:
    """The positions of every (phrase, occurrence counted from 1) in the joined context of all encoders, in their order.

    A phrase that only some encoders see is taken from those. Raises RegionError that names a phrase which is not in the
    prompt, not that often, is cut off, or shares its tokens with its neighbours.
    """
    return [located_one(streams, *phrase) for phrase in phrases]


def located_one(streams: Sequence[TextStream], phrase: str, occurrence: int = 1) -> tuple[int, ...]:
    """The positions of one phrase; see `located`."""
    if occurrence < 1:
        raise RegionError(f"The occurrences of {phrase!r} count from 1, not {occurrence}.")
    spans = [stream.spans(phrase)[occurrence - 1 : occurrence] for stream in streams]
    if not any(spans):
        raise not_found(phrase, occurrence, max((len(stream.spans(phrase)) for stream in streams), default=0))
    found = [stream.tokens(*span) if span else () for stream, span in zip(streams, spans, strict=True)]
    positions = joined_places(streams, found)
    if positions:
        return positions
    if any(found):
        raise cut_off(phrase, max(stream.length for stream, tokens in zip(streams, found, strict=True) if tokens))
    raise RegionError(
        f"The tokenizer of this model reads {phrase!r} together with its neighbours, so that it has no tokens of its"
        " own: name the whole, write a space between them, or draw a mask."
    )


def joined_places(streams: Sequence[TextStream], found: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The positions in the joined context of the tokens found in each encoder's text; none where any is cut off."""
    read = [
        [stream.places[token] for token in tokens] if not tokens or tokens[-1] < len(stream.places) else []
        for stream, tokens in zip(streams, found, strict=True)
    ]
    return joined([(stream.length, places) for stream, places in zip(streams, read, strict=True)])


def joined(streams: Sequence[tuple[int, Sequence[int]]]) -> tuple[int, ...]:
    """Positions in a context that joins text encoders, from (length, positions) of each in order.

    SD3 and SD3.5: the CLIP chunks (77 tokens each), then T5. An encoder that does not have the phrase gives ().
    """
    positions: list[int] = []
    offset = 0
    for length, found in streams:
        if any(not 0 <= place < length for place in found):
            raise RegionError(f"The positions {list(found)} do not lie within a text of {length} tokens.")
        positions += [offset + place for place in found]
        offset += length
    return tuple(positions)


def span_of_tokens(stream: TextStream, first: int, last: int) -> Span | None:
    """The place in the text of the tokens first … last of a stream; None where they are parts of characters."""
    before = [stream.tokens_before(place) for place in range(len(stream.text) + 1)]
    starts = [place for place, count in enumerate(before) if count == first]
    ends = [place for place, count in enumerate(before) if count == last + 1]
    return (starts[-1], ends[0]) if starts and ends else None


# --- words in a text ----------------------------------------------------------------------------------------------


def spans_of(text: str, phrase: str, any_case: bool = False) -> list[Span]:
    """Where a phrase stands in a text as whole words, in order and without overlaps. Any white space is alike."""
    words = [re.escape(word) for word in phrase.split()]
    if not words:
        return []
    pattern = re.compile("(?=(" + r"\s+".join(words) + "))", re.IGNORECASE if any_case else 0)
    spans = [match.span(1) for match in pattern.finditer(text)]
    found: list[Span] = []
    for start, end in spans:
        free = not found or start >= found[-1][1]
        if free and is_word_edge(text, start) and is_word_edge(text, end):
            found.append((start, end))
    return found


def is_word_edge(text: str, place: int) -> bool:
    """Whether a word may begin or end before text[place]: not within a word, a number, or a sign of several parts."""
    if not 0 < place < len(text):
        return True
    before, after = text[place - 1], text[place]
    if extends(after) or before == JOINER or (is_flag(before) and is_flag(after)):
        return False
    within = all(each.isalnum() or each == "_" for each in (before, after))
    return not within or any(unicodedata.category(each) == "Lo" for each in (before, after))  # scripts without spaces


def extends(sign: str) -> bool:
    """Whether a sign belongs to the one before it: accents, joiners, variants and skin colours of emoji."""
    return unicodedata.category(sign) in ("Mn", "Mc", "Me") or sign == JOINER or "\U0001f3fb" <= sign <= "\U0001f3ff"


def is_flag(sign: str) -> bool:
    """Whether this is a half of an emoji of a flag."""
    return "\U0001f1e6" <= sign <= "\U0001f1ff"


def is_punctuation(sign: str) -> bool:
    """Whether this is one sign that may share a token with a word and says nothing of its own."""
    return bool(sign) and (unicodedata.category(sign).startswith("P") or (sign.isascii() and not sign.isalnum()))


def runs_of(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Whole numbers in ascending order as runs (first, last) without gaps."""
    ordered = sorted(numbers)
    breaks = [n for n, (one, other) in enumerate(pairwise(ordered), start=1) if other > one + 1]
    return [(ordered[start], ordered[end - 1]) for start, end in pairwise([0, *breaks, len(ordered)])]


# --- errors -------------------------------------------------------------------------------------------------------


def not_found(phrase: str, occurrence: int, times: int) -> RegionError:
    """The error for a phrase that occurs so many times, and not this often."""
    if not times:
        return RegionError(f"The phrase {phrase!r} is not in the prompt; write it as it stands there.")
    return RegionError(f"The phrase {phrase!r} occurs {times} time(s) in the prompt, not {occurrence}.")


def cut_off(phrase: str, length: int) -> RegionError:
    """The error for words that the text encoder does not read."""
    return RegionError(f"{phrase!r} stands behind the {length} tokens that the text encoder reads; shorten the prompt.")
