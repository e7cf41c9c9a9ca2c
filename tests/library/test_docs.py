"""The documents: short where they must be, and nothing that they name is missing."""

import re
import shlex

import pytest

from support.paths import ROOT

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
CARDS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "weights").rglob("README.md"))
MOST_WORDS = 1100
FOLDERS = ("tpm", "nodes", "tests", "docs", "web", "weights", "workflows", "locales", ".ci")
PROMPT = "a large striped red circle above a small dotted blue star on a starry background"
PANEL = f'asyncdiff panel "{PROMPT}" --gamma 0 0.5 1 2 --steps 8 --seed 1 2 --out panel'
RUN = (  # both must stay as they are: whoever comes to the repository types them
    f'pip install -c constraints.txt ".[standalone]" && {PANEL}',
    'pip install -c constraints.txt ".[standalone,dev]" && python -m pytest tests/library',
)


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page):
    """Without code blocks, which have signs of their own."""
    return re.sub(r"^```.*?^```", "", text(page), flags=re.MULTILINE | re.DOTALL)


def test_the_readme_is_short_and_says_where_the_idea_is():
    words = [word for word in text("README.md").split() if re.search(r"\w", word)]
    assert len(words) <= MOST_WORDS
    assert {"tpm/retiming/equations.py", "tpm/retiming/retimer.py"} <= {*links(" ".join(words[:300]))}
    assert text("README.md").index("## In ComfyUI") < text("README.md").index("## From the command line")


def test_the_readme_has_its_two_commands():
    blocks = re.findall(r"^```sh\n(.*?)^```", text("README.md"), re.MULTILINE | re.DOTALL)
    assert [block.strip() for block in blocks] == list(RUN)


@pytest.mark.parametrize("page", ["README.md", "docs/evidence.md"])
def test_the_opponent_is_named(page):
    """What was measured was measured against Euler, and another sampler does better: the reader must be told."""
    for words in ("Euler", "dpmpp_2m", "res_multistep", "without any policy", "synchronous last step|`tail_sync = 1`"):
        assert re.search(words, text(page)), words


def links(words):
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", words) if not target.startswith("http")]


def slugs(page):
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *CARDS])
def test_links_lead_somewhere(page):
    for target in links(prose(page)):
        path, _, anchor = target.partition("#")
        place = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert place.exists(), target
        assert not anchor or anchor in slugs(place.relative_to(ROOT)), target


def named_paths(words):
    """What is in backticks and begins with one of our folders. Names of workflows have spaces."""
    spans = re.findall(r"`([^`\n]+)`", words)
    tokens = [token for span in spans for token in ([span] if span.startswith("workflows/") else span.split())]
    found = [token for token in tokens if token.split("/")[0] in FOLDERS and "/" in token]
    return [path for path in found if not re.search(r"[<>…*{]", path)]


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_named_paths_exist(page):
    for path in named_paths(text(page)):
        assert (ROOT / path.split("::")[0]).exists(), path


def commands(page):
    """Every `asyncdiff …` of a page, in backticks, in shell blocks and in indented lines."""
    lines = re.findall(r"`(asyncdiff [^`\n]+)`", prose(page))
    for block in re.findall(r"^```sh\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL):
        lines += [part.strip() for line in block.splitlines() for part in line.split("&&")]
    lines += re.findall(r"^    (asyncdiff .*)$", prose(page), re.MULTILINE)
    return [line for line in lines if line.startswith("asyncdiff ")]


@pytest.mark.parametrize("page", [*PAGES, *CARDS])
def test_commands_are_understood(page):
    """Each is parsed by the command itself; nothing is run. Words in capitals stand for what a reader fills in."""
    from asyncdiff.tpm.cli import build_parser

    refused = [line for line in commands(page) if not understood(build_parser(), line)]
    assert refused == []


def understood(parser, line):
    try:
        parser.parse_args(filled(shlex.split(line.replace("…", ""), comments=True)[1:]))
    except SystemExit as ended:
        return not ended.code
    return True


def filled(words):
    """What the shorthand of a table leaves out."""
    words = ["a=constant:0.1" if word == "NAME=FILE" else word for word in words]
    needs = {"inspect": ["constant:0.1"], "pixelwise": ["a prompt"], "panel": ["a prompt"], "score": ["folder"]}
    return words + (needs.get(words[0], []) if len(words) == 1 else [])


def test_every_node_is_named_where_nodes_are_listed():
    import json

    names = json.loads(text("locales/en/nodeDefs.json"))
    for page in ("README.md", "docs/comfyui.md"):
        for entry in names.values():
            assert entry["display_name"] in text(page), (page, entry["display_name"])


def test_every_command_is_named_in_the_readme():
    from asyncdiff.tpm.cli import build_parser

    commands = next(action for action in build_parser()._actions if action.dest == "command").choices
    for name in commands:
        assert f"asyncdiff {name}" in text("README.md"), name
