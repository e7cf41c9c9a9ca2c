"""From a phrase to its tokens, by what the tokenizer really gave. Plain lists of ids; no tokenizer is imported."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .errors import RegionError


def phrase_tokens(
    phrase: str,
    phrase_ids: Sequence[int],
    prompt_ids: Sequence[int],
    special: Collection[int] = (),
    occurrence: int = 1,
) -> tuple[int, ...]:
    """The positions in `prompt_ids` of the n-th occurrence of a phrase, counted from 1.

    phrase_ids, prompt_ids: the tokenizer's output for the phrase and for the whole prompt (several chunks in a row are
    fine). special: BOS, EOS and padding ids, ignored in both; positions still count them, so BOS shifts by itself.
    Raises RegionError naming the phrase when it has no tokens or does not occur that often.
    """
    if all(token in special for token in phrase_ids):
        raise RegionError(f"The phrase {phrase!r} has no tokens; name a word of the prompt.")
    found = places_of(phrase_ids, prompt_ids, special)
    if not 1 <= occurrence <= len(found):
        raise not_found(phrase, occurrence, len(found))
    return found[occurrence - 1]


def places_of(phrase_ids: Sequence[int], prompt_ids: Sequence[int], special: Collection[int]) -> list[tuple[int, ...]]:
    """The positions of every occurrence of a phrase, in order; see `phrase_tokens`."""
    wanted = [token for token in phrase_ids if token not in special]
    if not wanted:
        return []
    places = [place for place, token in enumerate(prompt_ids) if token not in special]
    starts = occurrences([prompt_ids[place] for place in places], wanted)
    return [tuple(places[start : start + len(wanted)]) for start in starts]


def not_found(phrase: str, occurrence: int, times: int) -> RegionError:
    """The error for a phrase that occurs so many times, and not this often."""
    if not times:
        return RegionError(f"The phrase {phrase!r} is not in the prompt; write it as it stands there.")
    return RegionError(f"The phrase {phrase!r} occurs {times} time(s) in the prompt, not {occurrence}.")


def occurrences(tokens: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Where the sequence `wanted` begins in `tokens`; occurrences do not overlap."""
    found: list[int] = []
    for start in range(len(tokens) - len(wanted) + 1):
        free = not found or start >= found[-1] + len(wanted)
        if free and list(tokens[start : start + len(wanted)]) == list(wanted):
            found.append(start)
    return found


def joined(streams: Sequence[tuple[int, Sequence[int]]]) -> tuple[int, ...]:
    """Positions in a context that joins text encoders, from (length, positions) of each in order.

    SD3 and SD3.5: the CLIP chunks (77 tokens each), then T5. A stream that the phrase was not looked up in gives ().
    """
    positions: list[int] = []
    offset = 0
    for length, found in streams:
        if any(not 0 <= place < length for place in found):
            raise RegionError(f"The positions {list(found)} do not lie within a text of {length} tokens.")
        positions += [offset + place for place in found]
        offset += length
    return tuple(positions)
