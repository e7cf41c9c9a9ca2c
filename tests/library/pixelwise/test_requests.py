"""What a user asks for: phrases and masks as regions, and the bad input."""

import pytest
import torch

from asyncdiff.tpm.pixelwise.errors import RegionError, ScheduleError
from asyncdiff.tpm.pixelwise.requests import (
    KEPT,
    Drawn,
    Phrase,
    Regions,
    SeenRun,
    SeenRuns,
    merged,
    named,
    parse_phrases,
)


def drawn(name="a", strength=0.5, mask=None):
    return Drawn(name, strength, torch.ones(4, 4) if mask is None else mask)


# ------------------------------------------------------------------------------------------------- lines of phrases


def test_a_line_is_a_phrase_a_strength_and_an_occurrence():
    text = "red circle: 0.6\n\n  blue star \ncat #2: .25\ncat#3\nratio 3:2: 1"
    assert parse_phrases(text, 0.4) == [
        ("red circle", 0.6, 1), ("blue star", 0.4, 1), ("cat", 0.25, 2), ("cat", 0.4, 3), ("ratio 3:2", 1.0, 1),
    ]  # fmt: skip
    assert named(parse_phrases("cat\ncat #2", 0.4)) == ["cat", "cat #2"]


@pytest.mark.parametrize("text", ["", " \n ", "cat: much", "cat #two", "cat #2x: 1"])
def test_a_line_that_cannot_be_read_is_shown(text):
    with pytest.raises(RegionError, match=r"red circle: 0\.5"):
        parse_phrases(text, 0.5)


@pytest.mark.parametrize("text", ["cat: 1.5", "cat: -1", "cat: nan"])
def test_a_strength_out_of_range_is_refused(text):
    with pytest.raises(ScheduleError, match="from 0 to 1"):
        parse_phrases(text, 0.5)


# --------------------------------------------------------------------------------------------------------- regions


def test_regions_are_of_one_kind_and_have_different_names():
    for items in ((), (drawn(), Phrase("b", 0.5, (1,)))):
        with pytest.raises(RegionError, match="not both"):
            Regions(items)
    with pytest.raises(RegionError, match="one name"):
        Regions((drawn(), drawn()))
    with pytest.raises(RegionError, match="not both"):
        merged(Regions((Phrase("b", 0.5, (1,)),)), Regions((drawn(),)))
    both = merged(Regions((drawn(),)), Regions((drawn("b", 0.9),)))
    assert (both.names, both.strengths, both.tokens) == (["a", "b"], [0.5, 0.9], [])
    assert both.scaled(2.0) == [1.0, 1.0]
    assert both.scaled(0.5) == [0.25, 0.45]


def test_drawn_regions_fall_on_the_grid_and_fit_the_batch():
    half = torch.zeros(8, 8)
    half[:, :4] = 1
    regions = Regions((drawn("left", 0.3, half), drawn("right", 0.6, 1 - half)))
    masks = regions.drawn((4, 4), 2, batch=3)
    assert masks.shape == (1, 2, 4, 4)
    assert masks[0, 0, :, :2].all()
    assert torch.equal(masks[0, 1], ~masks[0, 0])
    with pytest.raises(RegionError, match="2 images, the latent has 3"):
        Regions((drawn("left", 0.3, half.expand(2, 8, 8)),)).drawn((4, 4), 2, batch=3)


def test_before_the_first_maps_all_pixels_belong_to_the_last_phrase():
    regions = Regions((Phrase("a", 0.3, (1,)), Phrase("b", 0.6, (2,))))
    first = regions.unattended((2, 2))
    assert first[:, 1].all()
    assert not first[:, 0].any()


def test_the_record_of_a_run_is_labels():
    run = SeenRun()
    masks = torch.zeros(1, 2, 1, 3, dtype=torch.bool)
    masks[0, 0, 0, 1] = masks[0, 1, 0, 2] = True
    run.add(masks)
    run.add(masks.clone())
    assert run.labels[0].tolist() == [[[0, 1, 2]]]
    assert run.labels[1] is run.labels[0]
    assert run.never(3) == [2]


def test_a_run_is_found_by_the_latent_that_it_put_out():
    seen, runs = SeenRuns(), [SeenRun([torch.full((1, 2, 2), n)]) for n in range(3)]
    latents = torch.randn(3, 1, 4, 2, 2)
    assert seen.labels == []
    for run, latent in zip(runs, latents, strict=True):
        seen.record(run, [latent])
    for run, latent in zip(runs, latents, strict=True):
        assert seen.of(latent) is run
        assert seen.of(latent.half()) is run
    assert seen.of(latents[0] + 1) is None
    assert seen.labels is runs[-1].labels
    seen.record(runs[0], [latents[0]])
    assert seen.labels is runs[0].labels


def test_only_the_latest_runs_are_kept():
    seen = SeenRuns()
    for n in range(KEPT + 1):
        seen.record(SeenRun(), [torch.full((1, 1), float(n))])
    assert seen.of(torch.zeros(1, 1)) is None
    assert seen.of(torch.ones(1, 1)) is not None
