"""Settings beside the files made with them: the same continue, others and damaged ones are errors."""

import pytest

from imagen_jax.errors import UserError
from imagen_jax.storage.settings import first_difference, keep_settings


@pytest.mark.parametrize(
    ("before", "now", "different"),
    [
        ({"a": 1, "b": (2, 3)}, {"b": [2, 3], "a": 1}, None),
        ({"a": 1}, {"a": 1, "b": None}, None),
        ({"a": 1, "b": 2, "c": 3}, {"c": 4, "a": 1, "b": 5}, ("c", 3, 4)),
        ({"a": 1}, {"a": 1, "b": 2}, ("b", None, 2)),
        ({"a": 1, "b": 2}, {"a": 1}, ("b", 2, None)),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ("a", {"b": 1}, {"b": 2})),
    ],
)
def test_the_first_difference_is_in_the_order_of_the_new_settings(before, now, different):
    assert first_difference(before, now) == different


def test_the_same_settings_continue_and_others_are_errors(tmp_path):
    path = tmp_path / "made" / "settings.json"
    keep_settings(path, {"steps": 8, "prompt": "ñ"}, "images", "choose another --out")
    content = path.read_bytes()
    keep_settings(path, {"steps": 8, "prompt": "ñ"}, "images", "choose another --out")
    assert path.read_bytes() == content and "ñ" in content.decode()
    with pytest.raises(UserError, match=rf"{tmp_path}/made.*steps 8\b.*\b9\b.*--out"):
        keep_settings(path, {"steps": 9, "prompt": "ñ"}, "images", "choose another --out")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"steps"', b"\xff\xfe"])
def test_damaged_settings_are_an_error(tmp_path, content):
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}.*--out"):
        keep_settings(path, {"steps": 8}, "images", "choose another --out")
