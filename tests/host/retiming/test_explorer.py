"""The strip of γ: what is sampled again and what not, and what the browser is told."""

from types import SimpleNamespace

import pytest
import torch

from support.retiming_runs import sweep

pytestmark = pytest.mark.host

AUTOMATIC = "automatic (by model)"


def test_adding_one_value_to_four_costs_one_run(explored):
    before, evaluations, _ = explored("0, 0.5, 1, 2")
    assert evaluations == 4 * 8 - 3
    after, evaluations, document = explored("0, 0.5, 0.75, 1, 2")
    assert evaluations == 7  # one run of 8 steps, whose first evaluation is known
    assert torch.equal(after[[0, 1, 3, 4]], before)
    assert [cell["note"] for cell in document["cells"]][:1] == ["synchronous"]


def test_nothing_changed_costs_nothing_not_even_a_decoding(explored):
    explored("0, 1")
    explored.decodings.clear()
    _, evaluations, _ = explored("1, 0")
    assert (evaluations, len(explored.decodings)) == (0, 0)


def test_going_back_to_a_setting_costs_nothing(explored):
    explored("0, 1")
    explored("0, 1", cfg=2.0)
    explored("0, 1", seed=5)
    assert explored("0, 1")[1] == 0
    assert explored("0, 1", cfg=2.0)[1] == 0


def test_another_model_forgets_all(explored):
    explored("0, 1")
    other = explored.inputs["model"].clone()
    assert explored("0, 1", model=other)[1] > 0
    assert explored("0, 1")[1] > 0


def test_a_row_of_the_second_axis_is_a_sweep_of_its_own(explored):
    alone = [explored("0, 1", cfg=cfg)[0] for cfg in (1.0, 3.0)]
    both, evaluations, document = explored("0, 1", second_axis="cfg", second_values="1, 3")
    assert evaluations == 0
    assert torch.equal(both, torch.cat(alone))
    assert [row["label"] for row in document["rows"]] == ["cfg 1", "cfg 3"]
    assert document["widget"] == "cfg"
    assert {(cell["row"], cell["column"]) for cell in document["cells"]} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert explored("0, 1", second_axis="cfg", second_values="1, 3, 5")[1] > 0


def test_rows_that_start_alike_share_their_first_evaluation(explored):
    _, evaluations, _ = explored("0, 1", second_axis="tail_sync", second_values="0, 1, 2")
    assert evaluations == 6 * 8 - 5


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("steps", "3, 5"),
        ("seed", "1, 2"),
        ("p", "0, 1"),
        ("bound", "0.5, 1.0"),
        ("policy", f"{AUTOMATIC}, constant-one-tail"),
    ],
)
def test_every_second_axis_changes_the_pictures(explored, axis, values):
    latents, _, document = explored("1", second_axis=axis, second_values=values)
    assert len(latents) == 2
    assert not torch.equal(*latents)
    assert len(document["rows"]) == 2


def test_a_policy_of_another_family_is_refused_before_sampling(explored):
    from asyncdiff.tpm.errors import PolicyError

    family = "flux-coco" if "sd3" in type(explored.inputs["model"].model).__name__.lower() else "sd35-coco"
    with pytest.raises(PolicyError):
        explored("0, 1", second_axis="policy", second_values=f"constant-one-tail, {family}")
    assert not explored.evaluations


def test_the_document_has_what_the_front_end_shows(explored):
    _, _, document = explored("2, 0, 0.5", latent_image={"samples": torch.zeros(2, 16, 8, 8)})
    assert [column["gamma"] for column in document["columns"]] == [0.0, 0.5, 2.0]
    assert [(gap["low"], gap["gamma"]) for gap in document["gaps"]] == [(0.0, 0.25), (0.5, 1.25)]
    assert (document["start"], document["synchronous"], document["seed"]) == (0.5, 0.0, 1)
    assert document["pictures"] == ["image 1 of 2", "image 2 of 2"]
    for cell in document["cells"]:
        assert [set(file) for file in cell["files"]] == [{"filename", "subfolder", "type"}] * 2
        curve = cell["curve"]
        assert len(curve["sigmas"]) == 9
        assert [len(curve[name]) for name in ("t_star", "deviation", "proposed")] == [8, 8, 8]
        assert all(isinstance(values, list) for values in curve["t_star"])


def test_a_video_shows_chosen_frames(comfy):
    from asyncdiff.nodes.retiming.explorer import names_of

    assert names_of(1, 1) == [""]
    assert names_of(1, 9) == ["frame 1 of 9", "frame 5 of 9", "frame 9 of 9"]
    assert names_of(2, 9)[3] == "video 2 · frame 1 of 9"


def test_pictures_are_forgotten_before_runs(comfy, monkeypatch):
    from asyncdiff.nodes.retiming import shared

    monkeypatch.setattr(shared, "MOST_BYTES", 250)
    kept = shared.Remembered()
    runs = kept.under("model", "setting")
    made = [shared.Made(torch.zeros(10), None) for _ in range(3)]
    for gamma, run in enumerate(made):
        run.pictures_by("vae", lambda vae, latent: torch.zeros(20))
        kept.keep(runs, gamma, run)
    assert [run.pictures is not None for run in made] == [False, False, True]
    assert sorted(runs.made) == [0, 1, 2]
    made[0].pictures_by("vae", lambda vae, latent: torch.ones(20))
    kept.shrink()
    assert sum(run.size() for run in runs.made.values()) <= 250


def test_a_setting_whose_objects_are_gone_is_forgotten(comfy):
    from asyncdiff.nodes.retiming.shared import Made, Remembered

    kept, text = Remembered(), torch.nn.Identity()
    kept.keep(kept.under("model", text), 1.0, Made(torch.zeros(1), None))
    del text
    kept.under("model", "another")
    assert len(kept._runs) == 1


def test_the_strip_arrives_with_the_outputs_of_the_node(server):
    prompt = sweep("0, 1")
    prompt["sweep"]["inputs"] |= {"second_axis": "cfg", "second_values": "1, 3"}
    entry = server.run(prompt)
    [document] = entry["outputs"]["sweep"]["asyncdiff_explorer"]
    pictures = [server.image(cell["files"][0]) for cell in document["cells"]]
    assert [picture.size for picture in pictures] == [(128, 128)] * 4
    assert server.run(prompt)["outputs"]["sweep"]["asyncdiff_explorer"] == [document]  # in the host's cache


def test_the_node_runs_on_its_own(server):
    prompt = {key: node for key, node in sweep("0, 1").items() if key not in ("grid", "gammas")}
    assert "sweep" in server.run(prompt)["outputs"]


def test_what_the_host_is_told_of_hidden_things(comfy):
    """Without a browser and an id nothing is drawn or written."""
    from asyncdiff.nodes.retiming.explorer import Explorer

    explorer = Explorer(None, [1.0], [SimpleNamespace(seed=1, label="", value=None)], "none")
    explorer.add(0, 1.0, None, None)
    assert explorer.document()["cells"] == []
