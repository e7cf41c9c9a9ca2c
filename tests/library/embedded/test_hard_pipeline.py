"""The shipped pipeline of the hard world: its judge reads what is there, and captions come out right only in part."""

import pytest

pytest.importorskip("diffusers")

from asyncdiff.tpm.embedded.evaluate import evaluation_scenes
from asyncdiff.tpm.embedded.judges import load_judge, world_of
from asyncdiff.tpm.embedded.pixelwise import measured_captions
from asyncdiff.tpm.embedded.render import render
from asyncdiff.tpm.embedded.worlds import HARD
from asyncdiff.tpm.hosts.diffusers.studio import DiffusersStudio
from support import paths

MOST_BYTES = 20e6


@pytest.fixture(scope="module")
def judge():
    return load_judge(paths.HARD)


def share(judge, images, captions) -> float:
    return float(judge.score(images, captions)["attributes"].mean())


def of_others(captions):
    return captions[1:] + captions[:1]


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_the_judge_reads_true_pictures(judge, objects):
    scenes = evaluation_scenes(48, 5, world=HARD, objects=objects)
    captions, images = [HARD.canonical_caption(scene) for scene in scenes], render(scenes)[0]
    assert share(judge, images, captions) > 0.96
    assert share(judge, images, of_others(captions)) < 0.6  # the control: captions of other pictures


def test_captions_come_out_right_in_part(judge):
    captions = measured_captions(HARD, 3, 16, 77)
    studio = DiffusersStudio.load(str(paths.HARD), device="cpu")
    images = studio.render(captions, list(range(16)), steps=8, guidance=3.0).images
    assert 0.5 < share(judge, images, captions) < 0.95
    assert share(judge, images, captions) > share(judge, images, of_others(captions)) + 0.15


def test_it_is_of_its_world_and_small_enough_to_ship():
    assert world_of(paths.HARD) is HARD
    assert sum(file.stat().st_size for file in paths.HARD.rglob("*") if file.is_file()) < MOST_BYTES
