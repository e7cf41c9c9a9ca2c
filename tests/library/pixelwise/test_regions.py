"""Regions and maps: the partition, attention, drawn masks, and bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncdiff.tpm.pixelwise import regions, timestep_rows
from asyncdiff.tpm.pixelwise.errors import RegionError, ScheduleError

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# spec/pixelwise.md section 2
ITEMS = torch.tensor([[[[0.1, 0.4], [0.4, 0.1]], [[0.1, 0.4], [0.1, 0.4]]]])


# --- the partition ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strengths", "first", "second"),
    [
        ((0.7, 0.3), [[0, 1], [1, 0]], [[0, 0], [0, 1]]),
        ((0.3, 0.7), [[0, 0], [1, 0]], [[0, 1], [0, 1]]),
        ((0.5, 0.5), [[0, 1], [1, 0]], [[0, 0], [0, 1]]),  # a tie goes to the first
    ],
)
def test_golden_regions(strengths, first, second):
    assert regions.from_attention(ITEMS, strengths, (2, 2)).int().tolist() == [[first, second]]


def test_a_threshold_above_every_pixel_leaves_nothing():
    assert not regions.from_attention(ITEMS, (0.7, 0.3), (2, 2), threshold=1.7).any()


def test_a_flat_map_is_wholly_its_item():
    assert regions.thresholded(torch.full((1, 1, 7, 9), 0.1)).all()


@given(
    seed=st.integers(0, 2**31),
    strengths=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    density=st.floats(0, 1),
)
def test_a_partition_is_hard_keeps_the_union_and_obeys_priority(seed, strengths, density):
    masks = torch.rand(2, len(strengths), 4, 5, generator=torch.Generator().manual_seed(seed)) < density
    won = regions.partition(masks, strengths)
    assert (won.sum(dim=1) <= 1).all()
    assert torch.equal(won.any(dim=1), masks.any(dim=1))
    assert not (won & ~masks).any()
    assert torch.equal(regions.partition(won, strengths), won)
    strongest = max(strengths)
    assert torch.equal(won[:, strengths.index(strongest)], masks[:, strengths.index(strongest)])


def test_concave_puts_every_pixel_on_the_strongest_curve():
    masks = regions.from_attention(ITEMS, (0.3, 0.7), (4, 4))
    control = regions.concave(masks, (0.3, 0.7))
    assert control[:, 1].all()
    assert not control[:, 0].any()
    assert masks.shape == control.shape


def test_only_whole_partitions_pass_the_check():
    masks = regions.from_attention(ITEMS, (0.3, 0.7), (4, 4))
    regions.check_partition(masks)
    with pytest.raises(RegionError, match="'cat' is empty"):
        regions.check_partition(masks & torch.tensor([False, True])[:, None, None], ["cat", "dog"])
    with pytest.raises(RegionError, match="'cat' and 'dog' overlap"):
        regions.check_partition(torch.ones_like(masks), ["cat", "dog"])
    with pytest.raises(RegionError, match="1 and 2 overlap"):
        regions.check_partition(torch.ones_like(masks))


@pytest.mark.parametrize("masks", [torch.ones(1, 2, 2, 2), torch.ones(1, 1, 2, 2).bool(), torch.ones(2, 2).bool()])
def test_masks_that_are_no_partition_are_sentences(masks):
    with pytest.raises(RegionError, match="2 strengths"):
        regions.partition(masks, (0.1, 0.2))


def test_a_strength_out_of_range_is_a_sentence():
    with pytest.raises(ScheduleError, match="0 to 1"):
        regions.partition(torch.ones(1, 1, 2, 2).bool(), (1.5,))


# --- from attention -----------------------------------------------------------------------------------------------


def test_item_maps_average_tokens_heads_and_layers():
    draw = torch.Generator().manual_seed(0)
    layers = [torch.rand(2, heads, 6, 5, generator=draw) for heads in (3, 1)]
    got = regions.item_maps(layers, [(1, 2), (4,)], (2, 3))
    by_hand = [sum(layer[..., t].mean(dim=1) for layer in layers) / 2 for t in range(5)]
    assert got.shape == (2, 2, 2, 3)
    torch.testing.assert_close(got[:, 0].flatten(1), (by_hand[1] + by_hand[2]) / 2)
    torch.testing.assert_close(got[:, 1].flatten(1), by_hand[4])
    other = regions.item_maps(layers, [(0, 1), (3,)], (2, 3))  # the control: tokens without the shift by BOS
    assert (got - other).abs().max() > 0.01


def test_before_the_first_maps_the_last_item_has_all():
    masks = regions.before_attention([(7, 8), (2,), (5, 6)], (2, 3))
    assert masks.shape == (1, 3, 2, 3)
    assert masks[0, 0].all()
    assert not masks[0, 1:].any()


@pytest.mark.parametrize(
    ("tokens", "grid", "word"),
    [
        ([(1,)], (2, 2), "2 × 2 grid"),
        ([], (2, 3), "at least one token"),
        ([()], (2, 3), "at least one token"),
        ([(1, 9)], (2, 3), "position 9"),
        ([(-1,)], (2, 3), "position -1"),
    ],
)
def test_attention_that_does_not_fit_is_a_sentence(tokens, grid, word):
    with pytest.raises(RegionError, match=word):
        regions.item_maps([torch.rand(1, 2, 6, 5)], tokens, grid)


# --- from drawn masks ---------------------------------------------------------------------------------------------


def disc(side, x, y, radius):
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((rows - y * side) ** 2 + (columns - x * side) ** 2 <= (radius * side) ** 2).float()


@pytest.mark.parametrize("side", [8, 64, 512])
def test_a_drawn_mask_of_any_resolution_gives_its_region(side):
    half = torch.zeros(side, side)
    half[:, : side // 2] = 1
    masks = regions.from_masks([half], (0.5,), (8, 8))
    assert masks.shape == (1, 1, 8, 8)
    assert masks[0, 0, :, :4].all()
    assert not masks[0, 0, :, 4:].any()


def test_half_a_cell_is_enough_and_less_is_not():
    mask = torch.zeros(4, 4)
    mask[0, 0] = mask[0, 1] = 1  # half of the first cell
    mask[2, 2] = 1  # a quarter of the last
    assert regions.from_masks([mask], (0.5,), (2, 2))[0, 0].int().tolist() == [[1, 0], [0, 0]]


def test_regions_for_a_transformer_are_whole_patches():
    masks = regions.from_masks([disc(128, 0.4, 0.6, 0.3)], (0.5,), (16, 16), patch=2)
    assert torch.equal(masks, timestep_rows.fine(timestep_rows.coarse(masks.float(), 2).bool(), 2))
    finer = regions.from_masks([disc(128, 0.4, 0.6, 0.3)], (0.5,), (16, 16))
    assert not torch.equal(finer, timestep_rows.fine(timestep_rows.coarse(finer.float(), 2).bool(), 2))  # the control


def test_where_drawn_masks_overlap_the_stronger_wins_in_every_image():
    left, all_of_it = torch.zeros(2, 8, 8), torch.ones(8, 8)
    left[0, :, :4] = 1
    left[1, :, :2] = 1
    masks = regions.from_masks([all_of_it, left], (0.3, 0.6), (4, 4))
    assert masks.shape == (2, 2, 4, 4)
    assert masks[:, 1].flatten(1).sum(dim=1).tolist() == [8, 4]
    assert masks[:, 0].flatten(1).sum(dim=1).tolist() == [8, 12]


@pytest.mark.parametrize(
    ("masks", "strengths", "word"),
    [
        ([torch.zeros(8, 8)], (0.5,), "'cat' is empty"),
        ([disc(256, 0.5, 0.5, 0.01)], (0.5,), "'cat' is empty"),
        ([torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])], (0.5,), "'cat' is empty"),
        ([torch.ones(8, 8), torch.ones(8, 8)], (0.3, 0.5), "'cat' is covered"),
        ([torch.ones(8, 16)], (0.5,), "16 × 8"),
        ([torch.ones(8)], (0.5,), r"\(H, W\)"),
        ([torch.ones(0, 8)], (0.5,), r"\(H, W\)"),
        ([torch.full((8, 8), 255.0)], (0.5,), "0 to 1"),
        ([torch.full((8, 8), math.nan)], (0.5,), "0 to 1"),
        ([], (), "at least one"),
        ([torch.ones(2, 8, 8), torch.ones(3, 8, 8)], (0.5, 0.6), "same number"),
        ([torch.ones(8, 8)], (0.5, 0.6), "2 strengths"),
    ],
)
def test_bad_masks_are_sentences(masks, strengths, word):
    with pytest.raises(RegionError, match=word):
        regions.from_masks(masks, strengths, (8, 8), names=["cat", "dog"])


def test_latents_of_odd_size_are_sentences():
    with pytest.raises(RegionError, match=r"15 × 16.*2 × 2"):
        regions.from_masks([torch.ones(8, 8)], (0.5,), (16, 15), patch=2)
    with pytest.raises(RegionError, match="multiples of 4"):
        timestep_rows.coarse(torch.ones(1, 1, 16, 18), 4)


# --- maps ---------------------------------------------------------------------------------------------------------


def test_a_coarser_grid_reads_corners_or_means():
    field = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert timestep_rows.coarse(field, 2).flatten().tolist() == [0, 2, 8, 10]
    assert timestep_rows.coarse(field, 2, "mean").flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(timestep_rows.coarse(field, 1), field)
    assert torch.equal(timestep_rows.coarse(timestep_rows.fine(field, 4), 4), field)
    torch.testing.assert_close(
        timestep_rows.coarse(field, 2, "mean"), torch.nn.functional.interpolate(field, size=(2, 2), mode="area")
    )
    with pytest.raises(ScheduleError, match="corner or mean"):
        timestep_rows.coarse(field, 2, "max")


def test_the_texts_timestep():
    field = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]], [[[0.0, 0.0], [0.0, 2.0]]]])
    assert timestep_rows.text_time(field).tolist() == [4, 0.5]
    assert timestep_rows.text_time(field, "max").tolist() == [7, 2]
    assert timestep_rows.text_time(field, "min").tolist() == [1, 0]
    assert timestep_rows.text_time(field, "background", 0.25).tolist() == [0.25, 0.25]
    for rule in ("background", "median"):
        with pytest.raises(ScheduleError, match="mean, max, min"):
            timestep_rows.text_time(field, rule)


@given(value=st.floats(2**-10, 1000, width=32))
def test_the_mean_of_a_uniform_map_is_its_value(value):
    field = torch.full((2, 1, 7, 9), value)
    assert (timestep_rows.text_time(field) == field[0, 0, 0, 0]).all()


# --- videos -------------------------------------------------------------------------------------------------------


def test_one_mask_is_for_all_frames_and_one_each_for_each():
    mask = torch.zeros(8, 8)
    mask[:, :4] = 1
    whole = regions.from_masks([mask], [0.5], (3, 4, 4), patch=2)
    assert whole.shape == (1, 1, 3, 4, 4)
    assert whole[0, 0, :, :, :2].all()
    assert not whole[0, 0, :, :, 2:].any()
    each = regions.from_masks([mask * torch.tensor([1.0, 0.0, 1.0])[:, None, None], 1 - mask], [0.5, 0.3], (3, 4, 4))
    assert each.shape == (1, 2, 3, 4, 4)
    assert each[0, 0].any(dim=(1, 2)).tolist() == [True, False, True]
    assert each[0, 1].any(dim=(1, 2)).tolist() == [True, True, True]
    assert not (each.sum(dim=1) > 1).any()


def test_the_frames_of_a_video_are_those_of_its_latent_in_groups():
    """9 frames are 1 + 4 + 4 of a latent of 3: half of a group is enough, less is not."""
    frames = torch.tensor([1.0, 0, 1, 1, 0, 0, 0, 0, 1])[:, None, None].expand(-1, 2, 2)
    assert regions.in_time(frames, 3, "'a'")[:, 0, 0].tolist() == [1.0, 0.5, 0.25]
    assert regions.from_masks([frames], [0.5], (3, 2, 2))[0, 0].any(dim=(1, 2)).tolist() == [True, True, False]


@pytest.mark.parametrize("given", [2, 4, 6, 8, 10])
def test_other_numbers_of_frames_are_a_sentence(given):
    with pytest.raises(RegionError, match=f"{given} frames, and the video has 3 in its latent"):
        regions.from_masks([torch.ones(given, 8, 8)], [0.5], (3, 4, 4))


def test_a_region_may_be_absent_from_some_frames_but_not_from_all():
    some = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])
    assert regions.from_masks([some], [0.5], (2, 4, 4)).any()
    with pytest.raises(RegionError, match="'a' is empty"):
        regions.from_masks([torch.zeros(2, 4, 4)], [0.5], (2, 4, 4), names=["a"])
