"""The command `asyncdiff`, on a fake studio: no diffusion model is loaded here."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from asyncdiff.tpm.cli import main
from asyncdiff.tpm.cli.inspect import grids
from asyncdiff.tpm.cli.shared import models
from asyncdiff.tpm.errors import AsyncDiffError, HostError
from asyncdiff.tpm.policies import Constant, Curve, save_policy
from asyncdiff.tpm.retiming.retimer import Retimer
from asyncdiff.tpm.retiming.trace import Trace

PROMPT = "a large striped red circle above a small blue square on a starry background"
GOLDEN_SIGMA = [
    1,
    0.9770,
    0.9514,
    0.9231,
    0.8922,
    0.8573,
    0.8182,
    0.7747,
    0.7244,
    0.6667,
    0.6007,
    0.5222,
    0.4286,
    0.3170,
    0.1772,
]
GOLDEN_T_STAR = [
    1,
    0.9724,
    0.9462,
    0.9174,
    0.8860,
    0.8503,
    0.8104,
    0.7660,
    0.7144,
    0.6551,
    0.5875,
    0.5065,
    0.4099,
    0.2947,
    0.1493,
]


class FakeStudio:
    """Draws stars, more of them where the policy conditions further ahead."""

    backbone = "sd3"

    def __init__(self):
        self.calls = []

    def sigma_grid(self, steps, grid):
        return grids.grid(grid, steps, grids.Shift(3.0))

    def render(self, prompts, seeds, policy, retiming, *, steps, progress=None, **options):
        self.calls.append({"prompts": prompts, "seeds": seeds, "retiming": retiming, "steps": steps, **options})
        retimer = Retimer(policy, retiming)
        retimer.begin(self.sigma_grid(steps, options["grid"]))
        for sigma in retimer.grid[:-1]:
            retimer.condition(sigma)
            if progress:
                progress()
        images = torch.stack([self._image(seed, retiming.gamma) for seed in seeds])
        return SimpleNamespace(images=images, trace=retimer.trace, seconds=0.1 * len(seeds))

    def _image(self, seed, gamma):
        generator = torch.Generator().manual_seed(seed)
        image = torch.full((3, 128, 128), 0.08)
        stars = torch.randint(2, 126, (int(12 + 20 * gamma), 2), generator=generator)
        for y, x in stars.tolist():
            image[:, y : y + 2, x : x + 2] = 1.0
        image[0, 40:80, 40:80] = 0.9
        return image


class FakeJudge:
    def score(self, images, prompts):
        bright = (images.mean(1) > 0.9).float().mean((1, 2))
        return {"attributes": torch.ones(len(prompts)), "detail": bright * 250, "noise": images.std((1, 2, 3))}


@pytest.fixture
def studio(monkeypatch):
    fake = FakeStudio()
    monkeypatch.setattr(models, "open_studio", lambda *_, **__: fake)
    return fake


@pytest.fixture
def model(tmp_path):
    """A folder that looks like an SD3 pipeline to everything but the loader."""
    folder = tmp_path / "tiny"
    (folder / "scheduler").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    (folder / "scheduler" / "scheduler_config.json").write_text('{"shift": 3.0}')
    return folder


@pytest.fixture
def judged(model, monkeypatch):
    from asyncdiff.tpm.embedded.judge import Judge

    save_file({"nothing": torch.zeros(1)}, model / models.JUDGE_FILE)
    monkeypatch.setattr(Judge, "load", lambda _: FakeJudge())
    return model


def panel(model, out, *options, policy="constant:0.4"):
    return main(["panel", *options, "--model", str(model), "--policy", policy, "--out", str(out), "--no-progress"])


def refused(capsys, *argv):
    """Run a command that must fail with a sentence; returns the sentence."""
    assert main([str(a) for a in argv]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.startswith("asyncdiff")
    return captured.err


# --- panel


def test_panel_writes_pictures_traces_and_tables(judged, studio, tmp_path, capsys):
    out = tmp_path / "out"
    assert panel(judged, out, PROMPT, "--gamma", "0", "0.5", "1", "2", "--steps", "8", "--seed", "1", "2") == 0
    assert Image.open(out / "panel.png").width > 1000
    assert Image.open(out / "chart.png").width > 1000
    assert len(list((out / "images").glob("*.png"))) == 8
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [float(row["gamma"]) for row in rows] == [0, 0.5, 1, 2]
    assert rows[0]["detail_difference"] == ""
    assert float(rows[3]["detail_low"]) > 0
    assert len(list(csv.DictReader((out / "images.csv").open()))) == 8
    printed = capsys.readouterr().out
    assert "detail dots/1k px" in printed
    assert "bootstrap" in printed


def test_panel_trace_says_everything_and_replays(model, studio, tmp_path):
    out = tmp_path / "out"
    assert panel(model, out, "a", "b", "--gamma", "0", "1", "--steps", "4", "--batch", "1") == 0
    document = json.loads((out / "trace.json").read_text())
    assert [run["gamma"] for run in document["runs"]] == [0, 0, 1, 1]
    assert [run["rows"] for run in document["runs"]] == [[0], [1], [0], [1]]
    recorded = Trace.load(out / "traces" / "gamma-1-part2.json")
    assert recorded.deviation[1:] == pytest.approx([0.4] * 3)
    again = out / "again"
    assert (
        panel(model, again, "a", "--gamma", "1", "--steps", "4", policy=str(out / "traces" / "gamma-1-part1.json")) == 0
    )
    assert Trace.load(again / "traces" / "gamma-1.json").t_star == recorded.t_star


def test_panel_passes_its_options_on(model, studio, tmp_path):
    options = ["--steps", "6", "--cfg", "2", "--size", "64x128", "--negative", "blur", "--tail-sync", "1"]
    options += [
        "--p",
        "0.5",
        "--bound",
        "1",
        "--within-interval",
        "--grid",
        "scheduler",
        "--gamma",
        "1",
        "--batch",
        "2",
    ]
    assert panel(model, tmp_path / "out", "a", "--seed", "1", "2", "3", *options) == 0
    assert [call["seeds"] for call in studio.calls] == [[1, 2], [3]]
    call = studio.calls[0]
    assert (call["steps"], call["guidance"], call["size"], call["negative"], call["grid"]) == (
        6,
        2,
        (64, 128),
        "blur",
        "scheduler",
    )
    retiming = call["retiming"]
    assert (retiming.tail_sync, retiming.velocity_coupling, retiming.bound, retiming.within_interval) == (
        1,
        0.5,
        1,
        True,
    )


def test_panel_uses_the_usual_settings_of_the_family(model, studio, tmp_path):
    assert main(["panel", "a", "--model", str(model), "--out", str(tmp_path / "out"), "--no-progress"]) == 0
    assert (studio.calls[0]["steps"], studio.calls[0]["guidance"]) == (15, 5)
    assert len(studio.calls) == 4


def test_panel_shows_progress_on_stderr(model, studio, tmp_path, capsys):
    argv = ["panel", "a", "--model", str(model), "--policy", "constant:0.1", "--out", str(tmp_path), "--steps", "3"]
    assert main(argv) == 0
    assert "12/12" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gamma", "nan"], "γ must be between 0 and 4"),
        (["--gamma", "-1"], "γ must be between"),
        (["--gamma", "5"], "γ must be between"),
        (["--gamma", "1", "1.0"], "given twice"),
        (["--gamma", "0", "a prompt"], "prompts before the options"),
        (["--steps", "0"], "steps must be between 1"),
        (["--steps", "x"], "whole number"),
        (["--cfg", "inf"], "cfg must be between"),
        (["--bound", "0"], "bound must be above 0"),
        (["--bound", "1.5"], "bound must be above 0 and at most 1"),
        (["--tail-sync", "9", "--steps", "8"], "more than the 8 steps"),
        (["--seed", "1", "1"], "given twice"),
        (["--seed", "-1"], "a seed must be between"),
        (["--size", "100"], "multiple of 16"),
        (["--size", "64x"], "one number or WIDTHxHEIGHT"),
        (["--policy", "constant:nan"], "between −1 and 1"),
        (["--policy", "constant:2"], "between −1 and 1"),
        (["--policy", "constant"], "constant:0.4"),
        (["--policy", "nowhere.json"], "nowhere.json"),
        (["--p", "nan"], "p must be between"),
    ],
)
def test_panel_refuses_bad_values_with_a_sentence(options, words, model, studio, tmp_path, capsys):
    assert words in refused(capsys, "panel", "a", "--model", model, "--out", tmp_path / "out", *options)
    assert not studio.calls


def test_panel_checks_the_prompt_before_loading(judged, studio, tmp_path, capsys):
    text = refused(capsys, "panel", "a red dragon", "--model", judged, "--out", tmp_path / "out")
    assert "dragon" in text
    assert not studio.calls


@pytest.mark.parametrize("missing", ["nowhere", "./no/where/at/all", "a/b/c"])
def test_an_unknown_model_says_what_to_give(missing, capsys):
    assert "hub id" in refused(capsys, "panel", "a", "--model", missing)


def test_a_folder_without_a_pipeline_is_named(tmp_path, capsys):
    assert "no model_index.json" in refused(capsys, "panel", "a", "--model", tmp_path)
    (tmp_path / "model_index.json").write_text("{truncated")
    assert "not valid JSON" in refused(capsys, "panel", "a", "--model", tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    assert "SDXL, SD1.x and SD2.x" in refused(capsys, "panel", "a", "--model", tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "QwenImageEditPipeline"}')
    assert "does not make pictures from text alone" in refused(capsys, "panel", "a", "--model", tmp_path)


def test_a_policy_for_another_backbone_is_refused_before_loading(model, studio, tmp_path, capsys):
    path = save_policy(tmp_path / "flux.json", Constant(0.2, backbone="flux"))
    text = refused(capsys, "panel", "a", "--model", model, "--policy", path, "--out", tmp_path / "out")
    assert "flux" in text
    assert "sd3" in text
    assert not studio.calls


@pytest.mark.parametrize("content", [b"", b"{", b"\x00\xff", b"[]", b'{"format": "asyncdiff-policy", "version": 99}'])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_damaged_policy_file_is_a_sentence(content, suffix, model, studio, tmp_path, capsys):
    path = tmp_path / f"policy{suffix}"
    path.write_bytes(content)
    assert str(path) in refused(capsys, "panel", "a", "--model", model, "--policy", path, "--out", tmp_path / "out")


def test_an_output_folder_that_is_a_file_is_refused(model, studio, tmp_path, capsys):
    (tmp_path / "file").touch()
    text = refused(capsys, "panel", "a", "--model", model, "--policy", "constant:0", "--out", tmp_path / "file")
    assert "choose another --out" in text
    assert not studio.calls


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] not enough memory")],
)
def test_running_out_of_memory_says_what_to_try(error, model, studio, tmp_path, capsys):
    def fail(*_, **__):
        raise error

    studio.render = fail
    text = refused(capsys, "panel", "a", "--model", model, "--policy", "constant:0", "--out", tmp_path, "--no-progress")
    assert "--batch" in text


def test_ctrl_c_is_quiet(model, studio, tmp_path, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    studio.render = interrupt
    assert panel(model, tmp_path, "a") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(model, studio, tmp_path):
    def fail(*_, **__):
        raise ZeroDivisionError

    studio.render = fail
    with pytest.raises(ZeroDivisionError):
        panel(model, tmp_path, "a")


# --- loading


def test_a_model_that_cannot_be_loaded_is_a_sentence(model):
    pytest.importorskip("diffusers")
    with pytest.raises(HostError, match="cannot be loaded"):
        models.open_studio(models.locate(str(model)), None, "cpu")


def test_a_device_that_is_not_there_is_a_sentence(model):
    with pytest.raises(AsyncDiffError, match="not available here"):
        models.open_studio(models.locate(str(model)), None, "nonsense")


def test_a_hub_id_is_not_looked_for_on_disk():
    assert models.locate("black-forest-labs/FLUX.1-dev").defaults().steps == 10
    assert models.locate("stabilityai/stable-diffusion-3.5-medium").defaults().cfg == 5


# --- inspect


def test_inspect_prints_the_golden_table_and_a_chart(tmp_path, capsys):
    out = tmp_path / "chart.png"
    assert main(["inspect", "constant:0.2", "--gamma", "1", "--out", str(out)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if len(line) == 3 and line[0].isdigit()]
    assert [float(row[1]) for row in rows] == GOLDEN_SIGMA
    assert [float(row[2]) for row in rows] == GOLDEN_T_STAR
    assert Image.open(out).width > 1000


def test_inspect_tells_what_a_file_says(tmp_path, capsys):
    about = {"source": "the paper", "note": "a mean"}
    path = save_policy(tmp_path / "p.json", Constant(0.2, backbone="sd3", name="mean", about=about))
    assert main(["inspect", str(path), "--out", str(tmp_path / "c.png")]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("mean", "sd3", "the paper", "+0.200"))


@pytest.mark.parametrize(("axis", "said"), [("sigma", "σ"), ("step", "step k/K"), ("log_snr", "log-SNR")])
def test_inspect_says_what_a_curve_is_drawn_over(tmp_path, capsys, axis, said):
    path = save_policy(tmp_path / "p.json", Curve([(0.25, 0.1), (0.75, 0.3)], axis=axis))
    assert main(["inspect", str(path), "--out", str(tmp_path / "c.png")]) == 0
    printed = capsys.readouterr().out
    assert f"curve over {said}" in printed
    assert f"D over {said}: +0.10 at 0.25, +0.30 at 0.75" in printed


def test_inspect_takes_the_shift_from_a_model(model, tmp_path, capsys):
    (model / "scheduler" / "scheduler_config.json").write_text('{"shift": 1.0}')
    out = tmp_path / "c.png"
    assert main(["inspect", "constant:0", "--model", str(model), "--steps", "2", "--out", str(out)]) == 0
    assert "1      0.5000" in capsys.readouterr().out


def test_inspect_shows_a_trace_on_its_own_grid(tmp_path, capsys):
    retimer = Retimer(Constant(0.3))
    retimer.begin([1.0, 0.5, 0.0])
    for sigma in (1.0, 0.5):
        retimer.condition(sigma)
    path = retimer.trace.save(tmp_path / "trace.json")
    assert main(["inspect", str(path), "--gamma", "1", "--out", str(tmp_path / "c.png")]) == 0
    assert "0.3500" in capsys.readouterr().out
    assert "steps" in refused(capsys, "inspect", path, "--steps", "3", "--out", tmp_path / "c.png")


def test_inspect_shows_a_tpm_as_the_range_it_may_choose_from(tmp_path, capsys):
    from asyncdiff.tpm.policies.checkpoint import Card, save_tpm
    from asyncdiff.tpm.policies.network import TPM, TPMConfig

    tpm = TPM(TPMConfig(backbone="sd3", latent_channels=4, context_dim=8, pooled_dim=8, width=16, heads=2, layers=1))
    path = save_tpm(
        tmp_path / "t.safetensors", tpm, Card("sd3", name="small", sigmas=[1.0, 0.5, 0.0], metrics={"R": 0.1})
    )
    assert main(["inspect", str(path), "--gamma", "1", "--steps", "4", "--out", str(tmp_path / "c.png")]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("parameters", "trained on", "measured R", "…"))


# --- grids


@pytest.mark.parametrize("steps", [1, 4, 15, 28])
@pytest.mark.parametrize("name", ["simple", "scheduler"])
def test_grids_are_those_of_diffusers(name, steps):
    scheduler = pytest.importorskip("diffusers").FlowMatchEulerDiscreteScheduler(shift=3.0)
    if name == "simple":
        scheduler.set_timesteps(sigmas=[(1000 - int(k * 1000 / steps)) / 1000 for k in range(steps)])
    else:
        scheduler.set_timesteps(steps)
    assert grids.grid(name, steps, grids.Shift(3.0)) == pytest.approx(scheduler.sigmas.tolist(), abs=1e-6)


def test_flux_grids_depend_on_the_size(tmp_path):
    scheduler = pytest.importorskip("diffusers").FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
    )
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    scheduler.save_pretrained(tmp_path / "scheduler")
    shift = grids.shift_of(models.locate(str(tmp_path)), (512, 768))
    mu = 0.5 + 0.65 * (32 * 48 - 256) / (4096 - 256)
    scheduler.set_timesteps(10, mu=mu, sigmas=[1 - k / 10 for k in range(10)])
    assert grids.grid("scheduler", 10, shift) == pytest.approx(scheduler.sigmas.tolist(), abs=1e-5)


@pytest.mark.parametrize(("given", "tail"), [([], 1), (["--tail-sync", "0"], 0), (["--tail-sync", "2"], 2)])
def test_a_policy_is_applied_as_it_was_made_unless_options_say_otherwise(studio, model, tmp_path, given, tail):
    policy = ["--policy", "constant-one-tail", "--gamma", "1", *given]
    assert main(["panel", "a", *policy, "--model", str(model), "--out", str(tmp_path / "out"), "--no-progress"]) == 0
    assert studio.calls[-1]["retiming"].tail_sync == tail


def test_a_policy_of_another_solver_is_one_line(tmp_path, capsys):
    command = ["panel", "a red circle", "--steps", "2", "--gamma", "1", "--no-progress", "--out", str(tmp_path)]
    assert main([*command, "--solver", "dpmpp_2m", "--policy", "tiny-sd35-curve"]) == 0
    assert capsys.readouterr().err.count("Warning: ") == 1
    assert json.loads((tmp_path / "trace.json").read_text())["solver"] == "dpmpp_2m"
    assert main([*command, "--policy", "tiny-sd35-curve"]) == 0
    assert "Warning" not in capsys.readouterr().err
