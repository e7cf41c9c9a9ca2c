"""The skeleton: light import, complete package list, nothing that moves a ComfyUI environment."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import asyncdiff
from support.paths import ROOT

HEAVY = ("torch", "diffusers", "transformers", "PIL", "numpy", "comfy")
OTHER = (
    "Not the AsyncDiff of NeurIPS 2024 (parallel inference on several GPUs): this pack changes the timestep that the"
    " model is told."
)
ABSENT = ("diffusers", "accelerate", "matplotlib", "skimage")  # inside ComfyUI

tomllib = pytest.importorskip("tomllib")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_importing_the_package_imports_nothing_heavy():
    where = str(Path(asyncdiff.__file__).parent.parent)
    code = f"import sys; sys.path.insert(0, {where!r}); import asyncdiff.tpm.cli; asyncdiff.tpm.cli.build_parser()"
    code += f"; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_vocabulary_needs_neither_torch_nor_diffusers():
    where = str(Path(asyncdiff.__file__).parent.parent)
    code = f"import sys; sys.path.insert(0, {where!r}); import asyncdiff.tpm.embedded.vocabulary"
    code += f"; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_judge_scores_without_what_comfyui_does_not_bring():
    where = str(Path(asyncdiff.__file__).parent.parent)
    code = f"import sys; sys.path.insert(0, {where!r})"
    code += f"; sys.modules.update(dict.fromkeys({ABSENT!r}))"
    code += "; import torch; from asyncdiff.tpm.embedded.judge import Judge"
    code += f"; judge = Judge.load({str(ROOT / 'weights' / 'tiny-sd35')!r})"
    code += "; print(sorted(judge.score(torch.rand(1, 3, 128, 128), ['a red circle'])))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['alignment', 'attributes', 'detail', 'noise']"


def test_the_public_names_are_imported_when_they_are_asked_for():
    where = str(Path(asyncdiff.__file__).parent.parent)
    code = f"import sys; sys.path.insert(0, {where!r}); import asyncdiff; listed = dir(asyncdiff)"
    code += f"; print([name for name in {HEAVY!r} if name in sys.modules])"
    code += "; from asyncdiff import asynchronous, pixelwise, Constant, Curve, Retiming; import asyncdiff.tpm as tpm"
    code += "; print(all(name in listed and getattr(asyncdiff, name) for name in asyncdiff.__all__))"
    code += "; print(callable(asynchronous), callable(pixelwise), Constant(0.1).deviation, 'diffusers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True", "True True 0.1 False"]


def test_an_unknown_name_is_an_ordinary_error():
    with pytest.raises(AttributeError, match="no attribute 'Constnat'"):
        _ = asyncdiff.Constnat
    with pytest.raises(ImportError):
        from asyncdiff import Constnat  # noqa: F401


def test_every_public_name_is_visible_to_type_checkers():
    source = (ROOT / "__init__.py").read_text()
    seen = source.split("if TYPE_CHECKING:")[1].split("\n\n")[0]
    assert {name for name in re.findall(r"\w+", seen) if name in asyncdiff._PLACES} == {*asyncdiff._PLACES}


def test_comfyui_can_load_the_folder_under_any_name():
    spec = importlib.util.spec_from_file_location("a-pack.with odd name", ROOT / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.WEB_DIRECTORY == "./web"
    assert not hasattr(module, "NODE_CLASS_MAPPINGS")


def test_one_version(project):
    assert project["project"]["version"] == asyncdiff.__version__


def test_the_package_list_names_every_folder_with_code(project):
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "tpm").rglob("*.py")}
    named = {".".join(("asyncdiff", *folder.parts)) for folder in folders}
    assert set(project["tool"]["setuptools"]["packages"]) == named | {"asyncdiff"}


def test_nothing_moves_a_users_torch(project):
    assert project["project"]["dependencies"] == []
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line.strip() and not line.startswith("#")] == []
    assert not [entry for entry in project["project"]["optional-dependencies"]["standalone"] if "==" in entry]


def test_the_constraints_cover_the_extras(project):
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    extras = project["project"]["optional-dependencies"]
    asked = {re.match(r"[\w-]+", entry).group() for entry in (*extras["standalone"], *extras["dev"])}
    assert asked - pinned == set()


def test_the_registry_knows_the_pack(project):
    comfy, urls = project["tool"]["comfy"], project["project"]["urls"]
    assert project["project"]["name"] == "asyncdiff-timesteps"
    assert comfy["DisplayName"] == "AsyncDiff Timesteps"
    assert urls["Repository"] == f"https://github.com/{comfy['PublisherId']}/asyncdiff-timesteps"
    assert urls["Issues"].startswith(urls["Repository"])
    assert urls["Documentation"].startswith(urls["Repository"])


def test_icon_and_banner_have_the_registrys_sizes(project):
    for name, shape in (("Icon", (400, 400)), ("Banner", (1260, 540))):
        address = project["tool"]["comfy"][name]
        place = address.split("/asyncdiff-timesteps/main/")[1]
        assert Image.open(ROOT / place).size == shape


@pytest.mark.parametrize("page", ["README.md", "docs/comfyui.md", "pyproject.toml"])
def test_one_sentence_says_that_this_is_not_the_other_asyncdiff(page):
    assert OTHER in (ROOT / page).read_text(encoding="utf-8")[:1500]


def test_placeholders_stand_in_one_place():
    folders = [ROOT / name for name in ("docs", "nodes", "tests", "tpm", "weights", "web", "workflows", ".ci")]
    files = [path for folder in folders for path in folder.rglob("*")] + [*ROOT.glob("*.*")]
    texts = [path for path in files if path.suffix in (".md", ".py", ".js", ".json", ".toml")]
    named = {path.relative_to(ROOT).as_posix() for path in texts if re.search(r"\bOWNER\b", path.read_text("utf-8"))}
    assert named <= {"pyproject.toml", ".ci/release.py", "tests/library/test_package.py"}


@pytest.mark.parametrize("file", sorted((ROOT / "workflows").glob("*.json")), ids=lambda file: file.stem)
def test_workflows_name_the_pack_by_its_id_in_the_registry(project, file):
    """The front end asks the registry for the pack of that id, and looks no further when there is none."""
    text = file.read_text(encoding="utf-8")
    assert set(re.findall(r'"cnr_id": "([^"]*)"', text)) == {"comfy-core", project["project"]["name"]}


def test_a_tag_is_published_when_all_agrees(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    release = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(release)
    assert "The tag is v9.9.9" in release.faults("v9.9.9")[0]
    monkeypatch.setattr(release, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3, 2031-02-03\n")
    assert release.faults("v1.2.3") == []
    (tmp_path / "CHANGELOG.md").write_text("## 1.2.3, unreleased\n")
    assert "year-month-day" in release.faults("v1.2.3")[0]


def test_the_library_is_tested_on_all_systems_and_pythons(project):
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    matrix = jobs["library"]["strategy"]["matrix"]
    assert {system.split("-")[0] for system in matrix["os"]} == {"ubuntu", "windows", "macos"}
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert project["project"]["requires-python"] == f">={matrix['python'][0]}"
    assert {*jobs["publish"]["needs"]} == {*jobs} - {"publish"}


@pytest.mark.parametrize("file", sorted((ROOT / "web").rglob("*.js")), ids=lambda file: file.stem)
def test_the_front_end_stays_within_its_own_widgets_and_names(file):
    """All packs share one page. `.ci/registry` asks comfy-test, which knows more such rules."""
    text = file.read_text(encoding="utf-8")
    names = re.findall(r"registerExtension\(\{\s*name: [\"']([^\"']*)", text)
    assert len(names) == text.count("registerExtension(")
    assert all(name.startswith("asyncdiff.") for name in names)
    assert not re.findall(r"document\.(?:head|body)\.\w+|createElement\([\"']style|\bwindow\.\w+ = ", text)


def subclasses(kind):
    return [kind, *(found for child in kind.__subclasses__() for found in subclasses(child))]


def test_errors_name_themselves_shortly_and_travel_between_processes():
    import pickle

    import asyncdiff.tpm.rewards.base
    import asyncdiff.tpm.training.search.search  # noqa: F401 - so that their errors exist
    from asyncdiff.tpm.errors import AsyncDiffError

    found = subclasses(AsyncDiffError)
    assert len(found) > 8
    for kind in found:
        assert kind.__module__ == "asyncdiff"
        again = pickle.loads(pickle.dumps(kind("what is wrong")))
        assert type(again) is kind
        assert str(again) == "what is wrong"


def test_what_families_are_usually_sampled_with_is_known_without_torch():
    from asyncdiff.tpm.policies import presets
    from asyncdiff.tpm.usual import PRESETS, USUAL

    assert all(usual.policy in presets() for usual in USUAL.values() if usual.policy and ":" not in usual.policy)
    assert all(USUAL[family].policy == name for family, name in PRESETS.items())
    code = (
        f"import sys; sys.path.insert(0, {str(Path(asyncdiff.__file__).parent.parent)!r}); import asyncdiff.tpm.usual"
    )
    code += "; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
