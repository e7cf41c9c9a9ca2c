"""What a user asks for: phrases and masks as regions, phrases → tokens over several encoders, and the bad input."""

import pytest
import torch

from asyncdiff.tpm.pixelwise.errors import RegionError, ScheduleError
from asyncdiff.tpm.pixelwise.prompts import OTHER, Stream, framed, located
from asyncdiff.tpm.pixelwise.requests import Drawn, Phrase, Regions, merged, named, parse_phrases

BOS, EOS, PAD = 90, 91, 0


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


def test_the_control_is_every_pixel_in_the_strongest():
    regions = Regions((Phrase("a", 0.3, (1,)), Phrase("b", 0.6, (2,))))
    everywhere = regions.everywhere((2, 2))
    assert everywhere[:, 1].all()
    assert not everywhere[:, 0].any()
    assert torch.equal(regions.unattended((2, 2)), everywhere)  # the token of "b" comes last


def test_the_record_of_a_run_is_labels():
    regions = Regions((drawn("a"), drawn("b")))
    masks = torch.zeros(1, 2, 1, 3, dtype=torch.bool)
    masks[0, 0, 0, 1] = masks[0, 1, 0, 2] = True
    regions.seen.add(masks)
    assert regions.seen.labels[0].tolist() == [[[0, 1, 2]]]


# ----------------------------------------------------------------------------------------------- phrases → positions


def stream(prompt, *phrases):
    """An encoder whose phrases have one form each."""
    return Stream(tuple(prompt), tuple((tuple(ids),) for ids in phrases), frozenset({BOS, EOS, PAD}))


def test_positions_count_the_special_tokens_and_join_the_encoders():
    clip = stream([BOS, 5, 6, 7, 5, 6, EOS, PAD], [BOS, 5, 6, EOS], [BOS, 7, EOS])
    t5 = stream([15, 16, 17, 15, 16, EOS], [15, 16, EOS], [17, EOS])
    assert located([clip, t5], [("five six", 1), ("seven", 1)]) == [(1, 2, 8, 9), (3, 10)]
    assert located([clip, t5], [("five six", 2), ("seven", 1)]) == [(4, 5, 11, 12), (3, 10)]


def test_a_phrase_that_one_encoder_cut_off_is_taken_from_the_other():
    clip, t5 = stream([BOS, 5, EOS], [BOS, 7, EOS]), stream([15, 17, EOS], [17, EOS])
    assert located([clip, t5], [("seven", 1)]) == [(4,)]


def test_an_absent_phrase_and_occurrence_are_named():
    clip = stream([BOS, 5, 6, EOS], [BOS, 7, EOS])
    with pytest.raises(RegionError, match="'seven' is not in the prompt"):
        located([clip], [("seven", 1)])
    clip = stream([BOS, 5, 6, 5, EOS], [BOS, 5, EOS], [])
    with pytest.raises(RegionError, match=r"'five' occurs 2 time\(s\) in the prompt, not 3"):
        located([clip], [("five", 3)])
    with pytest.raises(RegionError, match="count from 1"):
        located([clip], [("five", 0)])
    with pytest.raises(RegionError, match="'' is not in"):
        located([clip], [("five", 1), ("", 1)])


def test_a_word_may_have_two_forms():
    """A language model's tokens differ after a space."""
    words = Stream((5, 1, 55), (((5,), (55,)),), frozenset())
    assert [words.find(0, n) for n in (1, 2, 3)] == [(0,), (2,), ()]
    assert words.count(0) == 2


def test_a_templates_own_words_do_not_count():
    prompt, empty = (7, 5, 8, 5, 9), (7, 5, 8, 9)
    assert framed(prompt, empty) == (OTHER, OTHER, OTHER, 5, OTHER)
    assert framed((0, *prompt, 0, 0), (*empty, 0), {0}) == (0, OTHER, OTHER, OTHER, 5, OTHER, 0, 0)
    assert Stream(framed(prompt, empty), (((5,),),), frozenset()).find(0, 1) == (3,)
