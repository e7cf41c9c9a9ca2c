"""The hard world: its scenes, captions and their reading, its judge, and what no world can draw."""

from dataclasses import replace
from itertools import combinations, product
from math import hypot

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from asyncdiff.tpm.embedded import hard
from asyncdiff.tpm.embedded.detector import Detector, DetectorTraining
from asyncdiff.tpm.embedded.evaluate import evaluation_scenes
from asyncdiff.tpm.embedded.judges import load_judge, world_of
from asyncdiff.tpm.embedded.loop import Draw, Plan, fit
from asyncdiff.tpm.embedded.text import TextStack, TextTraining, new_tokenizer
from asyncdiff.tpm.embedded.train import RECIPES, Recipe, train
from asyncdiff.tpm.embedded.vocabulary import (
    BACKGROUNDS,
    COLORS,
    PATTERNS,
    SHAPES,
    SIZES,
    PromptError,
    check_caption,
    read,
    words_of,
)
from asyncdiff.tpm.embedded.world import Item, Scene
from asyncdiff.tpm.embedded.worlds import EASY, HARD, WORLDS, held_out_captions
from asyncdiff.tpm.errors import AsyncDiffError
from support.detections import perfect_detections
from support.paths import EMBEDDED

# --- scenes and captions


def scenes(count: int, objects: int | None = None, seed: int = 0) -> list[Scene]:
    return evaluation_scenes(count, seed, held_out=False, world=HARD, objects=objects)


@pytest.mark.parametrize("world", [HARD, replace(HARD, sample=HARD.broad)], ids=["nine places", "anywhere"])
def test_objects_lie_inside_and_apart(world):
    for scene in evaluation_scenes(200, 0, held_out=False, world=world):
        for item in scene.items:
            reach = item.radius * (1.12 if SHAPES[item.shape] == "star" else 1)
            assert reach + 1 < item.x < 127 - reach
            assert reach + 1 < item.y < 127 - reach
        for one, other in combinations(scene.items, 2):
            assert hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius + 1


def test_captions_are_of_nine_places_and_judges_learn_all():
    rng = np.random.default_rng(1)
    places = {(item.x, item.y) for scene in scenes(200) for item in scene.items}
    assert places == set(product(hard.PLACES, hard.PLACES))
    assert len({item.x for _ in range(50) for item in HARD.broad(rng).items}) > 50


def test_canonical_captions_say_exactly_the_scene():
    for scene in scenes(200):
        reading = read(check_caption(hard.canonical_caption(scene), HARD.objects))
        assert reading.background == BACKGROUNDS[scene.background]
        assert len(reading.objects) == len(scene.items)
        for words, item in zip(reading.objects, scene.items, strict=True):
            assert (words.shape, words.color, words.size) == (SHAPES[item.shape], COLORS[item.color], SIZES[item.size])
            assert (words.pattern or "solid") == PATTERNS[item.pattern]
        assert (reading.relation or "single") == hard.RELATIONS[hard.relation_of(scene)]


def test_every_paraphrase_is_true_in_the_vocabulary_and_fits_the_text_encoder():
    rng = np.random.default_rng(3)
    tokenizer = new_tokenizer(HARD.tokens)
    for scene in scenes(300, seed=3):
        text = hard.caption(rng, scene)
        check_caption(text, HARD.objects)
        assert perfect_detections(scene).agreement(0, read(text)) == (1.0, pytest.approx(1.0)), text
        assert len(words_of(text)) + 2 <= len(tokenizer(text)["input_ids"]) <= HARD.tokens


def test_a_scene_of_a_caption_is_true_of_it():
    rng = np.random.default_rng(0)
    for prompt in held_out_captions(40, seed=7, world=HARD):
        scene = hard.scene_of(prompt, rng)
        assert hard.canonical_caption(scene) == prompt
    open_one = "a star and a ring and a circle"
    assert len({hard.canonical_caption(hard.scene_of(open_one, rng)) for _ in range(8)}) == 8


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a red circle and a blue ring and a star", "3 objects (circle, ring, star), and a picture has at most 2"),
        ("on a starry background", "names no object"),
        ("a red blue circle", "one object cannot be red and blue"),
        ("a small big star", "cannot be small and large"),
        ("a circle red", "'red' describes no object"),
        ("a circle on a starry cloudy background", "one background cannot be starry and cloudy"),
        ("a circle left of", "'left' needs a second object"),
        ("a red cat", "cat"),
    ],
)
def test_what_a_world_cannot_draw_is_refused_with_the_reason(caption, words):
    with pytest.raises(PromptError) as caught:
        check_caption(caption, EASY.objects)
    assert words in str(caught.value)


@pytest.mark.parametrize("caption", ["", "a ring", "a red red star", "a red circle next to a box", "the violet donut"])
def test_what_leaves_something_open_is_not_refused(caption):
    check_caption(caption, 2)


# --- the judge


def item(shape: str, color: str, x: float, y: float) -> Item:
    return Item(SHAPES.index(shape), COLORS.index(color), 0, 1, x, y, 22.0)


TWO = Scene((item("circle", "red", 30, 60), item("ring", "blue", 90, 60)), 0, 0)


@pytest.mark.parametrize(
    ("caption", "share"),
    [
        ("a large red circle left of a large blue ring on a plain background", 1),
        ("a large blue ring right of a large red circle on a plain background", 1),
        ("a large red circle right of a large blue ring on a plain background", 10 / 11),
        ("a large red circle above a large blue ring on a plain background", 10 / 11),
        ("a large blue circle left of a large red ring on a plain background", 9 / 11),  # colours leaked
        ("a large red circle on a plain background", 5 / 6),  # one too many
        ("a large red circle left of a large blue ring and a large red star on a plain background", 10 / 15),
        ("a large red circle left of a large blue ring on a starry background", 10 / 11),
        ("", 1),
        ("plain background", 1),
    ],
)
def test_agreement_counts_words_relation_background_and_number(caption, share):
    hard_share, soft = perfect_detections(TWO).agreement(0, read(caption))
    assert hard_share == pytest.approx(share)
    assert soft == pytest.approx(share, abs=1e-3)


def test_one_object_of_the_picture_serves_one_of_the_caption():
    twice = "a large red circle left of a large red circle on a plain background"
    single = Scene(TWO.items[:1], 0, 0)
    assert perfect_detections(single).agreement(0, read(twice))[0] == pytest.approx(5 / 11)


def test_regions_follow_the_order_of_the_caption():
    regions = perfect_detections(TWO).regions(0, read("a large blue ring right of a large red circle and a star"))
    assert regions.shape == (3, 128, 128)
    middles = [region.nonzero().float().mean(0).tolist() for region in regions[:2]]
    assert middles == [pytest.approx([59.5, 89.5], abs=1), pytest.approx([59.5, 29.5], abs=1)]
    assert not regions[2].any()


def test_a_judge_is_of_its_world(tmp_path):
    assert world_of(EMBEDDED) is EASY
    Detector().save(tmp_path)
    assert world_of(tmp_path) is HARD
    assert isinstance(load_judge(tmp_path), Detector)
    (tmp_path / "judge.safetensors").write_bytes(b"not a judge")
    with pytest.raises(AsyncDiffError, match="cannot be read"):
        load_judge(tmp_path)


# --- training


def test_recipes_are_of_the_worlds():
    assert set(RECIPES) == set(WORLDS)
    assert all(recipe.world is WORLDS[name] for name, recipe in RECIPES.items())


def test_the_detector_learns(tmp_path):
    training = DetectorTraining(Detector())
    before = float(training.loss(Draw.of(9, "check", 0), 16))
    fit("judge", training, training.loss, Plan(steps=12, batch=16, learning_rate=2e-3, warmup=2), tmp_path, "cpu")
    assert float(training.loss(Draw.of(9, "check", 0), 16)) < before


def test_captions_of_the_hard_world_teach_its_text_encoders():
    torch.manual_seed(0)
    training = TextTraining(TextStack.new(HARD.tokens), HARD)
    context, pooled = training.text(held_out_captions(3, world=HARD))
    assert context.shape == (3, HARD.tokens, 128)
    assert pooled.shape == (3, 128)
    optimizer = torch.optim.AdamW(training.parameters(), 2e-3)
    losses = []
    for step in range(12):
        value = training.loss(Draw.of(0, "text", step), 16)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value))
    assert losses[-1] < losses[0]


def test_a_pipeline_of_the_hard_world_is_written_and_known_again(tmp_path, monkeypatch):
    from asyncdiff.tpm.embedded import train as training

    monkeypatch.setattr(training, "Scenes", lambda *_: None)
    recipe = Recipe(depth=1, world=HARD)
    train(recipe, tmp_path / "work", tmp_path / "out", stages=())
    assert world_of(tmp_path / "out") is HARD
    assert (tmp_path / "out" / "transformer" / "config.json").is_file()
