"""Words before symbols: whatever a user reads says what a symbol stands for before it uses the symbol. No host"
" needed."""

import json
import re

import pytest

from support.paths import ROOT

DOCS = ROOT / "web" / "docs"
FOR_USERS = ("comfyui", "costs", "families", "pixelwise", "training", "judging")
NAMES = {"en": ("γ Sweep", "γ Explorer", "Search Policy"), "zh": ("γ 扫描",)}  # of nodes, which are no symbols
LATIN = r"(?<![\w'’`.\-+*/=]){}(?![\w'’`*\-/.]|\.\w)"  # a letter that stands alone
SYMBOLS = {
    "γ": ("γ", r"strength|deviation scale", r"强度|偏离系数"),
    "t*": (
        r"(?<![^\W_])t\\?\*|t⋆",
        r"timestep[^.]{0,40} told|told[^.]{0,60} timestep|tells the model another timestep",
        r"告知[^。]{0,12}时间步",
    ),
    "D": (LATIN.format("D"), r"deviation|deviates", r"偏离"),
    "σ": ("σ", r"noise levels?|standard deviation", r"噪声水平|标准差"),
    "p": (LATIN.format("p"), r"coupling", r"耦合"),
    "ω": ("ω", r"velocity|length of the step", r"速度|步长"),
    "k": (LATIN.format("k"), r"strength|how strongly", r"强度"),
    "K": (LATIN.format("K"), r"steps", r"步"),
    "r": (LATIN.format("r"), r"action|decision", r"决定|动作"),
    "η": ("η", r"noise", r"噪声"),
    "B": (LATIN.format("B"), r"bound", r"上限"),
}
"""What a symbol looks like, and what must stand before its first use: in English, in Chinese."""


def readable(text, language):
    """Without code that is no word, addresses and the names of nodes."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\([^)]*\)|https?://\S+", " ", text)
    text = re.sub(r"`([^`]*)`", lambda code: code[1] if re.fullmatch(r"[a-z_]{3,}", code[1]) else " ", text)
    for name in NAMES[language]:
        text = text.replace(name, " ")
    return text


def too_early(text, language):
    """The symbols that come before their words."""
    seen = readable(text, language)
    for symbol, (looks, *words) in SYMBOLS.items():
        first = re.search(looks, seen)
        if first and not re.search(words[language == "zh"], seen[: first.start()], re.IGNORECASE):
            yield f"{symbol}: …{seen[max(0, first.start() - 60) : first.end() + 30]!r}"


def pages():
    for path in (
        ROOT / "README.md",
        *(ROOT / "docs" / f"{name}.md" for name in FOR_USERS),
        *sorted(DOCS.rglob("*.md")),
    ):
        yield path.relative_to(ROOT).as_posix(), "zh" if path.stem == "zh" else "en", path.read_text(encoding="utf-8")


def node_texts():
    """Every node's name with its description, and every input's and output's name with its tooltip."""
    for language in ("en", "zh"):
        said = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
        for node, entry in said.items():
            yield f"{language} {node}", language, f"{entry['display_name']}. {entry['description']}"
            for side in ("inputs", "outputs"):
                for key, part in entry[side].items():
                    yield f"{language} {node} {side} {key}", language, f"{part['name']}. {part['tooltip']}"


def notes():
    """What the notes of the templates say."""
    for path in sorted((ROOT / "workflows").glob("*.json")):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            if "Note" in node["type"]:
                yield path.stem, "en", str(node["widgets_values"][0])


@pytest.mark.parametrize(("where", "language", "text"), [*pages(), *node_texts(), *notes()])
def test_a_symbol_comes_after_its_words(where, language, text):
    assert list(too_early(text, language)) == [], where


def test_a_symbol_alone_is_noticed():
    assert [found[0] for found in too_early("D is 0.4 at γ = 1.", "en")] == ["γ", "D"]
    assert list(too_early("The deviation (D) is 0.4 at strength (γ) 1; SD3.5, `D`, 3D.", "en")) == []
    assert len(list(too_early("γ 越大，t* 越小", "zh"))) == 2
