"""Pictures: legible, complete, and never in each other's way."""

import time

import numpy as np
import pytest
from PIL import Image

from asyncdiff.tpm.drawing import Cell, Row, draw_panel, retiming_chart, step_distribution, to_pil
from asyncdiff.tpm.drawing.axes import Frame, round_ticks, tick_labels
from asyncdiff.tpm.drawing.canvas import Canvas
from asyncdiff.tpm.drawing.fonts import font, shorten, text_width, wrap
from asyncdiff.tpm.drawing.pixels import fitted
from asyncdiff.tpm.drawing.scores import Judged, draw_scores
from asyncdiff.tpm.drawing.theme import PAPER, RAMP, ramp
from asyncdiff.tpm.numbers import signed

SIGMAS = [1.0, 0.9, 0.75, 0.5, 0.2]
RED = (201, 13, 17)


def red(width=128, height=128):
    return Image.new("RGB", (width, height), RED)


def is_red(picture):
    return (np.asarray(picture) == RED).all(-1)


@pytest.mark.parametrize("sign", "γσρωΔαβφ·²±×−→≤≥…–°%*")
def test_the_font_has_every_sign_that_is_used(sign):
    for bold in (False, True):
        face = font(40, bold)
        assert bytes(face.getmask(sign)) != bytes(face.getmask("\ue000")), sign


def test_wrapping_keeps_all_words_within_the_width():
    text = "a large striped red circle above a small blue square on a starry background"
    lines = wrap(text, 16, 200)
    assert " ".join(lines) == text
    assert all(text_width(line, 16) <= 200 for line in lines)
    assert wrap("", 16, 200) == []


def test_what_does_not_fit_ends_in_an_ellipsis():
    assert wrap("one two three four five six", 16, 60, max_lines=2)[-1].endswith("…")
    assert text_width(shorten("x" * 500, 16, 100), 16) <= 100
    assert len(wrap("x" * 500, 16, 100)) > 5


ODD = ["two\nlines", "tab\there", "\r\n", "\u2028", "nul\0", "half \ud83d", "\x1b[31m", "🦊, 漢字 and עברית", "", " "]
ODD += ["x" * 10**6, "word " * 10**5]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_any_text_of_a_user_can_be_drawn(text):
    cell = Cell(Image.new("RGB", (64, 64)), [(text[:99], text[:99])])
    began = time.monotonic()
    draw_panel([Row(text, [cell], text)], [text], title=text, column_notes=[text])
    assert time.monotonic() - began < 20
    canvas = Canvas(60, 40)
    canvas.text(2, 20, text[:99], 12)
    canvas.finish()
    assert text_width(shorten(text, 16, 100), 16) <= 100


def test_a_canvas_smooths_shapes_and_keeps_pictures():
    canvas = Canvas(60, 40)
    canvas.line([(0, 0), (59, 39)], (0, 0, 0), 2)
    canvas.line([(0, 39), (59, 39)], (0, 0, 0), 2, dash=4)
    canvas.picture(red(10, 10), 40, 3)
    page = canvas.finish()
    assert page.size == (60, 40)
    assert is_red(page).sum() == 100
    assert len(np.unique(np.asarray(page)[:20, :30, 0])) > 3


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.013, 0.117), (-0.5, 0.5), (3, 3), (1e-4, 3e-4)])
def test_ticks_are_round_and_cover_the_data(low, high):
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 12
    assert not low < ticks[0] - 1e-12
    assert not high > ticks[-1] + 1e-12
    assert len(set(tick_labels(ticks))) == len(ticks)


def test_tick_labels_use_a_real_minus_and_plain_zero():
    assert tick_labels([-0.5, 0.0, 0.5]) == ["−0.5", "0.0", "0.5"]


def test_a_frame_maps_corners_and_leaves_out_nan():
    frame = Frame(10, 20, 110, 220, (0, 1), (0, 2))
    assert frame.at(0, 0) == (10, 220)
    assert frame.at(1, 2) == (110, 20)
    assert frame.path([0, 1], [float("nan"), 2]) == [(110, 20)]


def test_small_images_grow_by_a_whole_factor_and_large_ones_shrink():
    assert fitted(red(128, 128), 300).size == (256, 256)
    assert fitted(red(64, 32), 300).size == (320, 160)
    assert fitted(red(1024, 512), 300).size == (300, 150)


@pytest.mark.parametrize(
    ("columns", "size"), [(1, (128, 128)), (4, (128, 128)), (4, (512, 768)), (9, (128, 128)), (2, (1024, 1024))]
)
def test_a_panel_shows_every_image_whole(columns, size):
    cells = [Cell(red(*size), [("detail", "7.3 dots/1k px"), ("noise", "1.20 /255")])] * columns
    rows = [Row("a long prompt " * 6, cells, detail=f"seed {seed}") for seed in range(2)]
    rows.append(Row("mean of 2", [Cell(None, cell.measurements) for cell in cells]))
    page = draw_panel(rows, [f"γ = {n}" for n in range(columns)], title="Title", subtitle="sub", footer="foot " * 60)
    shown = fitted(red(*size), max(128, int(is_red(page).any(0).sum() / columns)))
    assert is_red(page).sum() == pytest.approx(2 * columns * shown.width * shown.height, rel=0.01)
    assert (np.asarray(page)[:, [0, -1]] == PAPER).all()


def test_a_panel_of_four_small_images_fills_a_screen():
    rows = [Row("a prompt of some length that wraps", [Cell(red())] * 4)]
    assert 1300 <= draw_panel(rows, list("abcd"), title="t").width <= 1800


def test_a_retiming_chart_draws_every_run():
    runs = {
        "γ = 0": [[s] for s in SIGMAS],
        "γ = 1": [[s * 0.9] for s in SIGMAS],
        "γ = 2": [[s * 0.7, s * 0.8] for s in SIGMAS],
    }
    page = retiming_chart(SIGMAS, runs, title="t", subtitle="s")
    assert all((np.asarray(page) == colour).all(-1).any() for colour in ramp(2))


def test_charts_of_one_step_and_of_broken_values_are_drawn():
    assert retiming_chart([1.0], {"γ = 1": [[1.0]]}, title="one").height > 300
    assert retiming_chart([1.0, 0.5], {"γ = 1": [[1.0], [float("nan")]]}, title="nan").height > 300
    assert step_distribution([[], [0.1], [0.1, 0.2, 0.3, float("nan"), 0.5]], title="few").height > 300


def test_arrays_become_pictures_and_nan_becomes_black():
    array = np.zeros((3, 4, 6), np.float32)
    array[0], array[1, 0, 0] = 2.0, np.nan
    picture = to_pil(array)
    assert picture.size == (6, 4)
    assert picture.getpixel((0, 0)) == (255, 0, 0)


def judged(*values, picture=None):
    return Judged(picture or red(), "image 1", "a prompt that needs several lines of the narrow column", values[0], [
        (value, value) for value in values[1:]
    ])  # fmt: skip


def test_a_table_of_scores_shows_every_picture_and_grows_with_rows_and_metrics():
    small = draw_scores([judged(1.0, 0.5)], ["PickScore"], title="T")
    large = draw_scores([judged(1.0, 0.5, -1), judged(-1.0, -0.5, 1)], ["PickScore", "CLIP Score"], title="T")
    assert [is_red(page).sum() for page in (small, large)] == [120 * 120, 2 * 120 * 120]
    assert large.width > small.width
    assert large.height > small.height


def test_a_bar_of_the_table_goes_right_where_the_score_is_above_the_mean():
    def coloured(value):
        page = np.asarray(draw_scores([judged(value)], [], title="T", subtitle="S"), dtype=int)
        return np.nonzero((abs(page - RAMP[2]).max(-1) < 30).any(0))[0], page

    right, page = coloured(2.0)
    left, _ = coloured(-2.0)
    assert right.size > 60
    assert left.size == 0
    narrow, _ = coloured(0.5)
    assert 0 < narrow.size < right.size < page.shape[1] / 3


def test_a_picture_of_any_shape_fits_its_cell():
    for size in ((2000, 10), (3, 900), (1, 1)):
        assert is_red(draw_scores([judged(0.0, picture=red(*size))], [], title="T")).sum() > 0


def test_scores_have_a_sign_and_zero_has_none():
    assert [signed(value, 2) for value in (1.234, -0.5, 0.001, -0.001)] == ["+1.23", "\u22120.50", "0.00", "0.00"]
