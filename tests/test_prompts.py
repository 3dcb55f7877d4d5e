import json

import pytest

from imagen_jax.errors import UserError
from imagen_jax.prompts import check_readable, read_prompts

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
        ("a.txt", b"", "holds no prompt"),
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.jsonl", b'{"prompt": "a"}\n{"title": "b"}\n', "line 2 of .*: it has no prompt, prompts, caption or text"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "line 2 of .* holds no prompt"),
        ("a.jsonl", b'{"prompt": "\\ud800"}\n', "UTF-8"),
        ("a.csv", b"prompt\n\"\"\n", "holds no prompt"),
    ],
)  # fmt: skip
def test_files_without_prompts_are_sentences(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / name)


def test_a_file_that_is_not_there_is_a_sentence(tmp_path):
    for place in (tmp_path / "none.txt", tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match="can't be read"):
            read_prompts(place)


def test_control_characters_are_text_and_lone_surrogates_are_not():
    check_readable(["a\x00b\x1b[31m", "👩🏽‍🚀"])
    with pytest.raises(UserError, match="not UTF-8"):
        check_readable(["a", "\udcff"])


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl"])
def test_a_prompt_without_end_is_a_sentence(tmp_path, name):
    text = "x" * 30_000
    (tmp_path / name).write_text(text if name == "p.txt" else json.dumps({"prompt": text}))
    with pytest.raises(UserError, match="has 30000 characters: 20000 are the most"):
        read_prompts(tmp_path / name)
