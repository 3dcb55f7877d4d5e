"""Token ids: reading a tokenizer file, truncating and padding."""

import numpy as np
import pytest
import tokenizers

from imagen_jax.data.tokenizer import load_tokenizer, pad_token_ids, truncate_token_ids
from imagen_jax.errors import UserError


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path):
    vocabulary = {"[UNK]": 0, "red": 1, "apple": 2}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path / "tokenizer.json")(["red red apple", "pear"]) == [[1, 1, 2], [0]]


def test_truncation_keeps_the_closing_token():
    assert truncate_token_ids([101, 5, 6, 7, 102], 3) == [101, 5, 102]
    assert truncate_token_ids([101, 5, 102], 3) == [101, 5, 102]


def test_padding_fills_rows_and_tokens():
    ids, mask = pad_token_ids([[5, 6], [7]], batch=3, tokens=3, padding_id=9)
    np.testing.assert_array_equal(ids, [[5, 6, 9], [7, 9, 9], [9, 9, 9]])
    np.testing.assert_array_equal(mask, [[True, True, False], [True, False, False], [False, False, False]])


def test_a_tokenizer_that_contradicts_itself_is_an_error_of_ours(tmp_path):
    unknown = tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0}, unk_token="[UNK]"))
    unknown.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer\.json .*\[UNK\]"):
        load_tokenizer(tmp_path / "tokenizer.json")(["b"])
    pieces = tokenizers.processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 2)])
    unknown.post_processor = pieces
    text = unknown.to_str().replace('"[CLS]":{', '"[SEP]":{')
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")([""])
