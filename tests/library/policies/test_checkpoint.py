"""TPM files: what is written comes back; what does not fit is a sentence."""

import json

import pytest
import torch
from safetensors.torch import save_file

from asyncdiff.tpm.errors import CheckpointError
from asyncdiff.tpm.policies.checkpoint import METADATA_KEY, Card, load_tpm, read_card, save_tpm
from asyncdiff.tpm.policies.network import TPM, TPMConfig

CONFIG = TPMConfig("sd3", latent_channels=4, context_dim=6, pooled_dim=4, width=8, heads=2, layers=1, grid=2)
CARD = Card("sd3", bound=1.0, name="mine", sigmas=[1.0, 0.5, 0.0], metrics={"reward": 0.1}, about={"steps": 2})


@pytest.fixture
def tpm():
    torch.manual_seed(0)
    module = TPM(CONFIG)
    torch.nn.init.normal_(module.head.last.weight)
    return module


def rewrite(path, tpm, edit_header=None, edit_tensors=None, metadata=True):
    """A file like save_tpm's, with something wrong in it."""
    header = {"format": "asyncdiff-tpm", "version": 1, "config": CONFIG.to_dict(), "card": CARD.to_dict()}
    tensors = {name: value.clone() for name, value in tpm.state_dict().items()}
    if edit_header:
        edit_header(header)
    if edit_tensors:
        edit_tensors(tensors)
    save_file(tensors, path, {METADATA_KEY: json.dumps(header)} if metadata else None)


def test_round_trip(tmp_path, tpm):
    loaded, card = load_tpm(save_tpm(tmp_path / "new" / "tpm.safetensors", tpm, CARD))
    assert card == CARD
    assert loaded.config == CONFIG
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(tpm.state_dict().values(), loaded.state_dict().values(), strict=True))
    assert read_card(tmp_path / "new" / "tpm.safetensors") == (CONFIG, CARD)


def test_half_precision_weights_are_stored_and_loaded_as_fp32(tmp_path, tpm):
    loaded, _ = load_tpm(save_tpm(tmp_path / "tpm.safetensors", tpm.half(), CARD))
    assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())


def test_saving_leaves_one_file_and_replaces_the_old_one(tmp_path, tpm):
    path = tmp_path / "tpm.safetensors"
    save_tpm(path, tpm, CARD)
    save_tpm(path, tpm, CARD)
    assert [file.name for file in tmp_path.iterdir()] == ["tpm.safetensors"]


def test_a_failed_save_keeps_the_old_file(tmp_path, tpm):
    path = save_tpm(tmp_path / "tpm.safetensors", tpm, CARD)
    before = path.read_bytes()
    tpm.head.last.bias.data[0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN"):
        save_tpm(path, tpm, CARD)
    assert path.read_bytes() == before


def test_a_card_for_another_backbone_is_not_written(tmp_path, tpm):
    with pytest.raises(CheckpointError, match="flux"):
        save_tpm(tmp_path / "tpm.safetensors", tpm, Card("flux"))


def test_wrong_backbone(tmp_path, tpm):
    path = save_tpm(tmp_path / "tpm.safetensors", tpm, CARD)
    with pytest.raises(CheckpointError, match="for sd3, the model is flux"):
        load_tpm(path, backbone="flux")
    load_tpm(path, backbone="sd3")


HEADERS = {
    "newer": (lambda h: h.update(version=2), "update asyncdiff"),
    "other format": (lambda h: h.update(format="lora"), "asyncdiff-tpm"),
    "no config": (lambda h: h.pop("config"), "configuration .* should be an object"),
    "unknown size": (lambda h: h["config"].update(depth=3), "no field depth"),
    "absurd size": (lambda h: h["config"].update(width=-8), "width must be"),
    "huge size": (lambda h: h["config"].update(width=10**7), "width must be"),
    "no card": (lambda h: h.pop("card"), "card .* should be an object"),
    "bad bound": (lambda h: h["card"].update(bound="wide"), "field bound"),
    "bound true": (lambda h: h["card"].update(bound=True), "field bound"),
    "no name": (lambda h: h["card"].update(name=None), "field name"),
    "name of two lines": (lambda h: h["card"].update(name="a\nb"), "printable letters"),
    "sigmas a text": (lambda h: h["card"].update(sigmas="abc"), "field sigmas"),
    "sigmas that rise": (lambda h: h["card"].update(sigmas=[0.1, 0.9]), "decrease"),
    "metrics a number": (lambda h: h["card"].update(metrics=3), "field metrics"),
    "heads that do not fit": (lambda h: h["config"].update(heads=3), "divide"),
    "terabytes": (lambda h: h["config"].update(grid=10**6), "grid must be"),
    "a size of 1.0": (lambda h: h["config"].update(layers=1.0), "layers"),
    "two backbones": (lambda h: h["card"].update(backbone="flux"), "both"),
    "more layers": (lambda h: h["config"].update(layers=2), "missing"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_bad_headers_are_sentences(tmp_path, tpm, case):
    edit, word = HEADERS[case]
    rewrite(tmp_path / "tpm.safetensors", tpm, edit_header=edit)
    with pytest.raises(CheckpointError, match=word) as caught:
        load_tpm(tmp_path / "tpm.safetensors")
    assert "\n" not in str(caught.value)


TENSORS = {
    "missing": (lambda t: t.pop("head.last.bias"), "missing head.last.bias"),
    "extra": (lambda t: t.update(more=torch.zeros(1)), "unexpected more"),
    "shape": (lambda t: t.update({"head.last.bias": torch.zeros(3)}), "shape"),
    "NaN": (lambda t: t["head.last.weight"].fill_(float("nan")), "NaN"),
    "float8": (lambda t: t.update({"head.last.bias": t["head.last.bias"].to(torch.float8_e4m3fn)}), "float8"),
    "overflow": (lambda t: [value.mul_(1e12) for value in t.values()], "overflow"),
    "infinite": (lambda t: t["head.last.weight"].fill_(float("inf")), "infinite"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_bad_weights_are_sentences(tmp_path, tpm, case):
    edit, word = TENSORS[case]
    rewrite(tmp_path / "tpm.safetensors", tpm, edit_tensors=edit)
    with pytest.raises(CheckpointError, match=word):
        load_tpm(tmp_path / "tpm.safetensors")


def test_files_that_are_not_tpms_are_sentences(tmp_path, tpm):
    path = tmp_path / "tpm.safetensors"
    with pytest.raises(CheckpointError, match="no file"):
        load_tpm(path)
    rewrite(path, tpm, metadata=False)
    with pytest.raises(CheckpointError, match="not a TPM"):
        load_tpm(path)
    for content in (b"", b"hello", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="complete safetensors"):
            load_tpm(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_truncated_files_are_sentences(tmp_path, tpm, share):
    path = save_tpm(tmp_path / "tpm.safetensors", tpm, CARD)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="complete safetensors"):
        load_tpm(path)
