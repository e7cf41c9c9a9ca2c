"""The shipped graphs can be read at once: Fit View shows all of one on a laptop's screen without losing the text."""

import json
import re
from itertools import combinations

import pytest

from support.paths import ROOT

FILES = sorted((ROOT / "workflows").glob("*.json"))
SCREEN = (1536, 864)  # 1920 × 1080 at 125 %
ZOOM = 0.75  # the part of the screen that the front end fills
MARGIN = 10  # that it adds on each side
LEGIBLE = 0.6  # below, the classic renderer leaves the text out
TITLE = 30  # above a node's position


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def workflow(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def boxes(workflow):
    """(left, top, right, bottom) of each node by its number."""
    return {
        node["id"]: (x, y - TITLE, x + width, y + height)
        for node in workflow["nodes"]
        for (x, y), (width, height) in [(node["pos"], node["size"])]
    }


def groups(workflow):
    return {group["title"]: bounds(*group["bounding"]) for group in workflow["groups"]}


def bounds(x, y, width, height):
    return x, y, x + width, y + height


def scale(rectangles):
    """Of Fit View, as the front end computes it."""
    lefts, tops, rights, bottoms = zip(*rectangles, strict=True)
    size = max(rights) - min(lefts) + 2 * MARGIN, max(bottoms) - min(tops) + 2 * MARGIN
    return min(ZOOM * screen / side for screen, side in zip(SCREEN, size, strict=True))


def overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def holds(outer, inner):
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def test_titles_have_an_order_and_the_page_lists_them_all():
    """The template browser shows file names as they are, sorted by their number; a chapter has its first digit."""
    titles = [file.stem for file in FILES]
    page = (ROOT / "docs" / "comfyui.md").read_text(encoding="utf-8")
    assert all(re.fullmatch(r"\d\d [A-Z][\w ,.-]{2,30}", title, re.ASCII) for title in titles)
    assert len({title[:2] for title in titles}) == len(titles)
    assert re.findall(r"`workflows/([^`]+)\.json`", page) == titles


def test_text_is_there_when_all_of_it_is_shown(workflow):
    assert scale([*boxes(workflow).values(), *groups(workflow).values()]) >= LEGIBLE


def test_nothing_lies_over_anything_else(workflow):
    for things in (boxes(workflow), groups(workflow)):
        over = [(a, b) for (a, one), (b, other) in combinations(things.items(), 2) if overlap(one, other)]
        assert over == []


def test_every_node_is_in_one_group_and_the_note_is_first(workflow):
    notes = [node["id"] for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    places, frames = boxes(workflow), groups(workflow)
    assert len(notes) == 1
    left, top = (min(box[k] for box in (*frames.values(), *places.values())) for k in (0, 1))
    assert places[notes[0]][:2] == (left, top)
    for node, box in places.items():
        around = [title for title, frame in frames.items() if holds(frame, box)]
        assert len(around) == (node not in notes), node


def test_links_run_to_the_right_or_down(workflow):
    """As people read; a few that go back to the left are less than a quarter."""
    places = boxes(workflow)
    back = [
        (origin, target)
        for _, origin, _, target, *_ in workflow["links"]
        if places[target][2] <= places[origin][0]
    ]  # fmt: skip
    assert len(back) < len(workflow["links"]) / 4
