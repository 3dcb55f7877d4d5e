"""JSON is parsed within limits of size and depth, and whatever is wrong with it is one kind of error."""

import json

import pytest

from imagen_jax.storage.json_text import MAX_DEPTH, parse_json, read_json


@pytest.mark.parametrize("content", [b'{"a": [1, 2.5, null, "\xc3\xa9"]}', '{"a": [1, 2.5, null, "é"]}'])
def test_json_is_parsed(content):
    assert parse_json(content) == {"a": [1, 2.5, None, "é"]}


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a": ', "}")])
def test_it_is_as_deep_as_allowed_and_no_deeper(begin, end):
    def nested(depth):
        return begin * depth + "1" + end * depth

    parse_json(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 500, 100_000):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_json(nested(depth))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xfd", b"9" * 5000, b"[1,]"])
def test_what_is_none_is_a_value_error(content):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(content)


def test_what_is_too_large_is_not_parsed_nor_read(tmp_path):
    with pytest.raises(ValueError, match=r"\b13\b.*\b10\b"):
        parse_json(b'"01234567890"', max_bytes=10)
    (tmp_path / "a.json").write_text(json.dumps("x" * 100))
    with pytest.raises(ValueError, match=r"\b102\b.*\b100\b"):
        read_json(tmp_path / "a.json", max_bytes=100)
    assert read_json(tmp_path / "a.json", max_bytes=102) == "x" * 100
