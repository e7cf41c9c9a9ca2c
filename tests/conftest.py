"""Tests run in parallel by folder; those of the host and of the browser share a ComfyUI server and a stock workflow."""

import os
from pathlib import Path

import pytest

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:  # before torch is imported: processes of several threads each would only hold each other up
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Folders run on up to eight cores where pytest-xdist is installed; single files and `-n 0` run in one process."""
    option = config.option
    if WORKER or option.usepdb or not hasattr(option, "numprocesses"):
        return
    if option.numprocesses is None and all(Path(place).is_dir() for place in config.args):
        option.numprocesses, option.maxprocesses = "logical", option.maxprocesses or 8
    if option.numprocesses and option.dist == "no":
        option.dist = "loadgroup"


def pytest_collection_modifyitems(items):
    """The tests that ask for the server run in one process, so that there is one server."""
    for item in items:
        if "server" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("server"))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A running ComfyUI with this pack (see `support.server.ComfyServer`); skips with one line without a host."""
    from support.host import NO_HOST, check_nodes, host_or_skip, without_host
    from support.server import ComfyServer, ServerEndedError

    host = host_or_skip()
    check_nodes(host)
    comfy = ComfyServer(host, tmp_path_factory.mktemp("comfy"))
    try:
        comfy.start()
    except ServerEndedError as ended:
        if missing := ended.missing_import():
            without_host(f"{NO_HOST} ({missing})")
        raise
    yield comfy
    comfy.stop()


@pytest.fixture
def stock_workflow():
    """Core nodes only: a saved picture, a bypassed resize, a reroute, a primitive, a muted preview and a note."""
    image = {"name": "image", "type": "IMAGE"}
    images = {"name": "images", "type": "IMAGE"}
    width = {"name": "width", "type": "INT", "widget": {"name": "width"}, "link": 1}
    nodes = [
        node(1, "PrimitiveNode", at=(20, 20), size=(220, 90), out="INT", values=[96, "fixed"]),
        node(2, "EmptyImage", at=(280, 20), size=(240, 150), inputs=[width], out="IMAGE", values=[32, 64, 1, 0xFF8000]),
        node(
            3, "ImageScale", at=(560, 20), size=(240, 150), inputs=[image | {"link": 2}], out="IMAGE", mode=4,
            values=["nearest-exact", 8, 8, "disabled"],
        ),
        node(4, "Reroute", at=(840, 20), size=(80, 30), inputs=[{"name": "", "type": "*", "link": 3}], out="IMAGE"),
        node(5, "SaveImage", at=(960, 20), size=(260, 260), inputs=[images | {"link": 4}], values=["harness"]),
        node(6, "PreviewImage", at=(960, 320), size=(260, 200), inputs=[images | {"link": 5}], mode=2),
        node(7, "MarkdownNote", at=(20, 160), size=(220, 120), values=["A note"]),
    ]  # fmt: skip
    ends = [(1, 2, "INT"), (2, 3, "IMAGE"), (3, 4, "IMAGE"), (4, 5, "IMAGE"), (4, 6, "IMAGE")]
    links = [[index, origin, 0, target, 0, kind] for index, (origin, target, kind) in enumerate(ends, start=1)]
    for index, origin, *_ in links:
        nodes[origin - 1]["outputs"][0]["links"].append(index)
    return {"last_node_id": 7, "last_link_id": 5, "nodes": nodes, "links": links, "version": 0.4}


def node(node_id, kind, *, at, size, inputs=(), out=None, values=(), mode=0):
    outputs = [{"name": out, "type": out, "links": []}] if out else []
    return {
        "id": node_id, "type": kind, "pos": list(at), "size": list(size), "mode": mode, "flags": {}, "properties": {},
        "order": node_id, "inputs": list(inputs), "outputs": outputs, "widgets_values": list(values),
    }  # fmt: skip
