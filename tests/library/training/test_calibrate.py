"""Calibration: the spectrum, what is found on exact velocities, going on, and what cannot be judged."""

import json
from itertools import pairwise

import pytest
import torch

from asyncdiff.tpm.errors import AsyncDiffError
from asyncdiff.tpm.policies import load_policy
from asyncdiff.tpm.retiming.foretold import rehearse
from asyncdiff.tpm.retiming.retimer import Retimer
from asyncdiff.tpm.retiming.settings import Retiming
from asyncdiff.tpm.training.calibrate import calibrate as module
from asyncdiff.tpm.training.calibrate.calibrate import Calibration, CalibrationError, CalibrationPlan
from asyncdiff.tpm.training.calibrate.chart import calibration_chart
from asyncdiff.tpm.training.calibrate.spectrum import band_spectrum
from asyncdiff.tpm.training.prompts import PromptOrder
from asyncdiff.tpm.training.resume import ResumeError
from support.toy_studio import ToyStudio, velocity

PROMPTS = [f"prompt {n}" for n in range(8)]
PLAN = {"steps": 6, "prompts": 8, "batch": 3}


class LatentToy(ToyStudio):
    """The exact velocities of Gaussian data, 16 × 16: a run of few steps ends with too little spread."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def latents(self, prompts, seeds, policy=None, retiming=None, *, steps):
        self.calls.append((steps, policy and [d for _, d in policy.knots]))
        grid = self.sigma_grid(steps)
        x = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds])
        retimer = Retimer(policy, retiming) if policy else None
        if retimer:
            retimer.begin(grid)
        for t, after in pairwise(grid):
            t_star = retimer.condition(t) if retimer else t
            v = velocity(x, t_star)
            x = x + (after - t) * (retimer.observe(x, t, v) if retimer else v)
        return x


def make(folder, studio=None, **changes):
    plan = CalibrationPlan(**{**PLAN, **changes})
    return Calibration(studio or LatentToy(), PromptOrder(PROMPTS, plan.seed), plan, folder)


def test_frames_of_a_video_count_like_channels():
    video = torch.randn(2, 4, 3, 16, 18, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(band_spectrum(video), band_spectrum(video.flatten(1, 2)))
    assert torch.allclose(band_spectrum(video[:, :, :1]), band_spectrum(video[:, :, 0]))


def test_latents_without_height_and_width_are_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(LatentToy, "latents", lambda *_, **__: torch.randn(3, 64, 32))
    with pytest.raises(CalibrationError, match="no height and width"):
        make(tmp_path).run()


def test_the_spectrum_tells_slow_from_fast_changes_and_keeps_the_energy():
    slow = torch.linspace(0, 3.14, 16).cos().expand(1, 2, 16, 16)
    fast = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 2, 16, 16)
    assert int(band_spectrum(slow + 0.001 * torch.randn(1, 2, 16, 16)).argmax()) == 0
    assert int(band_spectrum(fast + 0.001 * torch.randn(1, 2, 16, 16)).argmax()) == 7
    noise = torch.randn(200, 4, 16, 20, generator=torch.Generator().manual_seed(0))
    assert band_spectrum(noise).mean(0).tolist() == pytest.approx([0.0] * 8, abs=0.1)
    assert torch.allclose(band_spectrum(2 * noise), band_spectrum(noise) + 2 * torch.tensor(2.0).log())


def test_it_comes_near_to_the_teacher_and_says_how(tmp_path):
    found = make(tmp_path).run()
    far = found.report["distance"]
    assert far["calibrated"] < 0.5 * far["synchronous"]
    policy = load_policy(tmp_path / "calibrated.json", "sd3")
    grid = ToyStudio().sigma_grid(6)
    d = rehearse(policy, Retiming(), grid).proposed
    assert d[1:5] == pytest.approx([found.report["a"]] * 4)
    assert d[5] == pytest.approx(found.report["last"])
    assert policy.about["images"] == 0
    assert policy.about["solver"] == "euler"
    assert policy.about["teacher steps"] == 48
    report = json.loads((tmp_path / "calibration.json").read_text())
    assert report["cost"]["of the teacher"] == 48 * 8
    assert report["cost"]["evaluations"] <= make(tmp_path / "other").evaluations()
    picture = calibration_chart(report)
    assert picture.width > 600


def test_it_goes_on_where_it_was_stopped(tmp_path):
    whole = make(tmp_path / "whole").run()
    studio = LatentToy()
    stopped = make(tmp_path / "parts", studio)

    def stop(_):
        if len(studio.calls) == 7:
            raise KeyboardInterrupt

    stopped.on_evaluations = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    again = LatentToy()
    assert make(tmp_path / "parts", again).run(resume=True).policy.knots == whole.policy.knots
    fresh = LatentToy()
    make(tmp_path / "fresh", fresh).run()
    assert len(again.calls) == len(fresh.calls) - 7
    with pytest.raises(ResumeError, match="seed was 42"):
        make(tmp_path / "parts", seed=1).run(resume=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 2}, "steps must be"),
        ({"prompts": 3}, "prompts must be"),
        ({"teacher_steps": 9}, "too few"),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(changes, words):
    with pytest.raises(CalibrationError, match=words):
        CalibrationPlan(**{**PLAN, **changes})


class Fixed(LatentToy):
    """Latents that nothing changes."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def latents(self, prompts, seeds, policy=None, retiming=None, *, steps):
        return torch.stack([self.make(seed, policy) for seed in seeds])


def random(seed, _):
    return torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        (lambda *_: random(0, None), "the same spectrum"),
        (lambda *_: torch.zeros(4, 16, 16), "without variation"),
        (lambda *_: torch.full((4, 16, 16), float("nan")), "without variation"),
        (lambda *_: torch.randn(4, 8, 16), "too small"),
        (lambda seed, policy: random(seed, None) * (3 if policy else 1), "nothing to calibrate"),
    ],
)
def test_what_cannot_be_judged_is_a_sentence(tmp_path, latent, words):
    with pytest.raises(CalibrationError, match=words):
        make(tmp_path, Fixed(latent)).run()
    assert not (tmp_path / "calibrated.json").exists()
    assert issubclass(CalibrationError, AsyncDiffError)


def test_no_number_leaves_the_bound_or_moves_far(tmp_path, monkeypatch):
    calibration = make(tmp_path)
    calibration.run()
    monkeypatch.setattr(module, "MOST_MOVE", 0.1)
    for point in ((1.0, -1.0), (0.95, 0.9), START):
        a, last = calibration._moved(point)
        assert max(abs(a), abs(last)) <= 1
        assert max(abs(a - point[0]), abs(last - point[1])) <= 0.1 + 1e-9


START = module.START
