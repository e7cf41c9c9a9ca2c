"""What is reported beside the reward, on pictures whose truth is known."""

import numpy as np
import pytest
import torch

from asyncdiff.tpm.embedded.apart import ApartFromReward
from asyncdiff.tpm.embedded.captions import scene_of
from asyncdiff.tpm.embedded.judge import Judge
from asyncdiff.tpm.embedded.render import render
from asyncdiff.tpm.embedded.worlds import held_out_captions
from asyncdiff.tpm.files import EMBEDDED_FOLDER
from asyncdiff.tpm.training.compare.measure import APART, BACKGROUND, DETAIL, DETAIL_ERROR, OBJECT_MSE, OBJECTS

CAPTIONS = held_out_captions(24, seed=9)


@pytest.fixture(scope="module")
def judge():
    return Judge.load(EMBEDDED_FOLDER)


def drawn(captions, seed=3):
    rng = np.random.default_rng(seed)
    return render([scene_of(caption, rng) for caption in captions])


def test_true_pictures_are_what_they_should_be(judge):
    values = ApartFromReward(judge, CAPTIONS)(drawn(CAPTIONS)[0], CAPTIONS)
    assert set(values) == set(APART)
    assert all(value.shape == (24,) and value.isfinite().all() for value in values.values())
    assert values[OBJECTS].mean() > 0.97
    assert values[BACKGROUND].mean() > 0.97
    assert abs(values[DETAIL_ERROR].mean()) < 0.15  # another draw of the same backgrounds
    assert values[OBJECT_MSE].max() < 1e-3  # of the edges, where the background shines through


def test_each_value_tells_its_own_fault(judge):
    measure, (images, masks, _) = ApartFromReward(judge, CAPTIONS), drawn(CAPTIONS)
    plain = measure(images, CAPTIONS)
    grey = torch.where(masks[:, None] > 0.5, images, torch.tensor(0.5))
    no_background = measure(grey, CAPTIONS)
    assert no_background[BACKGROUND].mean() < plain[BACKGROUND].mean() - 0.3
    assert no_background[DETAIL_ERROR].mean() < plain[DETAIL_ERROR].mean()
    assert no_background[OBJECT_MSE].mean() < 0.01
    others = measure(drawn(held_out_captions(24, seed=10))[0], CAPTIONS)
    assert others[OBJECTS].mean() < 0.8
    assert others[OBJECT_MSE].mean() > 0.05


def test_a_caption_that_leaves_something_open_has_no_one_true_picture(judge):
    open_ones = ["a red circle", "a large blue square above a small red star on a plain background"]
    values = ApartFromReward(judge, open_ones)(drawn(open_ones)[0], open_ones)
    assert set(values) == {OBJECTS, BACKGROUND, DETAIL, DETAIL_ERROR}
    small = torch.nn.functional.avg_pool2d(drawn(open_ones)[0], 2)
    assert ApartFromReward(judge, open_ones)(small, open_ones)[OBJECTS].shape == (2,)
