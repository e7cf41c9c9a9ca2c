"""Every command prints on every terminal, and a mistake costs neither seconds nor a search in the help."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import asyncdiff
from asyncdiff.tpm.cli import COMMANDS, main
from asyncdiff.tpm.cli.shared.tables import as_text
from asyncdiff.tpm.cli.shared.terminal import readable_output, spelled
from support.paths import ROOT

ENCODINGS = ("ascii", "cp1252")
HELPS = (
    [], ["panel"], ["train"], ["search"], ["calibrate"], ["evaluate"], ["inspect"], ["score"], ["embedded"],
    ["embedded", "train"], ["embedded", "evaluate"], ["bench"], ["pixelwise"], ["pixelwise-evaluate"],
)  # fmt: skip
RUNS = {
    "panel": "panel ring --gamma 0 1 --steps 2 --seed 1 2",
    "inspect": "inspect tiny-sd35-tpm --steps 3",
    "search": "search --steps 3 --bound 0.1 --candidate-prompts 2 --held-out-prompts 2 --generations 1 --population 2"
    " --elite 1 --knots 2 --tails 0 --batch 2",
    "evaluate": "evaluate --steps 3 --count 2 --gamma 0 1 --variant tail --batch 2 --pictures 1",
    "calibrate": "calibrate --steps 3 --teacher-steps 6 --count 4 --batch 4",
    "train": "train --iterations 1 --steps 3 --group 2 --prompts-per-iteration 1 --minibatch 2 --probe-every 0",
    "pixelwise": "pixelwise ring --steps 2",
    "bench": "bench --only pixelwise --steps 1 --pairs 1 --device cpu",
}
QUICK = ("panel", "inspect", "calibrate", "pixelwise")
UNKNOWN = "a purple elephant"
WITH_UNKNOWN = {
    "panel": ["panel", UNKNOWN],
    "a negative prompt": ["panel", "a red circle", "--negative", UNKNOWN],
    "pixelwise": ["pixelwise", UNKNOWN],
    "bench": ["bench", "--prompt", UNKNOWN],
    "train": ["train", "--prompts", "FILE"],
    "search": ["search", "--prompts", "FILE"],
    "held-out prompts": ["search", "--held-out", "FILE"],
    "evaluate": ["evaluate", "--prompts", "FILE"],
    "calibrate": ["calibrate", "--negative", UNKNOWN],
}


class Terminal:
    """Standard output and error of one encoding; what was printed is read back from the bytes."""

    def __init__(self, monkeypatch, encoding, errors="strict"):
        self.encoding = encoding
        self.out, self.err = (
            io.TextIOWrapper(io.BytesIO(), encoding, errors=kind, write_through=True)
            for kind in (errors, "backslashreplace")
        )
        monkeypatch.setattr(sys, "stdout", self.out)
        monkeypatch.setattr(sys, "stderr", self.err)

    def read(self):
        return tuple(stream.buffer.getvalue().decode(self.encoding) for stream in (self.out, self.err))


def program(*arguments, **environment):
    """The command in an interpreter of its own."""
    place = str(Path(asyncdiff.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": place} | environment
    return subprocess.run(
        [sys.executable, "-m", "asyncdiff.tpm.cli", *arguments], capture_output=True, env=environment, check=False
    )


def test_all_commands_are_in_these_tests():
    assert len(COMMANDS) == len({tuple(words[:1]) for words in HELPS if words})


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_is_printed_on_every_terminal(command, encoding, monkeypatch):
    terminal = Terminal(monkeypatch, encoding)
    assert main([*command, "--help"]) == 0
    out, err = terminal.read()
    assert out.startswith("usage: asyncdiff")
    assert "\\u" not in out
    assert err == ""


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        *((name, "ascii") for name in RUNS),
        *((name, "cp1252") for name in ("panel", "inspect", "calibrate", "pixelwise")),
    ],
)
def test_a_run_ends_well_on_every_terminal(name, encoding, tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    from asyncdiff.tpm.cli.bench import pixelwise as bench

    monkeypatch.setattr(bench, "SIDE", 16)
    quiet = [] if name in ("bench", "inspect") else ["--no-progress"]
    place = [] if name == "bench" else ["--out", str(tmp_path / "out.png")]
    terminal = Terminal(monkeypatch, encoding)
    assert main([*RUNS[name].split(), *quiet, *place]) == 0
    out, err = terminal.read()
    assert out.strip()
    assert "\\u" not in out + err


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_folder_is_judged_on_every_terminal(encoding, tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "ç 圆").mkdir()
    image.new("RGB", (64, 64)).save(tmp_path / "ç 圆" / "Ω.png")
    terminal = Terminal(monkeypatch, encoding)
    table = tmp_path / "ç 圆.csv"
    assert main(["score", str(tmp_path), "--metric", "residual-noise", "--out", str(table), "--no-progress"]) == 0
    assert "\\u5706.csv" in terminal.read()[0]


@pytest.mark.processes
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_interpreter_with_such_streams_is_fine(encoding, tmp_path):
    pytest.importorskip("PIL")
    out = str(tmp_path / "chart.png")
    done = program("inspect", "constant:-0.2", "--steps", "3", "--out", out, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    text = done.stdout.decode(encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "D = -0.200" in text
    assert "gamma = 0.5" in text


def test_messages_are_readable_too(monkeypatch):
    terminal = Terminal(monkeypatch, "ascii")
    assert main(["panel", "x", "--gamma", "9"]) == 2
    assert "gamma must be between 0 and 4" in terminal.read()[1]
    assert main(["panel", "a red \u5706 \u00e9toile"]) == 2
    assert '"\\u5706", "etoile"' in terminal.read()[1]


def test_columns_stay_aligned(monkeypatch):
    Terminal(monkeypatch, "ascii")
    with readable_output():
        lines = as_text(["σ", "γ = 1"], [["0.5", "0.1 … 0.2"]]).splitlines()
    assert lines == ["sigma     gamma = 1", "-----   -----------", "0.5     0.1 ... 0.2"]


def test_a_utf_8_terminal_shows_what_is_meant(monkeypatch):
    terminal = Terminal(monkeypatch, "utf-8")
    assert main(["panel", "--help"]) == 0
    assert "strengths to compare" in terminal.read()[0]
    assert "γ" in terminal.read()[0]


def test_a_file_name_that_is_not_text_can_be_printed(monkeypatch):
    terminal = Terminal(monkeypatch, "utf-8")
    with readable_output():
        print("\udcff")
    assert terminal.read()[0] == "\\udcff\n"


@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_streams_are_left_as_they_were_and_a_choice_of_the_user_stays(monkeypatch, errors):
    terminal = Terminal(monkeypatch, "ascii", errors)
    with readable_output():
        print("γ")
    assert terminal.read()[0] == ("?\n" if errors == "replace" else "gamma\n")
    assert (terminal.out.errors, terminal.err.errors) == (errors, "backslashreplace")


def test_no_streams_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["panel", "--help"]) == 0


def strings(folder):
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_letter_that_the_library_prints_has_a_readable_form():
    letters = {letter for text in strings("tpm") for letter in text if not letter.isascii()}
    letters -= set("🇦🇿🏻🏿\u200d")  # limits of what draws text, never printed
    assert {"γ", "σ", "−", "·", "…"} <= letters
    assert sorted(letter for letter in letters if "\\" in spelled(letter) or not spelled(letter).isascii()) == []


@pytest.mark.parametrize(
    ("letter", "form"),
    [("γ", "gamma"), ("Δ", "Delta"), ("ᾱ", "alpha"), ("²", "^2"), ("₀", "_0"), ("µ", "mu"), ("½", "1/2"), ("é", "e")],
)
def test_letters_are_spelled(letter, form):
    assert spelled(letter) == form


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pipe that closes as POSIX's do")
def test_a_reader_that_has_seen_enough_is_no_failure():
    place = str(Path(asyncdiff.__file__).parent.parent)
    command = [sys.executable, "-m", "asyncdiff.tpm.cli", "panel", "--help"]
    environment = os.environ | {"PYTHONPATH": place}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        process.stdout.close()  # before anything is printed
        assert (process.stderr.read(), process.wait()) == (b"", 0)


# --- mistakes


def test_bare_the_command_lists_its_commands(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {command}" in out for command in ("panel", "train", "inspect", "pixelwise-evaluate"))
    assert main(["embedded"]) == 0
    assert "the numbers of the model card" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("panle x", """there is no 'panle' (did you mean "panel"?); choose from panel, train"""),
        ("embedded trian", 'did you mean "train"?'),
        ("--verison", 'asyncdiff: unrecognized arguments: --verison (did you mean "--version"?)'),
        ("panel x --gama 1", 'asyncdiff panel: unrecognized arguments: --gama 1 (did you mean "--gamma"?)'),
        ("panel x --tial-sync=1", '--tial-sync=1 (did you mean "--tail-sync"?)'),
        ("panel x --xyzzy", "unrecognized arguments: --xyzzy (asyncdiff panel --help"),
        ("panel x --grid simpel", """there is no 'simpel' (did you mean "simple"?); choose from simple, scheduler"""),
        ("panel x --solver eular", 'did you mean "euler"?'),
        ("inspect tiny-sd35-tmp", 'shipped policy (did you mean "tiny-sd35-tpm"?)'),
        ("train --recipe tiny-sd53", 'shipped recipe (did you mean "tiny-sd35"?)'),
    ],
)
def test_what_was_meant_is_said(arguments, words, capsys):
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", WITH_UNKNOWN)
def test_an_unknown_word_is_refused_before_anything_heavy_is_imported(name, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text(UNKNOWN)
    arguments = [str(file) if word == "FILE" else word for word in WITH_UNKNOWN[name]]
    place = str(Path(asyncdiff.__file__).parent.parent)
    code = f"import sys; sys.path.insert(0, {place!r}); from asyncdiff.tpm.cli import main"
    code += f"; print(main({arguments!r}), [name for name in ('torch', 'diffusers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "2 []\n"
    assert '"elephant"' in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]
