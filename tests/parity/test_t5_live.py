"""T5 against transformers itself, run here and now."""

import numpy as np
import pytest

from imagen_jax.encoders.encoder import load_text_encoder
from tests.encoders.test_t5 import load_hidden
from tests.reference.t5_folders import CONFIGS, write_t5_folder
from tests.tiers import thorough_except


@pytest.mark.references
@pytest.mark.parametrize("lengths", thorough_except([(140, 3)], [(9,), (140, 3), (40, 40, 40)]))
@pytest.mark.parametrize("name", CONFIGS)
def test_t5_equals_transformers_encoder(name, lengths, tmp_path):
    from tests.reference.make_t5_reference import compute_hidden, make_ids

    folder = write_t5_folder(tmp_path, name, seed=3, shards=2)
    ids, mask = make_ids(name, lengths)
    ours, theirs = load_hidden(folder, ids, mask), compute_hidden(folder, ids, mask)
    np.testing.assert_allclose(ours[mask], theirs[mask], rtol=0, atol=2e-5)


@pytest.mark.references
@pytest.mark.parametrize("name", thorough_except(["narrow"], CONFIGS))
def test_encoded_padding_equals_transformers_at_all_places(name, tmp_path):
    """As DeepFloyd IF reads captions: padded to 77 tokens, no token looks at padding, and all 77 are kept."""
    from transformers import T5Tokenizer

    from tests.reference.make_t5_reference import compute_hidden

    folder = write_t5_folder(tmp_path, name, seed=3)
    encoder = load_text_encoder(
        "t5", folder=folder, dtype="float32", max_tokens=77, lowercase=True, encode_padding=True
    )
    captions = ["Red apple ", "a Panda eating bamboo in the rain", "", "snowman " * 40]
    tokenizer = T5Tokenizer.from_pretrained(folder, extra_ids=0)
    small = [caption.lower().strip() for caption in captions]
    padded = tokenizer(small, max_length=77, padding="max_length", truncation=True, return_tensors="np")
    theirs = compute_hidden(folder, padded["input_ids"].astype(np.int32), padded["attention_mask"] == 1)
    ours = encoder.encode(captions)
    assert np.all(ours.mask) and theirs.shape[1] == 77
    np.testing.assert_allclose(ours.embeddings, theirs, rtol=0, atol=2e-5)


@pytest.mark.references
def test_tokenizer_equals_transformers(tmp_path):
    from transformers import T5Tokenizer

    from imagen_jax.data.tokenizer import load_sentencepiece
    from tests.reference.t5_folders import CORPUS

    folder = write_t5_folder(tmp_path)
    captions = [*CORPUS, "", "  two  spaces ", "unseen: Ω §"]
    theirs = T5Tokenizer.from_pretrained(folder, extra_ids=0)(captions)["input_ids"]
    assert load_sentencepiece(folder / "spiece.model")(captions) == theirs
