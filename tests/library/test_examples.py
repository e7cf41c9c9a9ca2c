"""The Python examples of the documents run as they are written, on the embedded pipeline."""

import re
import runpy
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from PIL import Image

from support.paths import ROOT

pytest.importorskip("diffusers")

REAL = '"stabilityai/stable-diffusion-3.5-medium"'


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run(page, folder, monkeypatch, **replaced):
    """All examples of the page, one after the other as one program; returns its names."""
    monkeypatch.chdir(folder)
    with TemporaryDirectory() as place:
        program = Path(place, "examples.py")
        program.write_text("\n".join(changed(code, replaced) for code in blocks(page)), "utf-8")
        return runpy.run_path(str(program), run_name="__main__")


def changed(code, replaced):
    for words, others in replaced.values():
        assert words in code
        code = code.replace(words, others)
    return code


def test_the_examples_of_the_python_page_run(tmp_path, monkeypatch):
    made = run("docs/python.md", tmp_path, monkeypatch)
    assert {path.name for path in tmp_path.iterdir()} == {"circle.png", "trace.json", "training"}
    assert made["again"].tobytes() == Image.open(tmp_path / "circle.png").tobytes()
    assert made["scores"]["redness"].shape == (2,)
    assert made["outcome"].iterations == 2


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    embedded = f'"{(ROOT / "weights" / "tiny-sd35").as_posix()}"'
    steps = ("num_inference_steps=15", "num_inference_steps=2")
    prompt = ('"a lighthouse at dusk"', '"a small blue square"')
    run("README.md", tmp_path, monkeypatch, model=(REAL, embedded), steps=steps, prompt=prompt)


@pytest.mark.parametrize("page", ["docs/pixelwise.md", "docs/training.md", "docs/python.md", "README.md"])
def test_what_an_example_imports_exists(page, tmp_path):
    imports = re.findall(r"^(?:from asyncdiff|import asyncdiff).*$", "\n".join(blocks(page)), re.MULTILINE)
    program = tmp_path / "imports.py"
    program.write_text("\n".join(imports), "utf-8")
    runpy.run_path(str(program))
