"""MiniLM against transformers itself, run here and now."""

import numpy as np
import pytest

from imagen_jax.encoders.encoder import load_text_encoder


@pytest.mark.references
def test_minilm_equals_transformers_bert_model():
    from tests.reference.make_minilm_reference import CAPTIONS, compute_reference

    captions = (*CAPTIONS, "two pandas", "seven red apples in a wooden bowl")
    reference = compute_reference(captions)
    text = load_text_encoder("minilm").encode(captions)
    mask = reference["mask"]
    np.testing.assert_array_equal(text.mask, mask)
    np.testing.assert_allclose(np.asarray(text.embeddings)[mask], reference["hidden"][mask], rtol=0, atol=2e-5)
