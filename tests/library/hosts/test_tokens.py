"""Items of a prompt → token positions, with real tokenizer classes; and the things that a prompt names."""

from types import SimpleNamespace

import pytest

pytest.importorskip("diffusers")

from asyncdiff.tpm.embedded.vocabulary import object_phrases
from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.hosts.diffusers.tokens import indexed_tokens, item_names, item_tokens
from asyncdiff.tpm.pixelwise.errors import RegionError
from asyncdiff.tpm.pixelwise.nouns import noun_phrases, nouns

PROMPT = "a large striped red circle above a small red square"
CLIP = 24  # tokens of the embedded tokenizer


@pytest.fixture(scope="module")
def clip():
    from asyncdiff.tpm.embedded.text import new_tokenizer

    return new_tokenizer(24)


def t5():
    """T5's tokenizer class: pieces that begin with ▁, an end token, no start token."""
    from transformers import T5Tokenizer

    words = ["▁a", "▁large", "▁striped", "▁red", "▁cir", "cle", "▁above", "▁small", "▁square", "▁Red"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -1.0) for word in words)]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def sd3(clip, third=None):
    return SimpleNamespace(tokenizer=clip, tokenizer_3=third, text_encoder_3=third and object())


def test_one_clip_text_begins_with_a_start_token(clip):
    tokens = item_tokens(SimpleNamespace(tokenizer=clip), PROMPT, ["striped red circle", "square"])
    assert tokens == [(3, 4, 5), (10,)]
    assert item_tokens(SimpleNamespace(tokenizer=clip), PROMPT, ["red"], occurrence=2) == [(9,)]


def test_sd3_has_clip_first_and_then_t5_without_a_start_token(clip):
    tokens = item_tokens(sd3(clip, t5()), PROMPT, ["circle", "red"], t5_length=12)
    assert tokens == [(5, CLIP + 4, CLIP + 5), (4, CLIP + 3)]
    assert item_tokens(sd3(clip), PROMPT, ["circle"], t5_length=12) == [(5,)]
    assert item_tokens(sd3(clip), PROMPT, ["circle"], t5_length=0) == [(5,)]


def test_a_phrase_that_one_text_lacks_is_found_in_the_other(clip):
    assert item_tokens(sd3(clip, t5()), PROMPT, ["Red"], t5_length=12) == [(4,)]  # T5 tells capitals apart
    long = "a " * 30 + "circle"
    assert item_tokens(sd3(clip, t5()), long, ["circle"], t5_length=40) == [(CLIP + 30, CLIP + 31)]


def test_indices_are_those_of_the_published_files(clip):
    pipe = sd3(clip, t5())
    assert indexed_tokens(pipe, PROMPT, [4, [2, 3]], t5_length=12) == [
        (5, CLIP + 4, CLIP + 5),
        (3, 4, CLIP + 2, CLIP + 3),
    ]
    assert indexed_tokens(pipe, PROMPT, [8], t5_length=12) == [(9, CLIP + 9)]  # the second "red" of both texts
    assert item_names(pipe, PROMPT, [4, [2, 3]]) == ["circle", "striped red"]


def test_what_is_not_there_is_a_sentence_that_names_it(clip):
    pipe = SimpleNamespace(tokenizer=clip)
    with pytest.raises(RegionError, match="'ring' is not in the prompt"):
        item_tokens(pipe, PROMPT, ["ring"])
    with pytest.raises(RegionError, match="'circle' stands behind the 24 tokens"):
        item_tokens(pipe, "a " * 30 + "circle", ["circle"])
    with pytest.raises(RegionError, match="behind the 24 tokens"):
        indexed_tokens(pipe, "a " * 30 + "circle", [30])
    with pytest.raises(RegionError, match="has 10 tokens, so there is no token 10"):
        indexed_tokens(pipe, PROMPT, [10])
    with pytest.raises(RegionError, match="'red' occurs 2 time"):
        item_tokens(pipe, PROMPT, ["red"], occurrence=3)
    with pytest.raises(HostError, match="no tokenizer"):
        item_tokens(SimpleNamespace(tokenizer=None), PROMPT, ["red"])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat eating a sandwich", ["cat", "sandwich"]),
        ("a photo of a horse and a giraffe", ["horse", "giraffe"]),
        ("A red car and a white sheep.", ["car", "sheep"]),
        ("a humming bird perched on a branch", ["bird", "branch"]),
        ("a red ring left of a king", ["ring", "king"]),
        ("a dog, a dog and two dogs", ["dog", "dogs"]),
        ("a painting of the sea", ["sea"]),
        ("sitting on it", []),
        ("", []),
    ],
)
def test_the_things_that_a_prompt_names(prompt, expected):
    assert nouns(prompt) == expected


def test_phrases_stand_as_they_are_written():
    assert noun_phrases("An opened box of four chocolate bananas") == ["opened box", "chocolate bananas"]
    assert object_phrases("a big striped RED disc to the left of a square in the clouds") == [
        "big striped red disc",
        "square",
    ]
    assert object_phrases("a starry sky") == []
