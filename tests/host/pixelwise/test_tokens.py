"""Phrases of prompts through the real CLIP and T5 tokenizers, whose vocabularies ComfyUI brings."""

from types import SimpleNamespace

import pytest

pytest.importorskip("diffusers")

from asyncdiff.tpm.hosts.diffusers.tokens import indexed_tokens, item_names, item_tokens
from asyncdiff.tpm.pixelwise.errors import RegionError
from support.host import host_or_skip

PROMPT = "A photo of a red-haired woman, riding two chihuahuas."


@pytest.fixture(scope="module")
def pipe():
    from transformers import AutoTokenizer, CLIPTokenizer

    host = host_or_skip()
    clip = CLIPTokenizer.from_pretrained(host / "comfy" / "sd1_tokenizer", model_max_length=77)
    t5 = AutoTokenizer.from_pretrained(host / "comfy" / "text_encoders" / "t5_tokenizer")
    return SimpleNamespace(tokenizer=clip, tokenizer_3=t5, text_encoder_3=object())


@pytest.mark.parametrize("phrase", ["woman", "red-haired woman", "chihuahuas", "A photo"])
def test_the_positions_hold_the_phrase_in_both_texts(pipe, phrase):
    (positions,) = item_tokens(pipe, PROMPT, [phrase])
    clip = pipe.tokenizer(PROMPT, padding="max_length", max_length=77, truncation=True).input_ids
    t5 = pipe.tokenizer_3(PROMPT, padding="max_length", max_length=256, truncation=True).input_ids
    in_clip, in_t5 = [p for p in positions if p < 77], [p - 77 for p in positions if p >= 77]
    assert pipe.tokenizer.decode([clip[p] for p in in_clip]).replace(" ", "") == phrase.lower().replace(" ", "")
    assert pipe.tokenizer_3.decode([t5[p] for p in in_t5]).replace(" ", "") == phrase.replace(" ", "")


@pytest.mark.parametrize(
    ("prompt", "phrase"),
    [
        ('says "hello world"', "hello world"),
        ("a cat,dog", "dog"),
        ("a cat,dog", "cat"),
        ("a hot-dog on a plate", "hot-dog"),
        ("a 🦊 and a cat", "cat"),
    ],
)
def test_a_phrase_is_found_by_its_place(pipe, prompt, phrase):
    (positions,) = item_tokens(pipe, prompt, [phrase])
    t5 = pipe.tokenizer_3(prompt, padding="max_length", max_length=256, truncation=True).input_ids
    assert pipe.tokenizer_3.decode([t5[p - 77] for p in positions if p >= 77]).strip(",") == phrase
    assert any(p < 77 for p in positions)


def test_unknown_signs_have_their_own_place(pipe):
    fox, cat = item_tokens(pipe, "a 🦊 and a 🐱", ["🦊", "🐱"])
    assert max(p for p in fox if p < 77) < min(cat)
    assert max(fox) < max(cat)
    assert not set(fox) & set(cat)
    (only,) = item_tokens(pipe, "a 🦊🐱", ["🐱"])  # one token to T5
    assert all(p < 77 for p in only)
    with pytest.raises(RegionError, match="'🐶' is not in the prompt"):
        item_tokens(pipe, "a 🦊", ["🐶"])


def test_the_published_indices_name_the_animals(pipe):
    assert item_names(pipe, "a photo of a horse and a giraffe", [4, 7]) == ["horse", "giraffe"]
    prompt = "a cat eating a sandwich"
    assert indexed_tokens(pipe, prompt, [1, 4]) == item_tokens(pipe, prompt, ["cat", "sandwich"])
