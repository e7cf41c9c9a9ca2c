"""The reward of the embedded world: true pictures earn the most, and nothing beyond them earns more."""

import numpy as np
import pytest
import torch

from asyncdiff.tpm.embedded.captions import scene_of
from asyncdiff.tpm.embedded.judge import Judge
from asyncdiff.tpm.embedded.render import render
from asyncdiff.tpm.embedded.reward import (
    ALIGNMENT,
    DETAIL_FIT,
    TRUE_DETAIL,
    TowardsTruth,
    counted,
    detail_error,
    true_detail,
)
from asyncdiff.tpm.embedded.worlds import held_out_captions
from asyncdiff.tpm.errors import AsyncDiffError
from asyncdiff.tpm.files import EMBEDDED_FOLDER
from asyncdiff.tpm.rewards.catalogue import CLEAN

STARRY = [caption for caption in held_out_captions(60, seed=11) if "starry" in caption][:12]


@pytest.fixture(scope="module")
def judge():
    return Judge.load(EMBEDDED_FOLDER)


@pytest.fixture(scope="module")
def true_pictures():
    rng = np.random.default_rng(5)
    return render([scene_of(caption, rng) for caption in STARRY])[0]


@pytest.mark.parametrize("background", TRUE_DETAIL)
def test_the_table_of_true_detail_is_what_the_judge_counts(judge, background):
    found = counted(judge, background, pictures=24, seed=17)
    assert found == pytest.approx(TRUE_DETAIL[background], abs=0.02 + 0.08 * TRUE_DETAIL[background])


def test_more_dots_than_true_pictures_have_earn_less(judge, true_pictures):
    reward = TowardsTruth(judge)
    dots = torch.zeros(1, 1, 128, 128)
    dots[..., 4::9, 4::9] = 1.0
    crowded = (true_pictures + dots).clamp(0, 1)
    blurred = torch.nn.functional.avg_pool2d(true_pictures, 9, 1, 4, count_include_pad=False)
    assert judge.detail(crowded).mean() > judge.detail(true_pictures).mean() + 1  # the control: the dots are counted
    fits = [float(reward(images, STARRY)[DETAIL_FIT].mean()) for images in (true_pictures, crowded, blurred)]
    assert fits[0] > max(fits[1:]) + 0.3
    assert fits[0] <= 0


def test_noise_that_nobody_sees_costs_nothing(judge, true_pictures):
    reward, noise = TowardsTruth(judge), torch.randn(true_pictures.shape, generator=torch.Generator().manual_seed(1))
    faint, strong = ((true_pictures + level / 255 * noise).clamp(0, 1) for level in (0.1, 2.0))
    plain = reward(true_pictures, STARRY)[CLEAN]
    assert torch.equal(reward(faint, STARRY)[CLEAN], plain)
    assert (reward(strong, STARRY)[CLEAN] < plain - 0.5).all()


def test_a_caption_that_leaves_the_background_open_asks_for_no_detail(judge, true_pictures):
    scores = TowardsTruth(judge)(true_pictures[:2], ["a red circle", STARRY[1]])
    assert scores[DETAIL_FIT][0] == 0
    assert scores[DETAIL_FIT][1] < 0
    assert true_detail(["a red circle"]).isnan().all()
    broken = detail_error(torch.tensor([float("nan")] * 2), ["a red circle", STARRY[1]])
    assert broken.isnan().tolist() == [False, True]  # what cannot be counted is not called right


def test_true_pictures_are_aligned(judge, true_pictures):
    assert TowardsTruth(judge)(true_pictures, STARRY)[ALIGNMENT].mean() > 0.97


def test_other_numbers_of_captions_are_refused(judge, true_pictures):
    with pytest.raises(AsyncDiffError, match="12 images but 1 prompts"):
        TowardsTruth(judge)(true_pictures, STARRY[:1])
