import json

import pytest

from imagen_jax.data.prompts import check_readable, read_prompts
from imagen_jax.errors import UserError

PROMPTS = ["a red apple", "un café, s'il vous plaît", "日本語 🍎", 'says "hello", twice', "a\u2028b"]


def write(path, form):
    if form == "txt":
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*PROMPTS, "", "   "]).encode())
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps({"id": n, "prompt": one}) for n, one in enumerate(PROMPTS)))
    else:
        quoted = [one.replace('"', '""') for one in PROMPTS]
        path.write_text("\n".join(["id,caption", *(f'{n},"{one}"' for n, one in enumerate(quoted))]), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["txt", "jsonl", "csv"])
def test_prompts_of_every_form_are_read_as_they_are(tmp_path, form):
    assert read_prompts(write(tmp_path / f"prompts.{form}", form)) == PROMPTS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt"),
        ("a.txt", b"\n \n", r"a\.txt"),
        ("a.txt", b"caf\xe9", r"a\.txt .*UTF-8"),
        ("a.jsonl", b'{"prompt": "a"}\n{"title": "b"}\n', r"line 2 of .*a\.jsonl .*prompt, prompts, caption or text"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": \n', r"line 2 of .*a\.jsonl "),
        ("a.jsonl", b'{"prompt": "\\ud800"}\n', "UTF-8"),
        ("a.csv", b"prompt\n\"\"\n", r"line 2 of .*a\.csv "),
    ],
)  # fmt: skip
def test_files_without_prompts_are_sentences(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("a.json", ["a cat", "a dog\u2028"]),
        ("a.JSON", [{"prompt": "a cat"}, {"Prompt": "a dog", "id": 3}]),
        ("a.json", ["a cat", {"caption": "a dog"}]),
        ("a.json", {"prompts": ["a cat", "a dog"], "version": 1}),
        ("a.json", {"Captions": None, "text": [{"text": "a cat"}, {"text": "a dog"}]}),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_of_every_shape_gives_its_prompts(tmp_path, name, document, indent, encoding):
    (tmp_path / name).write_text(json.dumps(document, indent=indent, ensure_ascii=False), encoding=encoding)
    assert read_prompts(tmp_path / name) == ["a cat", "a dog"]


def test_one_prompt_and_lines_of_json_are_json_too(tmp_path):
    (tmp_path / "one.json").write_text('{"prompt": "a cat"}')
    assert read_prompts(tmp_path / "one.json") == ["a cat"]
    for name in ("lines.json", "lines.ndjson", "lines.jsonl"):
        (tmp_path / name).write_text('{"prompt": "a cat"}\n{"prompt": "a dog"}\n')
        assert read_prompts(tmp_path / name) == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", r"a\.json"),
        ("a.json", "", r"a\.json .*JSON"),
        ("a.json", '["a cat",', r'a\.json .*\["a cat"'),
        ("a.json", '"a cat"', r"a\.json .*\[\"a cat\""),
        ("a.json", "17", r"a\.json"),
        ("a.json", '{"a": "a cat"}', r"a\.json"),
        ("a.json", '{"prompts": {"a": "a cat"}}', r"a\.json"),
        ("a.json", '["a cat", 3]', r"item 2 of .*a\.json "),
        ("a.json", '["a cat", null]', "item 2 of "),
        ("a.json", '["a cat", ["a dog"]]', "item 2 of "),
        ("a.json", '["a cat", " "]', "item 2 of "),
        ("a.json", '[{"title": "a cat"}]', "item 1 of "),
        ("a.json", '{"prompt": "a"}\n{"prompt": \n', r"a\.json"),
        ("a.json", '["\\ud800"]', "UTF-8"),
        ("a.txt", '[\n "a cat",\n "a dog"\n]', r"a\.txt .*JSON.*a\.json"),
        ("a", '{"prompt": "a cat"}\n\n{"prompt": "a dog"}\n', r"JSON.*a\.json"),
        ("a.yaml", "- a cat\n- a dog\n", r"\.yaml .*a\.txt"),
        ("a.html", "<p>a cat</p>", r"\.html "),
    ],
)  # fmt: skip
def test_what_is_no_list_of_prompts_is_a_sentence_and_not_lines(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / name)


def test_text_that_begins_as_json_does_is_text(tmp_path):
    (tmp_path / "a.txt").write_text("[portrait] a cat\n{red|blue} dog\n")
    assert read_prompts(tmp_path / "a.txt") == ["[portrait] a cat", "{red|blue} dog"]


def test_a_file_that_is_not_there_is_a_sentence(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            read_prompts(path)


def test_control_characters_are_text_and_lone_surrogates_are_not():
    check_readable(["a\x00b\x1b[31m", "👩🏽‍🚀"])
    with pytest.raises(UserError, match="UTF-8"):
        check_readable(["a", "\udcff"])


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl"])
def test_a_prompt_without_end_is_a_sentence(tmp_path, name):
    text = "x" * 30_000
    (tmp_path / name).write_text(text if name == "p.txt" else json.dumps({"prompt": text}))
    with pytest.raises(UserError, match=r"\b30000\b.*\b20000\b"):
        read_prompts(tmp_path / name)
