"""The closed vocabulary of the embedded world: what a caption may say, and how it is read back.

A caption names one or two objects (size, pattern, colour, shape), their relation and a background::

    a large striped red circle above a small blue square on a starry background

Whatever a caption leaves out is free: the world draws it at random and the judge does not ask for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import AsyncDiffError
from ..suggestions import did_you_mean

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple")
PATTERNS = ("solid", "striped", "dotted", "checkered")
SIZES = ("small", "large")
LAYOUTS = ("single", "horizontal", "vertical")
BACKGROUNDS = ("plain", "starry", "confetti", "cloudy")

SYNONYMS = {
    "disc": "circle",
    "box": "square",
    "plus": "cross",
    "donut": "ring",
    "violet": "purple",
    "big": "large",
    "little": "small",
    "tiny": "small",
    "filled": "solid",
    "stripy": "striped",
    "spotted": "dotted",
    "checked": "checkered",
    "night": "starry",
    "stars": "starry",
    "clouds": "cloudy",
    "empty": "plain",
    "over": "above",
    "under": "below",
    "beside": "next",
}
RELATIONS = ("left", "right", "above", "below", "next", "and")
FILLERS = (
    "a",
    "an",
    "the",
    "of",
    "to",
    "on",
    "in",
    "with",
    "photo",
    "picture",
    "drawing",
    "image",
    "background",
    "sky",
)
WORDS = tuple(
    sorted({*SHAPES, *COLORS, *PATTERNS, *SIZES, *BACKGROUNDS, *RELATIONS, *FILLERS, *SYNONYMS, *SYNONYMS.values()})
)


class PromptError(AsyncDiffError):
    """A prompt that the embedded pipeline cannot read."""


@dataclass(frozen=True)
class ObjectWords:
    """What a caption says of one object; ``None`` where it says nothing."""

    shape: str
    color: str | None = None
    pattern: str | None = None
    size: str | None = None

    @property
    def said(self) -> dict[str, str]:
        """The words by kind. Where no pattern is named it is solid: captions always name a pattern that is not."""
        words = {"shape": self.shape, "color": self.color, "pattern": self.pattern or "solid", "size": self.size}
        return {kind: word for kind, word in words.items() if word is not None}


@dataclass(frozen=True)
class Reading:
    """A caption read back: objects in the order of mention, their relation and the background."""

    objects: tuple[ObjectWords, ...]
    relation: str | None = None
    background: str | None = None


def words_of(prompt: str) -> list[str]:
    """Lower-case words of ``prompt``, punctuation dropped."""
    return re.findall(r"[^\W_]+", prompt.lower())


def check_prompt(prompt: str, advice: str = "") -> str:
    """The words of ``prompt`` alone, for which the tokenizer has tokens; it may be empty.

    Raises :class:`PromptError`, with ``advice`` at its end, when a word is outside the closed vocabulary.
    """
    words = words_of(prompt)
    unknown = [word for word in dict.fromkeys(words) if word not in WORDS]
    if not unknown:
        return " ".join(words)
    named = ", ".join(f'"{word}"{did_you_mean(word, WORDS)}' for word in unknown)
    raise PromptError(
        f"The embedded pipeline knows a closed vocabulary, and not: {named}.\n"
        f"  shapes: {', '.join(SHAPES)}\n  colours: {', '.join(COLORS)}\n  patterns: {', '.join(PATTERNS)}\n"
        f"  sizes: {', '.join(SIZES)}\n  relations: left of, right of, above, below, next to, and\n"
        f"  backgrounds: {', '.join(BACKGROUNDS)}\n"
        f'Example: "a large striped red circle above a small blue square on a starry background". {advice}'.rstrip()
    )


def check_caption(prompt: str, objects: int, advice: str = "") -> str:
    """The words of a caption that a world of so many objects can draw, and its judge read; it may be empty.

    Raises :class:`PromptError` for what `check_prompt` refuses, no object or too many, two words of a kind for one
    object or for the background, words that describe no object, and a relation without a second object.
    """
    words = check_prompt(prompt, advice)
    wrong = _undrawable([SYNONYMS.get(word, word) for word in words.split()], objects)
    if words and wrong:
        raise PromptError(f"The embedded pipeline cannot draw {words!r}: {wrong}.")
    return words


def _undrawable(words: Sequence[str], objects: int) -> str | None:
    """What is wrong with a caption, or None."""
    shapes = [word for word in words if word in SHAPES]
    if not shapes:
        return f"it names no object; name one of {', '.join(SHAPES)}"
    if len(shapes) > objects:
        return f"it names {len(shapes)} objects ({', '.join(shapes)}), and a picture has at most {objects}"
    return _misplaced(words) or _contradictory(words, len(shapes))


def _misplaced(words: Sequence[str]) -> str | None:
    """What is wrong with the adjectives."""
    described: dict[str, str] = {}
    for word in words:
        kind = next((kind for kind, members in _DESCRIBING.items() if word in members), None)
        if word in SHAPES:
            described = {}
        elif kind is not None and described.setdefault(kind, word) != word:
            return f"one object cannot be {described[kind]} and {word}"
    if described:
        return f"{' '.join(described.values())!r} describes no object; adjectives stand before their object"
    return None


def _contradictory(words: Sequence[str], objects: int) -> str | None:
    """What is wrong with the background and the relation."""
    backgrounds = list(dict.fromkeys(word for word in words if word in BACKGROUNDS))
    if len(backgrounds) > 1:
        return f"one background cannot be {backgrounds[0]} and {backgrounds[1]}"
    related = next((word for word in words if word in ("left", "right", "above", "below")), None)
    if related and objects < 2:
        return f"{related!r} needs a second object"
    return None


_DESCRIBING = {"colour": COLORS, "pattern": PATTERNS, "size": SIZES}


def object_phrases(prompt: str) -> list[str]:
    """The words of each object of a caption as they stand there: its adjectives and its shape."""
    phrases: list[str] = []
    run: list[str] = []
    for word in words_of(prompt):
        meaning = SYNONYMS.get(word, word)
        run = [*run, word] if meaning in (*SIZES, *PATTERNS, *COLORS, *SHAPES) else []
        if meaning in SHAPES:
            phrases.append(" ".join(run))
            run = []
    return list(dict.fromkeys(phrases))


def read(prompt: str) -> Reading:
    """Read a caption: adjectives belong to the next shape, relation words stand between two shapes."""
    objects: list[ObjectWords] = []
    adjectives: dict[str, str] = {}
    relation = background = None
    for word in (SYNONYMS.get(w, w) for w in words_of(prompt)):
        if word in SHAPES:
            objects.append(ObjectWords(word, **adjectives))
            adjectives = {}
        elif word in BACKGROUNDS:
            background = word
        elif word in RELATIONS and len(objects) == 1:
            relation = relation if word in ("next", "and") and relation else word
        for kind, members in (("color", COLORS), ("pattern", PATTERNS), ("size", SIZES)):
            if word in members:
                adjectives[kind] = word
    return Reading(tuple(objects), relation if len(objects) > 1 else None, background)
