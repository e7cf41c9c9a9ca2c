"""The things that a prompt names, found without a language model: runs of words between function words and verbs.

A guess that a person can overrule by naming the items. The last word of a run is its noun, as in AsynDM's files.
"""

from __future__ import annotations

import re
from itertools import pairwise


def word_set(*lines: str) -> frozenset[str]:
    """The words of all lines."""
    return frozenset(" ".join(lines).split())


FUNCTION_WORDS = word_set(
    "a an the this that these those some any each every another other all both several many few no one two three four",
    "five six seven eight nine ten and or but nor so yet as of on in at by to from with without into onto over under",
    "underneath beneath above below between among through across along around behind beside besides near next left",
    "right inside outside against before after during for toward towards upon within up down off out is are was were",
    "be been being am has have had do does did can could will would shall should may might must it its his her",
    "hers their theirs they them he she him who whom whose which what where when while there here very too also only",
    "just not i you we my your our together apart top bottom front back side",
)
VERBS = word_set(
    "sits stands stand lies lie rides eats drives plays holds wears flies runs walks jumps looks filled covered made",
    "housed parked seen shown placed named called surrounded dressed topped",
)
MEDIA = word_set(
    "photo photograph picture image painting drawing illustration sketch rendering render portrait view shot closeup",
    "close-up pair group set bunch piece kind type style row rows emoji page",
)
NOUNS_IN_ING = word_set("building ceiling king ring wing string spring thing painting evening morning clothing drawing")
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def noun_phrases(prompt: str) -> list[str]:
    """The runs of content words of a prompt, as they stand there, without repeats; [] where there is none."""
    runs: list[list[str]] = [[]]
    for part in re.split(r"[,.;:!?()\[\]\"]", prompt):
        words = [*WORD.findall(part), "and"]
        for word, following in pairwise(words):
            if is_break(word.lower(), following.lower()):
                runs.append([])
            else:
                runs[-1].append(word)
        runs.append([])
    named = [" ".join(run) for run in runs if run and run[-1].lower() not in MEDIA]
    return list(dict.fromkeys(named))


def nouns(prompt: str) -> list[str]:
    """The last word of every noun phrase."""
    return list(dict.fromkeys(phrase.split()[-1] for phrase in noun_phrases(prompt)))


def is_break(word: str, following: str) -> bool:
    """Whether a word ends a noun phrase: "striped" does before "by", not before "cat"."""
    if word in FUNCTION_WORDS or word in VERBS:
        return True
    doing = word.endswith("ing") and len(word) >= 5 and word not in NOUNS_IN_ING
    return doing or (word.endswith("ed") and len(word) >= 5 and following in FUNCTION_WORDS - {"and", "or"})
