"""The command `asyncdiff pixelwise` on the embedded pipeline, and on a tiny SD2 folder."""

import json

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from asyncdiff.tpm.cli import main

PROMPT = "a large red circle above a small blue square"
SHORT = ["--steps", "2", "--no-progress"]


def pictures(folder):
    return sorted(path.name for path in (folder / "images").iterdir())


def pixels(path):
    return Image.open(path).convert("RGB").tobytes()


def levels(path):
    return torch.frombuffer(bytearray(pixels(path)), dtype=torch.uint8).int()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two seeds of one prompt."""
    out = tmp_path_factory.mktemp("runs") / "out"
    assert main(["pixelwise", PROMPT, "--seed", "3", "4", *SHORT, "--k", "0.7", "--out", str(out)]) == 0
    return out


def test_it_writes_the_papers_files(drawn, capsys):
    kinds = ("base", "base2", "regions", "tgt")
    assert pictures(drawn) == [f"0000{row}_{kind}.png" for row in (0, 1) for kind in kinds]
    assert json.loads((drawn / "prompt.json").read_text()) == [PROMPT, PROMPT]
    document = json.loads((drawn / "run.json").read_text())
    assert [row["names"] for row in document["rows"]] == [["large red circle", "small blue square"]] * 2
    assert document["rows"][0]["strengths"] == [0.7, 0.7]
    assert document["rows"][0]["tokens"] == [[2, 3, 4], [7, 8, 9]]
    assert Image.open(drawn / "panel.png").width > 800
    images = {kind: pixels(drawn / "images" / f"00000_{kind}.png") for kind in kinds}
    assert len(set(images.values())) == 4


def test_base_is_the_untouched_pipeline(drawn):
    from asyncdiff.tpm.cli.shared import models
    from asyncdiff.tpm.drawing import to_pil

    studio = models.open_studio(models.locate("embedded"), None, "cpu")
    expected = studio.render([PROMPT] * 2, [3, 4], steps=2, guidance=3.0).images
    assert to_pil(expected[1]).tobytes() == pixels(drawn / "images" / "00001_base.png")


def test_it_resumes_and_refuses_another_runs_folder(drawn, capsys):
    target, kept = (drawn / "images" / name for name in ("00001_tgt.png", "00000_tgt.png"))
    before, stamp = levels(target), kept.stat().st_mtime_ns
    target.unlink()
    again = ["pixelwise", PROMPT, "--seed", "3", "4", *SHORT, "--out", str(drawn)]
    assert main([*again, "--k", "0.7"]) == 0
    assert kept.stat().st_mtime_ns == stamp
    assert (levels(target) - before).abs().max() <= 2  # drawn alone, not in a batch of two
    assert "tgt (pixel-wise)" in capsys.readouterr().out
    assert main([*again, "--k", "0.6"]) == 2
    assert "holds another run" in capsys.readouterr().err


def test_prompts_and_items_in_the_papers_layout(tmp_path, capsys):
    other = "a ring on a starry background"
    (tmp_path / "p.json").write_text(json.dumps([PROMPT, other]))
    items = {"item_idx": {PROMPT: [3, [7, 8]], other: [1]}, "item_k": {PROMPT: [0.3, 0.7], other: [0.5]}}
    (tmp_path / "i.json").write_text(json.dumps(items))
    files = ["--prompts", str(tmp_path / "p.json"), "--items", str(tmp_path / "i.json")]
    out = tmp_path / "out"
    options = ["--curve", "exp", "--static-mask", "--policy", "constant:0.4", "--gamma", "2"]
    assert main(["pixelwise", *files, *options, *SHORT, "--out", str(out)]) == 0
    document = json.loads((out / "run.json").read_text())
    assert [row["names"] for row in document["rows"]] == [["circle", "blue square"], ["ring"]]
    assert (document["curve"], document["static"], document["retiming"]["gamma"]) == ("exponential", True, 2.0)
    assert len(pictures(out)) == 8


def test_drawn_masks(tmp_path):
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    mask.save(tmp_path / "left.png")
    out = tmp_path / "out"
    lines = tmp_path / "prompts.csv"  # the one reader of prompt files: a header is no prompt
    lines.write_bytes(b"\xef\xbb\xbfPrompt,n\na red circle,1\na star,2\n")
    assert (
        main(["pixelwise", "--prompts", str(lines), "--mask", str(tmp_path / "left.png"), *SHORT, "--out", str(out)])
        == 0
    )
    regions = Image.open(out / "images" / "00001_regions.png").convert("RGB")
    assert regions.getpixel((10, 60)) != regions.getpixel((100, 60))
    rows = json.loads((out / "run.json").read_text())["rows"]
    assert [row["prompt"] for row in rows] == ["a red circle", "a star"]
    assert rows[0]["names"] == ["left"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Give either prompts"),
        ([PROMPT, "--prompts", "x.json"], "Give either prompts"),
        (["--prompts", "nothing.json"], "There is no file nothing.json"),
        ([PROMPT, "--item", "ring"], "'ring' is not in the prompt"),
        (["a starry sky"], "names no object"),
        ([PROMPT, "--k", "0.1", "0.2", "0.3"], "3 strengths, but there are 2 items"),
        ([PROMPT, "--k", "1.5"], "k must be between 0 and 1"),
        ([PROMPT, "a star", "--item", "star"], "one prompt"),
        ([PROMPT, "--item", "circle", "--mask", "a.png"], "exclude each other"),
        ([PROMPT, "--mask", "a.png", "--static-mask"], "drawn masks never move"),
        ([PROMPT, "--mask", "nothing.png"], "There is no file nothing.png"),
        ([PROMPT, "--eta", "1"], "belongs to DDIM"),
        (["a zebra"], "closed vocabulary"),
        ([PROMPT, "--model", "black-forest-labs/FLUX.1-dev"], "FLUX|cannot be loaded"),
        ([PROMPT, "--curve", "cubic"], "there is no 'cubic'"),
        ([PROMPT, "--tail-sync", "9", "--steps", "2"], "more than the 2 steps"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["pixelwise", *arguments, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert any(word in message for word in words.split("|"))
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"item_idx": {PROMPT: [3]}}, "another layout"),
        ({"item_idx": {PROMPT: [3]}, "item_k": {PROMPT: [0.5, 0.5]}}, "as many item_k"),
        ({"item_idx": {PROMPT: [[]]}, "item_k": {PROMPT: [0.5]}}, "at least one token|whole numbers"),
        ({"item_idx": {PROMPT: ["red"]}, "item_k": {PROMPT: [0.5]}}, "whole numbers"),
        ({"item_idx": {PROMPT: [3]}, "item_k": {PROMPT: [7]}}, "from 0 to 1"),
        ({"item_idx": {PROMPT: [30]}, "item_k": {PROMPT: [0.5]}}, "there is no token 30"),
        ({"item_idx": {}, "item_k": {}}, "no entry for the prompt"),
    ],
)
def test_bad_item_files_are_sentences(tmp_path, capsys, document, words):
    file = tmp_path / "items.json"
    file.write_text(json.dumps(document))
    assert main(["pixelwise", PROMPT, "--items", str(file), *SHORT, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert any(word in message for word in words.split("|"))


def test_a_mask_of_another_shape_or_kind_is_a_sentence(tmp_path, capsys):
    Image.new("L", (64, 16), 255).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, words in (("wide.png", "not the shape of the image"), ("text.png", "cannot be read as an image")):
        assert (
            main(["pixelwise", PROMPT, "--mask", str(tmp_path / name), *SHORT, "--out", str(tmp_path / name[:4])]) == 2
        )
        assert words in capsys.readouterr().err


@pytest.fixture(scope="module")
def sd2_folder(tmp_path_factory):
    """StableDiffusionPipeline with tiny random weights, PNDM as SD2.1-base has it, and a real tokenizer class."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    from asyncdiff.tpm.embedded.text import new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer(24)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=24, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=8,
        block_out_channels=(16, 16, 16), cross_attention_dim=16, attention_head_dim=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=8, block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True
    )
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae, unet=unet, scheduler=scheduler, tokenizer=tokenizer, text_encoder=text, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "tiny-sd2"
    pipe.save_pretrained(folder)
    return folder


def test_a_unet_pipeline_by_path(sd2_folder, tmp_path, capsys):
    out, run = tmp_path / "out", ["pixelwise", "a ring left of a box", "--model", str(sd2_folder), *SHORT]
    assert main([*run, "--k", "0.7", "0.3", "--out", str(out)]) == 0
    document = json.loads((out / "run.json").read_text())
    assert (document["eta"], document["cfg"], document["rows"][0]["names"]) == (1.0, 5.0, ["ring", "box"])
    images = {kind: pixels(out / "images" / f"00000_{kind}.png") for kind in ("base", "base2", "tgt")}
    assert len(set(images.values())) == 3
    assert main([*run, "--policy", "constant:0.2", "--out", str(tmp_path / "other")]) == 2
    assert "flow model" in capsys.readouterr().err
