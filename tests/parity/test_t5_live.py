"""T5 against transformers itself, run here and now."""

import numpy as np
import pytest

from tests.reference.t5_folders import CONFIGS, write_t5_folder
from tests.text.test_t5 import load_hidden


@pytest.mark.references
@pytest.mark.parametrize("lengths", [(9,), (140, 3), (40, 40, 40)])
@pytest.mark.parametrize("name", CONFIGS)
def test_t5_equals_transformers_encoder(name, lengths, tmp_path):
    from tests.reference.make_t5_reference import compute_hidden, make_ids

    folder = write_t5_folder(tmp_path, name, seed=3, shards=2)
    ids, mask = make_ids(name, lengths)
    ours, theirs = load_hidden(folder, ids, mask), compute_hidden(folder, ids, mask)
    np.testing.assert_allclose(ours[mask], theirs[mask], rtol=0, atol=2e-5)


@pytest.mark.references
def test_tokenizer_equals_transformers(tmp_path):
    from transformers import T5Tokenizer

    from imagen_jax.text.tokenizer import load_sentencepiece
    from tests.reference.t5_folders import CORPUS

    folder = write_t5_folder(tmp_path)
    captions = [*CORPUS, "", "  two  spaces ", "unseen: Ω §"]
    theirs = T5Tokenizer.from_pretrained(folder, extra_ids=0)(captions)["input_ids"]
    assert load_sentencepiece(folder / "spiece.model")(captions) == theirs
