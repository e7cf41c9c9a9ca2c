"""`asyncdiff panel` on folders of SDXL and SD1.5 pipelines with small random networks."""

import json

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from asyncdiff.tpm.cli import main
from asyncdiff.tpm.drawing.pixels import to_pil
from asyncdiff.tpm.retiming.trace import Trace
from support import saved_pipelines as saved

PROMPT, TIMES = "a ring left of a box", [999, 666, 333]
SHORT = ["--steps", "3", "--size", "64", "--gamma", "0", "1", "--device", "cpu", "--no-progress"]


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return saved.save_sdxl(tmp_path_factory.mktemp("models") / "tiny-sdxl")


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return saved.save_sd1(tmp_path_factory.mktemp("models") / "tiny-sd1")


def stock_picture(folder, **call):
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    sampling = {"guidance_scale": 5.0, "width": 64, "height": 64, "generator": torch.Generator().manual_seed(1)}
    return to_pil(pipe(PROMPT, negative_prompt="", output_type="pt", **sampling, **call).images[0].float())


def test_a_panel_of_sdxl(sdxl, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["panel", PROMPT, "--model", str(sdxl), *SHORT, "--out", str(out)]) == 0, capsys.readouterr().err
    with Image.open(out / "panel.png") as panel:
        assert panel.width > 2 * 64
        assert panel.height > 64
    synchronous, moved = (Image.open(out / "images" / f"row01-seed1-gamma{gamma}.png") for gamma in (0, 1))
    assert synchronous.tobytes() == stock_picture(sdxl, timesteps=TIMES).tobytes()
    assert moved.tobytes() != synchronous.tobytes()
    trace = Trace.load(out / "traces" / "gamma-1.json")
    assert trace.policy["name"] == "sdxl-start"
    assert trace.sigmas == pytest.approx([1.0, 0.667, 0.334, 0.0])
    assert trace.t_star == pytest.approx([1.0, 0.667 - 0.2 * 0.333, 0.334 - 0.2 * 0.333])


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m"])
def test_the_pipelines_own_grid_and_other_solvers(solver, sdxl, tmp_path):
    grid = "simple" if solver == "heun" else "scheduler"
    run = ["panel", PROMPT, "--model", str(sdxl), *SHORT, "--grid", grid, "--solver", solver]
    assert main([*run, "--out", str(tmp_path / grid)]) == 0


def test_sd1_has_no_preset_and_gets_euler_in_place_of_pndm(sd1, tmp_path, capsys):
    assert main(["panel", PROMPT, "--model", str(sd1), *SHORT, "--out", str(tmp_path / "out")]) == 0
    assert "There is no preset for sd1: this is constant:0.2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--solver", "res_multistep"], "no scheduler that steps as res_multistep"),
        (["--policy", "sd35-coco"], "was made for sd3, the model is sdxl"),
    ],
)
def test_what_does_not_fit_sdxl_is_a_sentence(options, words, sdxl, tmp_path, capsys):
    run = ["panel", PROMPT, "--model", str(sdxl), *SHORT, "--out", str(tmp_path / "out")]
    assert main([*run, *options]) == 2
    assert words in capsys.readouterr().err


def test_karras_spacing_is_a_sentence_for_the_simple_grid(sdxl, tmp_path, capsys):
    import shutil

    folder = shutil.copytree(sdxl, tmp_path / "karras")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_karras_sigmas": True}))
    run = ["panel", PROMPT, "--model", str(folder), *SHORT, "--out", str(tmp_path / "out")]
    assert main(run) == 2
    assert "use grid='scheduler'" in capsys.readouterr().err
    assert main([*run, "--grid", "scheduler"]) == 0


def test_inspect_knows_the_simple_grid_of_sdxl(sdxl, tmp_path, capsys):
    run = ["inspect", "constant:0.2", "--model", str(sdxl), "--steps", "3", "--out", str(tmp_path / "inspect.png")]
    assert main(run) == 0
    assert "0.667" in capsys.readouterr().out
    assert main([*run, "--grid", "scheduler"]) == 2
    assert "simple grid" in capsys.readouterr().err


def test_training_without_a_recipe_is_a_sentence(sdxl, capsys, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n", encoding="utf-8")
    assert main(["train", "--model", str(sdxl), "--prompts", str(prompts)]) == 2
    assert "There is no recipe for sdxl yet" in capsys.readouterr().err
