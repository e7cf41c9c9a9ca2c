"""The report of a training run: everything in one file, whatever the journal holds or lacks."""

import json
import logging
import re
import sys

import pytest
from PIL import Image

from asyncdiff.tpm.training.grpo.report import POINTS, ReportError, draw_report, write_report
from asyncdiff.tpm.training.grpo.tensorboard import TensorBoardLog, scalars

LEARNED = {
    "ratio_min": 0.9,
    "ratio_max": 1.1,
    "clip_fraction": 0.0,
    "kl": 0.001,
    "entropy": -0.1,
    "concentration": 4.0,
    "first_ratio_error": 0.0,
    "gradient_norm": 2.0,
    "skipped": 0,
}


def record(number, probe=False, signal=True):
    made = {
        "iteration": number,
        "trajectories": 8,
        "signal": signal,
        "metrics": {"alignment": 0.9 + number / 1000, "detail": 1.0},
        "D": [0.1, 0.2],
        "D_std": [0.3, 0.2],
        "at_bound": 0.0,
        "clamped": 0.01,
        "problem": None if signal else "The metric <b>detail</b> gave nothing.",
        "prompt": "a circle",
        "probe": None,
        "seconds": 3.0,
        "time": {"render": 0.8, "tpm": 0.1, "other": 0.1},
    }
    if probe:
        compared = {"metrics": {"alignment": 0.95}, "paired": {"alignment": 0.01}, "gain": 0.2}
        made["probe"] = {**compared, "noise": 0.05, "synchronous_noise": 0.04}
    return made | (LEARNED if signal else {})


def write(folder, records):
    folder.mkdir(exist_ok=True)
    (folder / "journal.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in records))
    return folder


def test_a_report_is_one_file_that_needs_nothing_else(tmp_path):
    folder = write(tmp_path / "run & co", [record(n, probe=n % 5 == 0) for n in range(1, 21)])
    files = write_report(folder)
    assert [file.name for file in files] == ["report.png", "report.html"]
    assert Image.open(files[0]).height > 2000
    page = files[1].read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"<script|https?://|<link|src=\"(?!data:)", page)
    assert "Training of run &amp; co" in page
    assert "20 iterations, 160 trajectories" in page
    assert "<td>alignment</td><td>0.95</td><td>+0.01</td>" in page


def test_problems_are_told_and_escaped(tmp_path):
    page = write_report(write(tmp_path / "run", [record(1), record(2, signal=False)]))[1].read_text()
    assert "1 taught nothing; the last: The metric &lt;b&gt;detail&lt;/b&gt;" in page


@pytest.mark.parametrize("records", [[record(1)], [record(1, signal=False)], [record(1, probe=True), record(2)]])
def test_short_runs_without_updates_or_comparisons_are_drawn(records):
    sheets = draw_report(records)
    assert len(sheets) == (3 if "entropy" not in records[0] else 4)


def test_long_runs_are_averaged(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "asyncdiff.tpm.training.grpo.report.line_chart",
        lambda plots, **words: seen.extend(plots) or Image.new("RGB", (1, 1)),
    )
    draw_report([record(n) for n in range(1, 1001)])
    line = next(plot for plot in seen if plot.title == "alignment").series[0]
    assert len(line.x) <= POINTS
    assert line.y[0] == pytest.approx(0.9 + line.x[0] / 1000)
    assert line.low[0] < line.y[0] < line.high[0]


def test_nothing_to_report_is_a_sentence(tmp_path):
    with pytest.raises(ReportError, match="no iteration"):
        write_report(tmp_path)


def test_every_number_of_a_record_is_a_scalar():
    found = dict(scalars(record(3, probe=True)))
    assert found["score/alignment"] == pytest.approx(0.903)
    assert found["D/step 2"] == 0.2
    assert found["probe/gain"] == 0.2
    assert found["probe/score/alignment"] == 0.95
    assert found["time share/render"] == 0.8
    assert found["gradient_norm"] == 2.0
    assert not {"iteration", "prompt", "problem"} & set(found)


def test_tensorboard_reads_what_was_added_and_forgets_what_was_resumed_over(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TensorBoardLog(tmp_path)
    for n in range(1, 6):
        log.add(record(n))
    log.close()
    again = TensorBoardLog(tmp_path, purge_step=4)
    again.add(record(4))
    again.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("score/alignment")] == [1, 2, 3, 4]


def test_without_tensorboard_it_says_so_and_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.WARNING):
        log = TensorBoardLog(tmp_path / "logs")
    assert "TensorBoard is not installed" in caplog.text
    log.add(record(1))
    log.close()
    assert not (tmp_path / "logs").exists()
