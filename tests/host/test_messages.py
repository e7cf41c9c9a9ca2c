"""What the host shows of an error of ours: a short name, and files by the names that the user knows."""

import pytest

from support.retiming_runs import sweep
from support.server import ExecutionError

pytestmark = pytest.mark.host


def failed(server, graph):
    """What the front end is told of the error that ends a prompt."""
    with pytest.raises(ExecutionError) as failure:
        server.run(graph)
    return dict(failure.value.entry["status"]["messages"])["execution_error"]


def loaded(name):
    return sweep("1") | {"policy": {"class_type": "AsyncDiffLoadTPM", "inputs": {"name": name, "readout": "mode"}}}


@pytest.mark.parametrize("name", ["broken.json", "folder/broken.safetensors"])
def test_an_error_names_itself_and_its_file_shortly(server, name):
    file = server.models / "tpm" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("no policy")
    told = failed(server, loaded(name))
    assert told["exception_type"] in ("asyncdiff.PolicyError", "asyncdiff.CheckpointError")
    assert told["exception_message"].startswith(f"models/tpm/{name} is not")


def test_an_error_in_the_middle_of_a_run_names_itself_shortly(server):
    told = failed(server, sweep("1") | {"policy": loaded("shipped: flux-coco")["policy"]})
    assert told["exception_type"] == "asyncdiff.PolicyError"
    assert "custom_nodes" not in told["exception_message"]


def test_the_pack_and_the_host_are_left_out_of_messages(comfy, tmp_path):
    import folder_paths

    from asyncdiff.nodes.messages import OWN, message, short_messages
    from asyncdiff.nodes.schema import refusal
    from asyncdiff.tpm.errors import PolicyError

    for home in (*OWN, folder_paths.base_path):
        assert (
            message(PolicyError(f"The card in {home}/weights/a.json is bad.")) == "The card in weights/a.json is bad."
        )
    elsewhere = f"There is no file {tmp_path}/a.json; check the path."
    assert message(PolicyError(elsewhere)) == elsewhere
    with pytest.raises(PolicyError, match=r"^no weights/b$"), short_messages():
        raise PolicyError(f"no {OWN[0]}/weights/b")

    def check(name):
        raise PolicyError(f"no {folder_paths.models_dir}/tpm/{name}")

    assert refusal(check, "c.json") == "no models/tpm/c.json"


def test_widgets_are_made_without_what_an_old_host_does_not_know(comfy):
    from asyncdiff.nodes.schema import made_here

    class Old:
        def __init__(self, name, default=None):
            self.name, self.default = name, default

    made = made_here(Old, "knots", default=4, advanced=True)
    assert (made.name, made.default) == ("knots", 4)
