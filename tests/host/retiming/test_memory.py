"""A checkpoint that is replaced is freed at once: the hooks of an asynchronous model hold no model."""

import gc
import logging
import weakref

import pytest

from support import stand_ins
from support.retiming_runs import asynchronous

pytestmark = pytest.mark.host


@pytest.fixture(params=["with the garbage collector", "without"])
def collector(request):
    gc.collect()
    if request.param == "without":
        gc.disable()
    yield
    gc.enable()


def live_after(run, patch, checkpoints=3, prompts=9):
    """Models alive after each prompt, when every prompt asks for another checkpoint than the one before."""
    models, alive, current = [], [], None
    for number in range(prompts):
        current = patch(stand_ins.load(stand_ins.sd35(depth=1 + number % checkpoints)))
        models.append(weakref.ref(current.model))
        run(current, steps=2)
        alive.append(sum(model() is not None for model in models))
    return alive


@pytest.mark.parametrize("patch", [lambda model: model, asynchronous], ids=["stock", "asynchronous"])
def test_old_checkpoints_die(run, collector, caplog, patch):
    with caplog.at_level(logging.INFO):
        assert live_after(run, patch) == [1] * 9
    assert [record.message for record in caplog.records if "leak" in record.message] == []
