"""Rows of a map of timesteps: each distinct one embedded once, and the one rule that rounds too many of them."""

import pytest
import torch

from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.pixelwise import timestep_rows
from asyncdiff.tpm.pixelwise.timestep_rows import MOST_EXACT, TimestepRows, modulate, sinusoid


def told(field, span=1000.0):
    """What each position of each image is told, (B, N)."""
    rows = TimestepRows(field, lambda values: values[:, None], span=span).at(1)
    return rows.spread(rows.rows).expand(-1, field[0].numel(), -1)[..., 0]


def spaced(count, low=300.1, high=700.2):
    """A map (1, 1, 1, N) of so many different timesteps, each four times."""
    return torch.linspace(low, high, count).repeat(4).view(1, 1, 1, -1)


def test_rows_are_the_embedding_of_every_pixel():
    """The distinct values of an image are embedded once at every grid, and what is added is added to its rows."""
    calls = []

    def embed(values):
        calls.append(len(values))
        return sinusoid(values, 8)

    field = torch.tensor([[3.0, 3.0, 7.0, 9.0], [3.0, 5.0, 7.0, 7.0]]).view(1, 1, 2, 4).repeat(2, 1, 1, 1)
    rows, added = TimestepRows(field, embed), torch.randn(2, 8)
    rows.add(added)
    full, half = rows.at(1), rows.at(2)
    assert rows.at(1) is full
    assert calls == [2 * 4, 2 * 2]
    wanted = sinusoid(field.flatten(), 8).unflatten(0, (2, 8)) + added[:, None]
    assert torch.equal(full.spread(full.rows), wanted)
    assert torch.equal(half.spread(half.rows), wanted[:, [0, 2]])
    image = full.as_image(full.rows, 2)
    assert torch.equal(image.flatten(2).mT, wanted)
    x, shift = torch.randn(2, 8, 8), full.spread(full.rows)
    torch.testing.assert_close(modulate(x, full.rows, full.rows, full), x * (1 + shift) + shift)


def test_one_timestep_of_each_image_broadcasts():
    field = torch.tensor([5.0, 9.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    rows = TimestepRows(field, lambda values: sinusoid(values, 8)).at(2)
    assert rows.spread(rows.rows).shape == (2, 1, 8)
    assert rows.as_image(rows.rows, 2).shape == (2, 8, 1, 1)


def test_images_with_different_numbers_of_timesteps_share_a_call():
    field = torch.tensor([[1.0, 2.0, 3.0, 4.0], [7.0, 7.0, 8.0, 7.0], [5.0] * 4]).view(3, 1, 2, 2)
    assert torch.equal(told(field), field.flatten(1))


@pytest.mark.parametrize("count", [40, MOST_EXACT])
def test_few_timesteps_are_told_exactly(count):
    assert torch.equal(told(spaced(count)), spaced(count).flatten(1))


@pytest.mark.parametrize("span", [1.0, 1000.0])
def test_many_timesteps_are_told_in_thousandths(span):
    field = spaced(MOST_EXACT + 1) * span / 1000
    got = told(field, span) * 1000 / span
    torch.testing.assert_close(got, spaced(MOST_EXACT + 1).flatten(1).round())
    rows = TimestepRows(field, lambda values: values[:, None], span=span).at(1).rows
    assert rows.shape[1] <= MOST_EXACT + 1


def test_what_an_image_is_told_does_not_depend_on_its_batch():
    """Together they have more than MOST_EXACT timesteps; one image alone is exact, another is rounded."""
    exact, other, many = spaced(200), spaced(200, 310.1, 690.3), spaced(400)
    exact, other = (torch.cat([each, each], dim=-1) for each in (exact, other))
    batch = told(torch.cat([exact, many, other]))
    for image, alone in zip(batch, (exact, many, other), strict=True):
        assert torch.equal(image, told(alone)[0])
    assert torch.equal(batch[0], exact.flatten())
    assert (batch[1] - many.flatten()).abs().max() <= 0.5
    assert not torch.equal(batch[1], many.flatten())


def test_rounding_counts_the_timesteps_of_the_grid_that_reads_them():
    field = torch.arange(4 * MOST_EXACT).view(1, 1, 2, -1) / 10
    rows = TimestepRows(field, lambda values: values[:, None])
    assert torch.equal(rows.at(2).rows[0, :, 0], field[0, 0, 0, ::2])
    assert (rows.at(1).rows.frac() == 0).all()


def test_distinct_rows_are_those_of_unique():
    torch.manual_seed(0)
    field = torch.randint(0, 9, (3, 50)).float()
    values, index, counts = timestep_rows.distinct_rows(field)
    assert torch.equal(values.gather(1, index), field)
    assert counts.tolist() == [len(image.unique()) for image in field]
    for row, count, image in zip(values, counts, field, strict=True):
        assert torch.equal(row[:count], image.unique())


@pytest.mark.parametrize("size", [(4, 4), (3, 4, 4), (48,)])
def test_a_map_fits_every_image_of_a_call(size):
    """Guidance repeats the batch; the rest of the shape must be that of the latent."""
    field = torch.rand(2, 1, *size)
    told = timestep_rows.fitted(field, torch.zeros(6, 16, *size))
    assert told.shape == (6, 1, *size)
    assert torch.equal(told[4:], field)
    for rows, sides in ((5, size), (6, (*size[:-1], 5)), (6, (*size, 4))):
        with pytest.raises(HostError, match="do not fit a latent of"):
            timestep_rows.fitted(field, torch.zeros(rows, 16, *sides))
