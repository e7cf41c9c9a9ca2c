"""Captions read back as scenes."""

import numpy as np
import pytest

from asyncdiff.tpm.embedded.captions import says_everything, scene_of
from asyncdiff.tpm.embedded.world import canonical_caption
from asyncdiff.tpm.embedded.worlds import held_out_captions, training_captions


def test_a_full_caption_comes_back_as_it_was_said():
    rng = np.random.default_rng(0)
    for prompt in held_out_captions(60, seed=7):
        assert says_everything(prompt)
        assert canonical_caption(scene_of(prompt, rng)) == prompt


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a large red circle right of a small blue square on a plain background", True),
        ("a large red circle next to a small blue square on a plain background", False),
        ("a red circle on a plain background", False),
        ("a large red circle", False),
        ("on a starry background", False),
        ("", False),
    ],
)
def test_what_is_left_open_is_drawn(prompt, said):
    assert says_everything(prompt) == said
    rng = np.random.default_rng(1)
    drawn = {canonical_caption(scene_of(prompt, rng)) for _ in range(20)}
    assert (len(drawn) == 1) == said
    assert all("red" in caption for caption in drawn) or "red" not in prompt


def test_right_of_and_below_turn_the_order():
    scene = scene_of("a small red ring below a small blue star on a plain background", np.random.default_rng(0))
    assert canonical_caption(scene) == "a small blue star above a small red ring on a plain background"


def test_other_seeds_are_other_captions():
    assert held_out_captions(8) == held_out_captions(8, 1234)
    assert held_out_captions(8, 77) != held_out_captions(8)
    assert not {*held_out_captions(64, 77)} & {*training_captions(512)}
