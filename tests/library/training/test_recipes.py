"""Recipes and the order of prompts: what is shipped can be followed, and what cannot is refused field by field."""

import json

import pytest

from asyncdiff.tpm.training.grpo.recipe import Recipe, RecipeError, read_recipe, recipes
from asyncdiff.tpm.training.prompts import PromptOrder


def test_every_prompt_comes_once_an_epoch_in_another_order():
    order = PromptOrder([str(n) for n in range(50)], seed=3)
    epochs = [[order[50 * epoch + n] for n in range(50)] for epoch in range(2)]
    assert all(sorted(epoch, key=int) == list(order.prompts) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert order[3] == epochs[0][3], "any position at any time"


@pytest.mark.parametrize("name", recipes())
def test_shipped_recipes_can_be_followed(name):
    document = read_recipe(name)
    recipe = Recipe(**document["training"])
    assert document["about"]["model"]
    assert recipe.group % (recipe.noises or recipe.group) == 0


def test_the_papers_recipe():
    """Section 4.1 of the paper."""
    recipe = Recipe(**read_recipe("sd35-medium")["training"])
    assert (recipe.steps, recipe.group, recipe.minibatch, recipe.clip, recipe.iterations) == (15, 16, 4, 0.2, 4000)
    assert (recipe.learning_rate, recipe.seed, recipe.noises, recipe.bound) == (1e-5, 42, None, 0.5)
    flux = Recipe(**read_recipe("flux-dev")["training"])
    assert (flux.steps, flux.learning_rate) == (10, 2e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"group": 16, "noises": 5}, "cannot be split over 5 noises"),
        ({"group": 1}, "group must be a whole number from 2"),
        ({"iterations": 0}, "iterations must be"),
        ({"start": 0.5}, "start must lie inside"),
        ({"steps": 4, "tail_sync": 3}, "no action is left"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"weights": {"a": -1.0}}, "weights of metrics"),
        ({"noise_limit": 0.0}, "noise_limit must be above 0"),
    ],
)
def test_recipes_that_cannot_be_followed(changes, words):
    with pytest.raises(RecipeError, match=words):
        Recipe(**changes)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"training": []}, "field training should be an object"),
        ({"training": {"steps": "15"}}, "field training.steps should be a valid integer"),
        ({"training": {"steps": 15.5}}, "field training.steps"),
        ({"training": {"null_reward": 1}}, "field training.null_reward"),
        ({"training": {"weights": {"a": None}}}, "field training.weights.a"),
        ({"training": {"seed": 2**62 * 3}}, "63 bits"),
        ({"sampling": {"size": [512]}}, "field sampling.size"),
        ({"sampling": {"size": [8, 8]}}, "pixels from 16"),
        ({"sampling": {"grid": "karras"}}, "field sampling.grid"),
        ({"metrics": "clip-score"}, "field metrics"),
        ({"metrics": ["beauty"]}, "no metric 'beauty'"),
        ({"extra": 1}, "no field extra"),
    ],
)
def test_recipe_files_are_checked_field_by_field(tmp_path, document, words):
    (tmp_path / "mine.json").write_text(json.dumps(document))
    with pytest.raises(RecipeError, match=words) as told:
        read_recipe(tmp_path / "mine.json")
    assert str(told.value).startswith(str(tmp_path / "mine.json"))


def test_a_recipe_with_an_unknown_entry(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"training": {"iteratons": 3}}))
    with pytest.raises(RecipeError, match=r"no field training\.iteratons"):
        read_recipe(tmp_path / "mine.json")
    with pytest.raises(RecipeError, match=r"neither a file nor a shipped recipe; those are .*sd35-medium"):
        read_recipe("sd36")
