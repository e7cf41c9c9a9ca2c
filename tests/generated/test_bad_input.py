"""Thousands of malformed documents, files and options: each one works, or ends in one sentence. Fixed seeds.

The examples of each kind are counted in `CASES`; `ASYNCDIFF_CASES=10` tries ten times as many.
"""

import io
import json
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save, save_file

from asyncdiff.tpm.cli import build_parser, main
from asyncdiff.tpm.cli.inspect.command import card_lines
from asyncdiff.tpm.cli.pixelwise.items import read_items, read_mask
from asyncdiff.tpm.errors import AsyncDiffError
from asyncdiff.tpm.pixelwise.requests import parse_phrases
from asyncdiff.tpm.policies import Constant, Curve, Learned, Recorded, load_policy, made_with, retiming_of, solver_note
from asyncdiff.tpm.policies.checkpoint import METADATA_KEY, Card, load_tpm
from asyncdiff.tpm.policies.network import TPM, TPMConfig
from asyncdiff.tpm.prompt_files import read_named_prompts, read_prompts
from asyncdiff.tpm.retiming.contract import StepState, TextCondition
from asyncdiff.tpm.retiming.foretold import rehearse
from asyncdiff.tpm.retiming.settings import Retiming
from asyncdiff.tpm.retiming.trace import Trace
from asyncdiff.tpm.rewards.base import RewardError
from asyncdiff.tpm.rewards.folder import Item
from asyncdiff.tpm.rewards.table import Table
from asyncdiff.tpm.rewards.words import BertTokens, ClipTokens
from asyncdiff.tpm.training.grpo.journal import read_journal
from asyncdiff.tpm.training.grpo.recipe import Recipe, read_recipe
from asyncdiff.tpm.training.resume import load_state, save_state
from support.mutations import as_text, damaged, is_sentence, mutated

CASES = int(os.environ.get("ASYNCDIFF_CASES", "1"))
GRID = [1.0, 0.8, 0.6, 0.3, 0.0]


def cases(count):
    """So many examples, the same in every run."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=count * CASES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a failing example is told as it is: making it smaller takes minutes
        suppress_health_check=quiet,
    )


def attempt(work, file):
    """What `work` gives, or None where it ended in one sentence that names the file."""
    try:
        return work()
    except AsyncDiffError as error:
        told = error
    assert is_sentence(told), told
    assert file is None or Path(file).name in str(told) or str(Path(file).parent) in str(told), told
    return None


# --- documents --------------------------------------------------------------------------------------------------------

ABOUT = {"source": "a test", "steps": 4, "retiming": {"tail_sync": 1, "velocity_coupling": 0.0}}
POLICIES = [
    Constant(0.2, about=ABOUT).to_dict(),
    Curve([(0.2, 0.1), (0.9, -0.4)], name="mine", backbone="sd3").to_dict(),
    Curve([(-3.0, 0.1), (2, -0.4)], axis="log_snr").to_dict(),
    rehearse(Constant(0.4, backbone="flux"), Retiming(gamma=2.0), GRID).to_dict(),
    Recorded(rehearse(Curve([(0.5, 0.3)]), Retiming(), GRID), "again", ABOUT).to_dict(),
    {**rehearse(Constant(0.4), Retiming(), GRID).to_dict(), "t_star": [1.0, [0.7, 0.6], 0.5, 0.2],
     "deviation": [0.0, [0.5, 1.0], 0.4, 0.4], "proposed": [0.0, [0.5, 1.0], 0.4, 0.4],
     "ratio": [0.5, [0.6, 0.7], 0.9, 0.9], "clamped": [False, [False, True], False, False]},
]  # fmt: skip


def use(policy):
    """What people do with a policy: look at it, foresee a run, run it on its own grid, save it again."""
    assert card_lines(policy)
    grid = policy.trace.sigmas if isinstance(policy, Recorded) else GRID
    retiming = retiming_of(policy)
    assert "\n" not in made_with(policy) + (solver_note(policy, "dpmpp_2m") or "")
    if not policy.needs_state:
        trace = rehearse(policy, retiming, grid)
        assert all(math.isfinite(t) for t in trace.t_star)
    json.dumps(policy.to_dict(), allow_nan=False)


@cases(900)
@given(document=mutated(POLICIES))
def test_policies_and_traces(tmp_path, document):
    file = tmp_path / "policy.json"
    file.write_text(as_text(document))
    policy = attempt(lambda: load_policy(file), file)
    if policy is not None:
        attempt(lambda: use(policy), None)
    attempt(lambda: Trace.load(file), file)


@cases(400)
@given(content=damaged([json.dumps(document, ensure_ascii=False).encode() for document in POLICIES]))
def test_damaged_policy_files(tmp_path, content):
    file = tmp_path / "policy.json"
    file.write_bytes(content)
    policy = attempt(lambda: load_policy(file), file)
    if policy is not None:
        attempt(lambda: use(policy), None)


RECIPES = [
    {"training": Recipe(weights={"detail": 2.0}, tpm={"width": 32}).to_dict(), "sampling": {"size": [512, 512]}},
    {"about": {"note": "n"}, "training": {"group": 8, "noises": 4, "start": 0.2, "steps": 6, "tail_sync": 1}},
    {"sampling": {"guidance": 5.0, "negative": "", "grid": "simple", "dtype": "bfloat16"}, "metrics": ["pick-score"]},
]


@cases(600)
@given(document=mutated(RECIPES))
def test_recipes(tmp_path, document):
    file = tmp_path / "recipe.json"
    file.write_text(as_text(document))
    found = attempt(lambda: read_recipe(file), file)
    if found is not None:
        assert Recipe(**found.get("training", {})).retiming.bound > 0


ITEMS = [{"item_idx": {"a cat": [1, [2, 3]], "a dog": [1]}, "item_k": {"a cat": [0.3, 0.5], "a dog": [0.7]}}]


@cases(400)
@given(document=mutated(ITEMS))
def test_items(tmp_path, document):
    file = tmp_path / "items.json"
    file.write_text(as_text(document))
    attempt(lambda: read_items(file), file)


@cases(300)
@given(text=st.text(st.sampled_from("ab :#.0123456789-+einfa\n\t\x00🦊"), max_size=40))
def test_phrases(text):
    attempt(lambda: parse_phrases(text, 0.5), None)


# --- TPM files --------------------------------------------------------------------------------------------------------

CONFIG = TPMConfig("sd3", latent_channels=4, context_dim=6, pooled_dim=4, width=8, heads=2, layers=1, grid=2)
HEADER = {
    "format": "asyncdiff-tpm", "version": 1, "config": CONFIG.to_dict(),
    "card": Card("sd3", 1.0, "mine", [1.0, 0.5, 0.0], {"reward": 0.1}, {"steps": 2, "training": {}}).to_dict(),
}  # fmt: skip


def weights():
    torch.manual_seed(0)
    return {name: value.clone() for name, value in TPM(CONFIG).state_dict().items()}


def decide(tpm, card):
    """One decision of a loaded TPM is a number, and its card can be looked at."""
    policy = Learned(tpm, card=card)
    assert card_lines(policy)
    attempt(lambda: retiming_of(policy), None)
    policy.begin(GRID)
    size = tpm.config
    text = TextCondition(torch.randn(1, 3, size.context_dim), torch.randn(1, size.pooled_dim))
    latent = torch.randn(2, size.latent_channels, 8, 8)
    assert torch.isfinite(policy.ratio(StepState(latent, latent, 1.0, 0.8, 1.0, 0, 4, text))).all()


@cases(300)
@given(header=mutated([HEADER]))
def test_tpm_headers(tmp_path, header):
    file = tmp_path / "tpm.safetensors"
    save_file(weights(), file, {METADATA_KEY: as_text(header)})
    loaded = attempt(lambda: load_tpm(file), file)
    if loaded is not None:
        decide(*loaded)


KINDS = (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int32, torch.bool, torch.complex64)


@cases(150)
@given(data=st.data())
def test_tpm_weights(tmp_path, data):
    tensors = weights()
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(tensors) or ["x"]))
        change = data.draw(st.sampled_from(("kind", "scale", "shape", "value", "drop", "add")))
        value = tensors.get(name, torch.zeros(1))
        if change == "kind":
            tensors[name] = value.to(data.draw(st.sampled_from(KINDS)))
        elif change == "scale":
            tensors[name] = (value if value.is_complex() else value.double()) * data.draw(
                st.sampled_from((0.0, 1e3, 1e20, 1e38))
            )
        elif change == "shape":
            tensors[name] = value.flatten()[: data.draw(st.integers(0, 4))].clone()
        elif change == "value":
            tensors[name] = torch.full(value.shape, data.draw(st.sampled_from((math.nan, math.inf, 1e30, 0.0))))
        elif change == "drop":
            tensors.pop(name, None)
        else:
            tensors[f"{name}2"] = torch.zeros(1)
    file = tmp_path / "tpm.safetensors"
    save_file(tensors, file, {METADATA_KEY: json.dumps(HEADER)})
    loaded = attempt(lambda: load_tpm(file), file)
    if loaded is not None:
        decide(*loaded)


@cases(200)
@given(content=damaged([save(weights(), {METADATA_KEY: json.dumps(HEADER)})]))
def test_damaged_tpm_files(tmp_path, content):
    file = tmp_path / "tpm.safetensors"
    file.write_bytes(content)
    loaded = attempt(lambda: load_tpm(file), file)
    if loaded is not None:
        decide(*loaded)


# --- prompts, vocabularies, tables, pictures, states -----------------------------------------------------------------

PROMPTS = {
    ".txt": b"a cat\na dog on a mat, happy\n",
    ".csv": b'file,Prompt(s),n\n1.png,"a cat,\nasleep",1\n2.png,a dog,2\n',
    ".tsv": b'Prompt\tCategory\n"a" cat\tx\na dog\ty\n',
    ".json": b'{"annotations": [{"caption": "a cat"}, {"caption": "a dog"}]}',
    ".jsonl": b'{"prompt": "a cat"}\n"a dog"\n',
}


@cases(800)
@given(ending=st.sampled_from(sorted(PROMPTS)), data=st.data())
def test_prompt_files(tmp_path, ending, data):
    file = tmp_path / f"prompts{ending}"
    file.write_bytes(data.draw(damaged([PROMPTS[ending]])))
    prompts = attempt(lambda: read_prompts(file), file)
    assert prompts is None or all(isinstance(prompt, str) and prompt.strip() for prompt in prompts)
    attempt(lambda: read_named_prompts(file), file)


BPE = {"a": 0, "b": 1, "ab": 2, "a</w>": 3, "b</w>": 4, "ab</w>": 5, "<|startoftext|>": 6, "<|endoftext|>": 7}
MERGES = "#version: 0.2\na b\na b</w>\n"
BERT = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ncat\n##s\n"


@cases(300)
@given(vocabulary=mutated([BPE]), merges=damaged([MERGES.encode()]), whole=st.booleans())
def test_clip_vocabularies(tmp_path, vocabulary, merges, whole):
    (tmp_path / "vocab.json").write_text(as_text(vocabulary))
    (tmp_path / "merges.txt").write_bytes(MERGES.encode() if whole else merges)
    words = attempt(lambda: ClipTokens(tmp_path, cleaned=True), tmp_path / "vocab.json")
    if words is not None:
        words("a cat")


@cases(200)
@given(content=damaged([BERT.encode()]))
def test_bert_vocabularies(tmp_path, content):
    file = tmp_path / "vocab.txt"
    file.write_bytes(content)
    words = attempt(lambda: BertTokens(file), file)
    if words is not None:
        words("a cat")


def made(folder, name):
    items = [Item(f"{n}.png", folder / f"{n}.png", "a cat") for n in range(2)]
    for n, item in enumerate(items):
        item.path.write_bytes(bytes([n]))
    table = Table(folder / name, items)
    table.claim("clip-score", "weights 1")
    table.put("clip-score", 0, 0.25)
    table.save()
    return items, (folder / name).read_bytes()


@pytest.mark.parametrize("name", ["t.csv", "t.json"])
def test_tables(tmp_path, name):
    items, good = made(tmp_path, name)

    @cases(150)
    @given(content=damaged([good]))
    def tried(content):
        (tmp_path / name).write_bytes(content)
        attempt(lambda: Table(tmp_path / name, items), tmp_path / name)

    tried()


def test_pictures(tmp_path):
    data = io.BytesIO()
    Image.new("LA", (9, 7), (40, 200)).save(data, "PNG")

    @cases(150)
    @given(content=damaged([data.getvalue()]))
    def tried(content):
        (tmp_path / "mask.png").write_bytes(content)
        attempt(lambda: read_mask(tmp_path / "mask.png"), tmp_path / "mask.png")

    tried()


def test_states_and_journals(tmp_path):
    file, journal = tmp_path / "state.pt", tmp_path / "journal.jsonl"
    save_state(file, {"seed": 1}, {"weights": torch.arange(6.0), "iteration": 3})
    good, lines = file.read_bytes(), b'{"iteration": 1, "D": [0.1]}\n{"iteration": 2, "D": [0.2]}\n'

    @cases(150)
    @given(content=damaged([good]), written=damaged([lines]))
    def tried(content, written):
        file.write_bytes(content)
        state = attempt(lambda: load_state(file, {"seed": 1}), file)
        assert state is None or torch.equal(state["weights"], torch.arange(6.0)), "a damaged state went on"
        journal.write_bytes(written)
        attempt(lambda: read_journal(journal), journal)

    tried()


# --- options ----------------------------------------------------------------------------------------------------------

ODD = ("", " ", "-", "--", "nan", "inf", "-inf", "1e999", "0", "-1", "1.5", "1,5", "9" * 400, "x" * 300, "a\0b", "é",
       "٣", "0x10", "1_0", "True", "512x", "x512", "512x0", "512x512x3", "../..", "🦊", "a b")  # fmt: skip


def options_of(parser):
    """(command, option or None for words without one) of every command, its subcommands included."""
    for action in parser._actions:
        for name, command in (getattr(action, "choices", None) or {}).items() if action.dest == "command" else ():
            for option in command._actions:
                yield (name, option.option_strings[-1] if option.option_strings else None)


PARSER = build_parser()
OPTIONS = list(options_of(PARSER))


@cases(900)
@given(
    chosen=st.lists(st.tuples(st.sampled_from(OPTIONS), st.sampled_from(ODD)), min_size=1, max_size=3), data=st.data()
)
def test_options(chosen, data):
    command = chosen[0][0][0]
    words = [command]
    for (_, option), value in chosen:
        mine = option if (command, option) in OPTIONS else None
        words += [value] if mine is None else [mine, value] if data.draw(st.booleans()) else [f"{mine}={value}"]
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", told)
        patch.setattr("sys.stdout", io.StringIO())
        code = parsed(words)
    assert code in (0, 2)
    assert code == 0 or is_sentence(told.getvalue().strip(), 6000), told.getvalue()


def parsed(words):
    """The exit code of a command line's first half; the command itself does not run."""
    try:
        PARSER.parse_args(words)
    except SystemExit as stop:
        return stop.code
    return 0


# --- what is not a file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pipe", "loop", "folder", "sparse", "x" * 300, "a\0b", "deep", "missing"])
def test_what_is_no_file_is_a_sentence_everywhere(tmp_path, name):
    place = tmp_path / name
    if name == "pipe":
        os.mkfifo(place)
    elif name == "loop":
        place.symlink_to(place)
    elif name == "folder":
        place.mkdir()
    elif name == "sparse":
        with place.open("wb") as file:
            file.truncate(2**40)
    elif name == "deep":
        place.write_text("[" * 10**6)
    for read in (load_policy, read_recipe, read_items, read_mask, Trace.load, load_tpm, load_facts, read_vocabulary):
        with pytest.raises(AsyncDiffError) as told:
            read(place)
        assert is_sentence(told.value)
    if name not in ("folder", "deep"):  # a folder of texts, and one long line
        with pytest.raises(AsyncDiffError) as told:
            read_prompts(place)
        assert is_sentence(told.value)


def load_facts(path):
    return load_state(path, {})


def read_vocabulary(path):
    return BertTokens(path)


def test_the_command_line_says_it_too(tmp_path, capsys):
    (tmp_path / "p.json").write_text('{"format": "asyncdiff-policy", "version": 1, "kind": "curve", "knots": {"a": 1}}')
    assert main(["inspect", str(tmp_path / "p.json")]) == 2
    assert is_sentence(capsys.readouterr().err.strip())
    assert issubclass(RewardError, AsyncDiffError)
