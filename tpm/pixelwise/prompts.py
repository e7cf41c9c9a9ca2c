"""Phrases → positions in the text that a network gets, from the ids of one or several tokenizers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .errors import RegionError
from .phrases import joined, not_found, places_of

OTHER = -1  # an entry that is no word: a learned embedding, or the frame around the prompt


@dataclass(frozen=True)
class Stream:
    """One text encoder's share of the context: the ids of a prompt, and of the phrases it is searched for.

    variants: for each phrase the ids that it may have there, with and without a space before it, say. special: ids of
    BOS, EOS and padding.
    """

    prompt: tuple[int, ...]
    variants: tuple[tuple[tuple[int, ...], ...], ...]
    special: frozenset[int]

    def find(self, number: int, occurrence: int) -> tuple[int, ...]:
        """The positions of the n-th occurrence, counted from 1, of phrase `number`; () where there are fewer."""
        found = self._places(number)
        return found[occurrence - 1] if occurrence <= len(found) else ()

    def count(self, number: int) -> int:
        """How often phrase `number` occurs."""
        return len(self._places(number))

    def _places(self, number: int) -> list[tuple[int, ...]]:
        """The positions of every occurrence of phrase `number`, in order."""
        return sorted({place for ids in self.variants[number] for place in places_of(ids, self.prompt, self.special)})


def located(streams: Sequence[Stream], phrases: Sequence[tuple[str, int]]) -> list[tuple[int, ...]]:
    """The positions of every (phrase, occurrence) in the joined context of all streams.

    A phrase that only some encoders see whole is taken from those. Raises RegionError that names a phrase which is not
    in the prompt, or not that often.
    """
    return [located_one(streams, number, *phrase) for number, phrase in enumerate(phrases)]


def located_one(streams: Sequence[Stream], number: int, phrase: str, occurrence: int) -> tuple[int, ...]:
    """See `located`."""
    if occurrence < 1:
        raise RegionError(f"The occurrences of {phrase!r} count from 1, not {occurrence}.")
    found = [(len(stream.prompt), stream.find(number, occurrence)) for stream in streams]
    positions = joined(found)
    if positions:
        return positions
    raise not_found(phrase, occurrence, max((stream.count(number) for stream in streams), default=0))


def framed(prompt: Sequence[int], empty: Sequence[int], special: Collection[int] = ()) -> tuple[int, ...]:
    """A prompt inside a chat template with the template blanked out; `empty` is the template alone.

    special: padding, which is none of both.
    """
    places = [place for place, token in enumerate(prompt) if token not in special]
    words, frame = [prompt[place] for place in places], [token for token in empty if token not in special]
    before = shared(words, frame)
    after = shared(words[before:][::-1], frame[before:][::-1])
    inside = set(places[before : len(places) - after])
    return tuple(token if place in inside or token in special else OTHER for place, token in enumerate(prompt))


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
