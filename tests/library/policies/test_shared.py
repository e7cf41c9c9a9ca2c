"""A policy and its decisions in a picture's metadata, and back."""

import json

import pytest
import torch
from PIL import Image, PngImagePlugin

from asyncdiff.tpm.errors import PolicyError
from asyncdiff.tpm.policies import Constant, Curve, Learned, Recorded, load_policy, save_policy
from asyncdiff.tpm.policies.checkpoint import Card, identity
from asyncdiff.tpm.policies.network import TPM, TPMConfig
from asyncdiff.tpm.policies.pictures import KEY, chosen, runs_in
from asyncdiff.tpm.policies.shared import MOST_OF_A_RUN, restored, runs_from, shared_run, size_of, to_document
from asyncdiff.tpm.retiming.foretold import rehearse
from asyncdiff.tpm.retiming.settings import Retiming
from asyncdiff.tpm.retiming.trace import Trace

GRID = [1.0, 0.9, 0.7, 0.4, 0.0]
TINY = TPMConfig("sd3", latent_channels=4, context_dim=12, pooled_dim=8, width=16, heads=2, layers=1, grid=2)


def trace_of(policy):
    return rehearse(policy, Retiming(), GRID)


def per_image(images, steps=20):
    grid = [1 - k / steps for k in range(steps)] + [0.0]
    column = torch.rand(steps, images, generator=torch.Generator().manual_seed(0)).tolist()
    flags = [[False] * images for _ in range(steps)]
    return Trace(grid, column, column, column, flags, column, policy={"name": "tpm", "bound": 0.5})


@pytest.fixture
def tpm_file(tmp_path):
    torch.manual_seed(0)
    return save_policy(tmp_path / "mine.safetensors", Learned(TPM(TINY), card=Card("sd3", name="mine")))


def written(path, document):
    about = PngImagePlugin.PngInfo()
    about.add_text(KEY, document if isinstance(document, str) else json.dumps(document))
    Image.new("RGB", (8, 8)).save(path, pnginfo=about)
    return path


@pytest.mark.parametrize("policy", [Constant(0.123456789, name="mine"), Curve([(0, 0.1), (0.3, 1 / 3)], axis="step")])
def test_a_formula_is_there_whole(tmp_path, policy):
    run = shared_run(policy, trace_of(policy), "AsyncDiffKSampler")
    file = written(tmp_path / "a.png", to_document({"7": run}))
    again = runs_in(file)
    assert again == {"7": run}
    assert restored(again["7"], []) == policy
    assert trace_of(again["7"].decisions()).ratio == trace_of(policy).ratio


def test_a_tpm_is_there_by_its_hash_and_found_under_another_name(tmp_path, tpm_file):
    policy = load_policy(tpm_file)
    policy.readout = "mean"
    run = runs_from(json.loads(json.dumps(to_document({"3": shared_run(policy, per_image(2))}))), "it")["3"]
    assert run.file == identity(tpm_file)
    other = tpm_file.rename(tmp_path / "other.safetensors")
    found = restored(run, [other])
    assert isinstance(found, Learned)
    assert found.readout == "mean"
    assert run.policy["card"]["name"] == "mine"


def test_a_missing_tpm_is_named_and_its_decisions_are_offered(tpm_file):
    run = shared_run(load_policy(tpm_file), per_image(2))
    with pytest.raises(PolicyError) as told:
        restored(run, [])
    for part in ("'mine'", "sd3", "mine.safetensors", run.file.sha256, "recorded decisions"):
        assert part in str(told.value)
    assert isinstance(run.decisions(), Recorded)
    assert run.decisions().trace.ratio == per_image(2).ratio


def test_a_tpm_without_a_file_says_so():
    torch.manual_seed(0)
    with pytest.raises(PolicyError, match="never saved to a file"):
        restored(shared_run(Learned(TPM(TINY)), per_image(1)), [])


def test_a_recording_is_its_decisions():
    policy = Recorded(per_image(2), name="from a friend")
    run = shared_run(policy, per_image(2))
    assert "trace" not in run.policy
    assert restored(run, []).trace.ratio == per_image(2).ratio


def test_a_large_batch_is_cut_to_its_first_images(tmp_path):
    whole = per_image(512)
    run = shared_run(Constant(0.1), whole)
    assert size_of(run) <= MOST_OF_A_RUN
    kept = run.decisions().trace.ratio
    images = len(kept[0])
    assert 16 <= images < 512
    assert kept == [entry[:images] for entry in whole.ratio]
    assert run.notes == [f"The batch had 512 images; the decisions of its first {images} are kept."]
    assert runs_in(written(tmp_path / "a.png", to_document({"1": run}))) == {"1": run}


def test_a_run_that_is_too_long_keeps_its_policy():
    run = shared_run(Constant(0.1), per_image(1, steps=5000))
    assert restored(run, []) == Constant(0.1)
    with pytest.raises(PolicyError, match="too long for a picture"):
        run.decisions()


def test_long_remarks_on_a_policy_are_left_out():
    run = shared_run(Constant(0.1, about={"note": "x" * 100_000}), trace_of(Constant(0.1)))
    assert restored(run, []) == Constant(0.1)
    assert size_of(run) < MOST_OF_A_RUN


def test_one_of_several_samplers_is_chosen_by_its_number():
    one, other = (shared_run(Constant(d), trace_of(Constant(d)), "AsyncDiffKSampler") for d in (0.1, 0.2))
    assert chosen({"3": one, "5": one}, "") == one
    assert chosen({"3": one, "5": other}, " 5 ") == other
    with pytest.raises(PolicyError, match=r"3: constant in AsyncDiffKSampler; 5: constant .* Write the number"):
        chosen({"3": one, "5": other}, "")
    with pytest.raises(PolicyError, match="no sampler '9'"):
        chosen({"3": one}, "9")


def good():
    return to_document({"3": shared_run(Constant(0.1), trace_of(Constant(0.1)))})


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must be a JSON object"),
        ("{}", "not a asyncdiff-picture"),
        (good() | {"version": 2}, "update asyncdiff"),
        (good() | {"samplers": []}, "must be a JSON object"),
        (good() | {"samplers": {}}, "made by no asynchronous sampler"),
        (good() | {"samplers": {str(k): {} for k in range(300)}}, "300 samplers"),
        (good() | {"samplers": {"3": {"policy": {}, "code": "x"}}}, "no field code"),
        (good() | {"samplers": {"3": {"policy": {}, "runs": "1"}}}, "the field runs"),
        (good() | {"samplers": {"3": {"policy": {}, "file": {"name": "x", "sha256": "../x", "size": 1}}}}, "sha256"),
        ('{"a": NaN}', "not a finite number"),
        ("[" * 100_000, "nested too deeply"),
        ("x" * (2**20 + 1), "refused|cannot be read"),
    ],
)
def test_damaged_metadata_is_one_sentence(tmp_path, document, told):
    with pytest.raises(PolicyError, match=told):
        runs_in(written(tmp_path / "a.png", document))


@pytest.mark.parametrize(
    "change",
    [
        {"policy": {"kind": "curve", "knots": "x"}},
        {"policy": {"kind": "constant", "deviation": 9}},
        {"trace": {"x": 1}},
    ],
)
def test_a_policy_or_a_trace_that_is_none_is_refused(change):
    entry = good()["samplers"]["3"] | change
    run = runs_from(good() | {"samplers": {"3": entry}}, "it")["3"]
    with pytest.raises(PolicyError):
        run.decisions() if "trace" in change else restored(run, [])


def test_other_pictures_are_one_sentence(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.jpg")
    (tmp_path / "no.png").write_bytes(b"no picture")
    for name in ("plain.png", "plain.jpg"):
        with pytest.raises(PolicyError, match="holds no policy of AsyncDiff"):
            runs_in(tmp_path / name)
    with pytest.raises(PolicyError, match="cannot be read as an image"):
        runs_in(tmp_path / "no.png")
    with pytest.raises(PolicyError, match="There is no file"):
        runs_in(tmp_path / "none.png")


def test_animated_pictures_are_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), (60 * n, 0, 0)) for n in range(3)]
    about, exif = PngImagePlugin.PngInfo(), frames[0].getexif()
    about.add(b"comf", f"{KEY}\0{json.dumps(good())}".encode("latin-1"), after_idat=True)
    exif[0x010F] = "workflow:{}"
    exif[0x010E] = f"{KEY}:{json.dumps(good())}"
    moving = {"save_all": True, "append_images": frames[1:]}
    frames[0].save(tmp_path / "a.png", pnginfo=about, **moving)
    frames[0].save(tmp_path / "a.webp", exif=exif, **moving)
    for name in ("a.png", "a.webp"):
        assert runs_in(tmp_path / name) == runs_from(good(), "it")
