"""What presets are called in Load Policy's list, and that every older name of theirs still loads them."""

import json

import pytest

from support.retiming_runs import sweep

pytestmark = pytest.mark.host

PRESETS = [
    "constant-one-tail", "flux-coco", "flux-coco-lifted", "flux-compbench", "flux-compbench-lifted", "sd35-coco",
    "sd35-coco-lifted", "sd35-compbench", "sd35-compbench-lifted", "sdxl-start", "tiny-sd35", "tiny-sd35-curve",
    "tiny-sd35-tpm",
]  # fmt: skip
FORMS = ["{}", "shipped: {}", "{}.json"]


@pytest.fixture(scope="module")
def names(comfy):
    from asyncdiff.nodes.retiming import policy_names

    return policy_names


def old_values():
    return [form.format(preset) for preset in PRESETS for form in FORMS]


@pytest.mark.parametrize("value", old_values())
def test_an_old_value_is_accepted_and_loads_the_same_policy(names, value):
    from asyncdiff.nodes.retiming.nodes_policies import LoadTPM
    from asyncdiff.tpm.policies import find_policy

    preset = value.removeprefix("shipped: ").removesuffix(".json")
    assert LoadTPM.validate_inputs(value) is True
    loaded = LoadTPM.execute(value, "mode").args[0]
    assert loaded.to_dict() == find_policy(preset).to_dict()
    assert names.listed(value) == names.title_of(preset)
    assert LoadTPM.fingerprint_inputs(value, "mode") == LoadTPM.fingerprint_inputs(value, "mode")


@pytest.mark.parametrize("value", [*old_values(), "automatic (by model)"])
def test_the_server_queues_an_old_value_and_the_new_name(server, names, value):
    """Queued, and taken away again before it runs."""
    for name in {value, names.listed(value)}:
        loader = {"class_type": "AsyncDiffLoadTPM", "inputs": {"name": name, "readout": "mode"}}
        queued = server.queue(sweep("0", title=name) | {"policy": loader})
        server.post("/queue", {"delete": [queued]})
        server.interrupt()


def test_every_preset_says_what_it_is_for_truthfully(names):
    """The title has the number of a constant and the family that the file says."""
    from asyncdiff.tpm.policies import Constant, Curve, find_policy, presets

    assert set(names.TITLES) == set(presets())
    assert len(set(names.TITLES.values())) == len(names.TITLES)
    families = {"sd3": ("SD3.5", "embedded pipeline"), "flux": ("Flux",), "sdxl": ("SDXL",), None: ("any flow model",)}
    for preset, title in names.TITLES.items():
        policy = find_policy(preset)
        models, kind, source = title.split(" · ")
        about = getattr(policy, "about", {})
        assert models in families[policy.backbone]
        assert (models == "embedded pipeline") == preset.startswith("tiny-sd35")
        if isinstance(policy, Constant):
            assert kind == f"constant {policy.deviation:.2f}"
        else:
            assert kind == ("curve" if isinstance(policy, Curve) else "TPM")
        assert ("lifted" in source) == ("2 × r" in about.get("row", ""))
        assert ("paper" in source) == ("Mean Deviation" in about.get("source", ""))
        assert ("COCO" in source) == ("COCO" in about.get("dataset", ""))
        assert ("tail_sync 1" in source) == (about.get("retiming", {}).get("tail_sync") == 1)
        assert "," not in title  # γ Sweep takes a list of them


def test_a_policy_that_is_not_there_is_refused_with_a_near_name(names):
    from asyncdiff.nodes.retiming.nodes_policies import LoadTPM

    for wrong in ("flux-cocoa", "shipped: sd36", "../secret.json", "", 3, ["a"]):
        assert "There is no policy" in LoadTPM.validate_inputs(wrong)
    assert 'did you mean "flux-coco"?' in LoadTPM.validate_inputs("flux-cocoa")
    assert LoadTPM.validate_inputs(None) is True  # linked


def test_a_file_of_ones_own_comes_before_a_preset_of_that_name(names, tmp_path, monkeypatch):
    import folder_paths

    from asyncdiff.tpm.policies import Constant, save_policy

    save_policy(tmp_path / "flux-coco.json", Constant(0.05, name="mine"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "tpm", ([str(tmp_path)], {".json"}))
    assert names.load("flux-coco.json").name == "mine"
    assert names.load("flux-coco").name == "flux-coco"
    assert next(iter(names.policy_files())) == "flux-coco.json"


def test_the_front_end_is_told_the_names_that_changed(info):
    options = info["AsyncDiffLoadTPM"]["input"]["required"]["name"][1]
    assert options["renamed"]["shipped: flux-coco-lifted"] in options["options"]
    assert set(options["renamed"].values()) <= set(options["options"])
    assert json.dumps(options["renamed"]).isascii()
