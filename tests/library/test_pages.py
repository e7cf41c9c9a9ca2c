"""Help pages and translations: complete, in both languages, and nothing they point to is missing. No host needed."""

import json
import re

import pytest

from support.paths import ROOT

DOCS = ROOT / "web" / "docs"
SCHEMAS = json.loads((ROOT / "tests" / "host" / "schemas.json").read_text(encoding="utf-8"))
NODES = sorted({
    name for path in (ROOT / "nodes").rglob("*.py") for name in re.findall(r'node_id="(\w+)"', path.read_text("utf-8"))
})  # fmt: skip
LANGUAGES = ("en", "zh")
PAGES = [(node, language) for node in NODES for language in LANGUAGES]
BYTES = 120_000  # of one picture


def page(node, language):
    """Where the front end looks: <id>/<locale>.md first, then <id>.md."""
    path = DOCS / f"{node}.md" if language == "en" else DOCS / node / f"{language}.md"
    return path.read_text(encoding="utf-8")


def words(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def test_the_snapshot_knows_every_node():
    assert sorted(SCHEMAS) == NODES


@pytest.mark.parametrize(("node", "language"), PAGES)
def test_a_page_names_every_input_and_output(node, language):
    schema, text = SCHEMAS[node], page(node, language)
    assert text.startswith("# ")
    named = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    assert named == [entry["id"] for entry in schema["inputs"]] + [entry["name"] for entry in schema["outputs"]]


@pytest.mark.parametrize(("node", "language"), PAGES)
def test_what_a_page_refers_to_exists(node, language):
    text = page(node, language)
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    for picture in pictures:  # the front end reads them relative to web/docs, in a translation too
        assert (DOCS / picture).stat().st_size < BYTES, picture
    assert not re.findall(r"(?<!!)\[[^\]]*\]\((?!https://)", text), "links are not resolved by the front end"
    workflows = re.findall(r"`(workflows/[^`]+)`", text)
    assert workflows
    for workflow in workflows:
        assert (ROOT / workflow).is_file(), workflow


@pytest.mark.parametrize("node", NODES)
def test_a_translation_keeps_pictures_workflows_tables_and_sections(node):
    first, second = (page(node, language) for language in LANGUAGES)
    for pattern in (r"\]\((images/[^)]+)\)", r"`(workflows/[^`]+)`", r"^(#+) ", r"^(\|).*\|$", r"^(- )"):
        assert re.findall(pattern, first, re.MULTILINE) == re.findall(pattern, second, re.MULTILINE), pattern


def test_every_picture_is_used():
    used = {name for node, language in PAGES for name in re.findall(r"\(images/([^)]+)\)", page(node, language))}
    assert used == {path.name for path in (DOCS / "images").iterdir()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_has_words_for_every_input_and_output(language):
    said = words(language)
    assert sorted(said) == NODES
    for node, entry in said.items():
        schema = SCHEMAS[node]
        assert list(entry["inputs"]) == [part["id"] for part in schema["inputs"]]
        assert list(entry["outputs"]) == [str(place) for place in range(len(schema["outputs"]))]
        assert entry["display_name"], node
        assert entry["description"], node
        for part in (*entry["inputs"].values(), *entry["outputs"].values()):
            assert part["name"], node
            assert part["tooltip"], node


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_and_descriptions_hold_no_sign_that_the_front_end_reads_as_syntax(language):
    for node, entry in words(language).items():
        compiled = [entry["display_name"], entry["description"]]
        compiled += [part["name"] for part in (*entry["inputs"].values(), *entry["outputs"].values())]
        assert not set("{}@|") & set("".join(compiled)), node


def test_a_chinese_page_is_headed_by_the_nodes_chinese_name():
    for language in LANGUAGES:
        for node, entry in words(language).items():
            assert page(node, language).splitlines()[0] == f"# {entry['display_name']}"
