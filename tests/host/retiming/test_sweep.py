"""γ Sweep keeps what it sampled: any title can be drawn, and a page that cannot is replaced by the pictures."""

import pytest
import torch

from support.retiming_runs import sweep

pytestmark = pytest.mark.host


@pytest.mark.parametrize(
    "title", ["two\nlines", "tab\tand\r\nreturn", "a\u2028b", "nul\0", "half \ud83d", " ", "x" * 5000]
)
def test_a_sweep_survives_any_title(server, title):
    (page,) = server.images(server.run(sweep("0, 2", title=title)), node="grid")
    assert min(page.size) > 250


def test_a_page_that_cannot_be_drawn_is_replaced(comfy, caplog):
    from asyncdiff.nodes.images import page

    pictures = torch.rand(1, 8, 16, 3)
    assert page(lambda: 1 / 0, instead=pictures) is pictures
    assert page(lambda: 1 / 0).shape == (1, 64, 64, 3)
    assert "ZeroDivisionError" in caplog.text
