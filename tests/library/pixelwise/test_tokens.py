"""Phrases → positions by their place in the text: tokenizers with unknown signs, shared tokens, and bad input."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdiff.tpm.pixelwise.errors import RegionError
from asyncdiff.tpm.pixelwise.tokens import (
    TextStream,
    is_word_edge,
    joined,
    located,
    runs_of,
    span_of_tokens,
    spans_of,
)

UNKNOWN = 0


def words(text):
    """Like CLIP: words and runs of other signs, without case, and all signs known."""
    return [sum(map(ord, piece)) + 1 for piece in re.findall(r"[^\W_]+|[^\w\s]+", text.lower())]


def pieces(text):
    """Like T5: a word has another id behind a space, quotes and commas cling together, and emoji are unknown."""
    found = re.findall(r"\s*[^\W_]+|\s*[,.\"]+|\s*[^\w\s,.\"]+", " " + text.strip() if text.strip() else "")
    return [UNKNOWN if ord(max(piece)) > 0x2000 else sum(ord(c) * 7**n for n, c in enumerate(piece)) for piece in found]


def stream(text, tokenize=words, length=20, start=1, folds=True, known=None):
    def read(start, end):
        return tokenize(text[start:end])

    ids = tokenize(text)
    known = len(ids) if known is None else known
    return TextStream(text, read, ids, range(start, start + known), length, folds)


def t5(text, **options):
    return stream(text, pieces, start=0, folds=False, **options)


# ------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("a cat and a cat", "cat", [(2, 5), (12, 15)]),
        ("a  red\ncircle", "red circle", [(3, 13)]),
        ("concatenate cats", "cat", []),
        ("cat cat cat cat", "cat cat", [(0, 7), (8, 15)]),
        ("the dog's bone", "dog", [(4, 7)]),
        ("a cat,dog", "dog", [(6, 9)]),
        ("hot-dog", "dog", [(4, 7)]),
        ("一只猫和一只狗", "猫", [(2, 3)]),
        ("a 👩\u200d🚀 and a 👩", "👩", [(12, 13)]),
        ("👍🏽 👍", "👍", [(3, 4)]),
        ("flag 🇫🇷", "🇫", []),
        ("cafe\u0301", "cafe", []),
        ("a cat", " ", []),
        ("a.b a+b", "a.b", [(0, 3)]),
    ],
)
def test_a_phrase_is_found_as_whole_words(text, phrase, found):
    assert spans_of(text, phrase) == found


def test_edges_of_words_and_runs():
    assert [place for place in range(8) if is_word_edge("ab 12-x", place)] == [0, 2, 3, 5, 6, 7]
    assert runs_of([3, 1, 2, 7, 5, 8]) == [(1, 3), (5, 5), (7, 8)]


# ------------------------------------------------------------------------------------------------------------ tokens


@pytest.mark.parametrize("make", [stream, t5])
@pytest.mark.parametrize(
    ("text", "phrase", "token"),
    [
        ("a cat and a dog", "dog", 4),
        ('says "hello world"', "hello world", 2),
        ("a cat,dog", "dog", 3),
        ("a cat,dog", "cat", 1),
        ("dog", "dog", 0),
    ],
)
def test_a_phrase_is_found_whatever_is_beside_it(make, text, phrase, token):
    found = make(text)
    [positions] = located([found], [(phrase, 1)])
    assert positions[0] == found.places[token]
    assert len(positions) == len(phrase.split())


def test_unknown_signs_are_told_apart_by_their_place():
    found = t5("a 🦊 and a 🐱")
    assert located([found], [("🦊", 1), ("🐱", 1)]) == [(1,), (4,)]
    with pytest.raises(RegionError, match="'🐶' is not in the prompt"):
        located([found], [("🐶", 1)])


@pytest.mark.parametrize("phrase", ["🦊", "🐱"])
def test_signs_that_share_a_token_are_refused_and_the_whole_is_found(phrase):
    found = t5("a 🦊🐱 here")
    with pytest.raises(RegionError, match=f"reads '{phrase}' together with its neighbours"):
        located([found], [(phrase, 1)])
    assert located([found], [("🦊🐱", 1)]) == [(1,)]


def test_a_token_may_hold_punctuation_beside_the_phrase():
    found = t5('(cat),"dog".')
    [positions] = located([found], [('"dog"', 1)])
    assert positions == (3, 4, 5)


def test_positions_of_several_encoders_are_joined():
    text = "a cat and a cat"
    assert located([stream(text), t5(text)], [("cat", 1), ("cat", 2)]) == [(2, 21), (5, 24)]
    assert located([t5("a 🦊🐱"), stream("a 🦊🐱")], [("🦊🐱", 1)]) == [(1, 22)]
    assert joined([(77, (2, 3)), (77, ()), (256, (0, 1))]) == (2, 3, 154, 155)
    with pytest.raises(RegionError, match="77 tokens"):
        joined([(77, (80,))])


def test_case_counts_where_the_tokenizer_tells_it():
    text = "a Cat and a cat"
    both = [stream(text), t5(text)]
    assert located(both, [("cat", 1), ("cat", 2)]) == [(5, 24), (2,)]
    assert located(both, [("CAT", 1)]) == [(2,)]
    with pytest.raises(RegionError, match="not in the prompt"):
        located([t5(text)], [("CAT", 1)])


def test_an_encoder_that_cuts_the_phrase_off_is_left_out():
    text = "a cat and a dog"
    assert located([stream(text, known=3), t5(text)], [("dog", 1)]) == [(24,)]
    with pytest.raises(RegionError, match="'dog' stands behind the 20 tokens"):
        located([stream(text, known=4)], [("dog", 1)])


@pytest.mark.parametrize(
    ("phrase", "occurrence", "reason"),
    [
        ("horse", 1, "'horse' is not in the prompt"),
        ("cat", 3, r"'cat' occurs 2 time\(s\) in the prompt, not 3"),
        ("cat", 0, "count from 1"),
        ("", 1, "'' is not in the prompt"),
    ],
)
def test_an_absent_phrase_is_named(phrase, occurrence, reason):
    with pytest.raises(RegionError, match=reason):
        located([stream("a cat and a cat")], [(phrase, occurrence)])


def test_tokens_have_a_place_in_the_text():
    found = stream("a red circle")
    assert span_of_tokens(found, 1, 2) == (2, 12)
    assert found.tokens((2, 12)) == (1, 2)
    assert span_of_tokens(t5("a 🦊🐱"), 5, 5) is None


@given(words=st.lists(st.sampled_from(["cat", "dog", "red", "🦊", "very big"]), min_size=1, max_size=8), data=st.data())
def test_whatever_is_in_the_prompt_is_found(words, data):
    start = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(start + 1, len(words)))
    text, phrase = " ".join(words), " ".join(words[start:end])
    for make in (stream, t5):
        found = make(text)
        [positions] = located([found], [(phrase, 1)])
        alone = make(phrase)
        assert [found.ids[place - found.places[0]] for place in positions] == list(alone.ids)
