"""One reader of prompts for every command and node: what people have is read, what cannot be read is refused."""

import json
import os

import pytest

from asyncdiff.tpm.prompt_files import PromptFileError, read_named_prompts, read_prompts

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.txt", "a cat\n\n  a dog \n"),
        ("table.csv", "file,caption\n1.png,a cat\n2.png,a dog\n"),
        ("list.json", '["a cat", "a dog"]'),
        ("objects.json", '[{"prompt": "a cat"}, {"text": "a dog"}]'),
        ("coco.json", '{"info": {}, "images": [], "annotations": [{"caption": "a cat"}, {"caption": "a dog"}]}'),
        ("LINES.TXT", "a cat\r\na dog\r\n"),
        ("no_ending", "a cat\na dog"),
        ("lines.jsonl", '{"prompt": "a cat"}\n\n{"prompt": "a dog"}\n'),
        ("strings.ndjson", '"a cat"\n"a dog"\n'),
        ("parti.TSV", "Prompt\tCategory\na cat\tAnimals\na dog\tAnimals\n"),
        ("draw.CSV", "Prompts,Category\na cat,1\na dog,1\n"),
        ("brackets.csv", "id;Prompt(s)\n1;a cat\n2;a dog\n"),
        ("asyndm.txt", '["a cat", "a dog"]'),
        ("rows.txt", '{"caption": "a cat"}\n{"caption": "a dog"}\n'),
        ("mapping.json", '{"1.png": "a cat", "2.png": "a dog"}'),
    ],
)
def test_prompts_as_they_are_published(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_prompts(tmp_path / name) == ["a cat", "a dog"]


def test_a_folder_of_compbench_files(tmp_path):
    (tmp_path / "color_train.txt").write_text("a red cat\n")
    (tmp_path / "shape_train.txt").write_text("a round dog\n")
    assert read_prompts(tmp_path) == ["a red cat", "a round dog"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.txt", None, "There is no file"),
        ("empty.txt", "\n \n", "holds no prompts"),
        ("table.csv", "file,words\n1.png,a cat\n", "no column named"),
        ("broken.json", "[", "not valid JSON"),
        ("number.json", "3", "neither a list"),
        ("entry.json", '[{"id": 3}]', "no column named prompt"),
        ("latin.txt", b"caf\xe9", "UTF-8"),
        ("sheet.xlsx", b"PK\x03\x04", "files of prompts are .txt"),
        ("binary.txt", b"\x00\x01a cat", "control characters"),
        ("commas.csv", "prompt,n\na cat, and a dog,1\n", "row 2 has 3 cells"),
        ("short.csv", "n,prompt\n1\n", "row 2 has 1 cells"),
        ("open.csv", 'prompt\n"a cat\n', "double quotes"),
        ("list.json", '["a cat", 3]', "no text: 3"),
        ("null.json", '[{"prompt": null}]', "not text: None"),
        ("nested.json", '{"prompts": {"a": "b"}}', "neither a list"),
        ("deep.json", "[" * 100_000, "nested too deeply"),
        ("line.jsonl", '{"prompt": "a cat"}\n{"prompt": ', "line 2 is not valid JSON"),
        ("other.jsonl", '{"id": 1}', "(it has id)"),
    ],
)
def test_files_without_prompts_are_sentences(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PromptFileError) as told:
        read_prompts(tmp_path / name)
    assert words in str(told.value)


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.json", "p.jsonl", "p.tsv"])
def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path, name):
    rows = {"p.txt": "a cat", "p.json": '["a cat"]', "p.jsonl": '"a cat"'}
    (tmp_path / name).write_bytes(BOM + rows.get(name, "prompt\na cat").encode())
    assert read_prompts(tmp_path / name) == ["a cat"]
    (tmp_path / name).write_text(rows.get(name, "prompt\na cat"), encoding="utf-16")
    assert read_prompts(tmp_path / name) == ["a cat"]


def test_a_quoted_line_break_is_part_of_its_prompt(tmp_path):
    (tmp_path / "p.csv").write_text('prompt,seed\n"a cat,\nand a dog",1\na bird,2\n')
    assert read_prompts(tmp_path / "p.csv") == ["a cat,\nand a dog", "a bird"]


def test_tab_separated_rows_keep_quotes_that_quote_nothing(tmp_path):
    (tmp_path / "p.tsv").write_text('Prompt\tCategory\n"hello" on a sign\tText\n')
    assert read_prompts(tmp_path / "p.tsv") == ['"hello" on a sign']
    (tmp_path / "p.tsv").write_text('Prompt\tCategory\n"a cat"\tText\n')
    assert read_prompts(tmp_path / "p.tsv") == ["a cat"]


def test_only_line_breaks_separate_lines(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\u2028on a mat\x85 here\na dog\n", encoding="utf-8")
    assert read_prompts(tmp_path / "p.txt") == ["a cat\u2028on a mat\x85 here", "a dog"]


def test_a_prompt_in_brackets_is_a_prompt(tmp_path):
    (tmp_path / "p.txt").write_text("[cat] on a mat\n{dog}\n")
    assert read_prompts(tmp_path / "p.txt") == ["[cat] on a mat", "{dog}"]


def test_images_are_named_beside_their_prompts(tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"file_name": "1.png", "text": "a cat"}))
    assert read_named_prompts(tmp_path / "p.jsonl") == [("1.png", "a cat")]
    (tmp_path / "p.json").write_text('["a cat"]')
    with pytest.raises(PromptFileError, match="a file and a prompt in every row"):
        read_named_prompts(tmp_path / "p.json")


def test_what_is_no_file_is_a_sentence_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    with (tmp_path / "sparse.txt").open("wb") as file:
        file.truncate(2**33)
    for name, words in (
        ("pipe.txt", "a pipe or a device"),
        ("loop.txt", "cannot be read"),
        ("sparse.txt", "more than the 268.4 MB"),
        ("x" * 300 + ".txt", "cannot be read"),
        ("a\0b.txt", "cannot be the name of a file"),
    ):
        with pytest.raises(PromptFileError, match=words):
            read_prompts(tmp_path / name)
