"""Malformed input by the thousand: what a document, a file or an option looks like when something is wrong with it."""

import json
from copy import deepcopy

from hypothesis import strategies as st

HUGE = "@huge@"  # becomes a number of 400 digits in the text
NAN, INFINITE = "@nan@", "@infinite@"
TEXTS = (
    "",
    " ",
    "x",
    "nan",
    "1",
    "a\nb",
    "a\x00b",
    "\u202e",
    "🦊",
    "x" * 5000,
    "../../etc/passwd",
    HUGE,
    NAN,
    INFINITE,
)
NUMBERS = (0, 1, -1, 2, 3, 0.5, -0.5, 1.5, 1e-300, 1e308, -1e308, 2**31, 2**63, -(2**63) - 1, 10**9)

junk = st.recursive(
    st.sampled_from((None, True, False, *TEXTS, *NUMBERS)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("", "a", "kind", "0")), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(document, at=()):
    """The path of every value of a document, itself included."""
    yield at
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places(value, (*at, key))
    elif isinstance(document, list):
        for key, value in enumerate(document):
            yield from places(value, (*at, key))


@st.composite
def mutated(draw, documents):
    """One of some good documents with one to three things changed, removed, added or repeated."""
    document = deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(places(document))))
        if not place:
            if draw(st.integers(0, 9)) == 0:
                return draw(junk)
            continue
        parent = document
        for key in place[:-1]:
            parent = parent[key]
        change(draw, parent, place[-1])
    return document


def change(draw, parent, key):
    kind = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add", "repeat")))
    if kind == "replace":
        parent[key] = draw(junk)
    elif kind == "remove":
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(key, draw(junk) if kind == "add" else deepcopy(parent[key]))
    else:
        parent[draw(st.sampled_from(("extra", "version", "name", ""))) if kind == "add" else f"{key}2"] = draw(junk)


def as_text(document):
    """A document as JSON, with the numbers that Python's own would not write."""
    text = json.dumps(document)
    for mark, number in ((HUGE, "9" * 400), (NAN, "NaN"), (INFINITE, "-Infinity")):
        text = text.replace(f'"{mark}"', number)
    return text


@st.composite
def damaged(draw, contents):
    """The bytes of one of some good files, cut, flipped, repeated, or with other bytes in them."""
    data = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(("cut", "flip", "insert", "repeat")))
        if kind == "cut":
            del data[place:]
        elif kind == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        else:
            data[place:place] = data[place : place + 64]
    return bytes(data)


def is_sentence(error, limit=1500):
    """Whether a message is one line that a person can read."""
    text = str(error)
    return bool(text.strip()) and "\n" not in text and len(text) <= limit and "Traceback" not in text
