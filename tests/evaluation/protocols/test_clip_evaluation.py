"""The measurement during training: the same numbers as the metrics give, from embeddings alone."""

import numpy as np
import pytest

from imagen_jax.data.classes import NO_CLASS
from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.retrieval import measure_retrieval, pair_captions
from imagen_jax.evaluation.prompt_templates import make_prompts
from imagen_jax.evaluation.protocols.clip_evaluation import make_clip_evaluation

CAPTIONS = [("red one",), ("blue one", "a sea"), ("Red one",), ("green one",)]
CLASSES = make_prompts({"red": ("red",), "blue": ("blue", "sea")}, ["{}", "a {} thing"])
LABELS = np.asarray([0, 1, 0, NO_CLASS])


def embed(texts):
    """Random directions that depend on the text."""
    seeds = [sum(map(ord, text)) for text in texts]
    return np.stack([np.random.default_rng(seed).normal(size=6) for seed in seeds]).astype(np.float32)


def test_retrieval_is_that_of_the_metrics():
    evaluate = make_clip_evaluation(CAPTIONS)
    images = embed(["1", "2", "3", "4"])
    found = evaluate(images, embed(evaluate.texts))
    pairs = pair_captions(CAPTIONS)
    expected = measure_retrieval(images, embed(pairs.captions), pairs)
    assert evaluate.texts == pairs.captions == ("red one", "blue one", "a sea", "green one")
    assert found == {
        f"{name}_recall_at_{k}": getattr(expected, name).recall[k]
        for name in ("image_to_text", "text_to_image")
        for k in (1, 5, 10)
    }
    assert evaluate.chance["image_to_text_recall_at_1"] == pytest.approx((1 + 2 + 1 + 1) / 4 / 4)
    assert evaluate.chance.keys() == found.keys()


def test_zero_shot_accuracy_is_that_of_averaged_prompts():
    evaluate = make_clip_evaluation(CAPTIONS, CLASSES, LABELS)
    texts = embed(evaluate.texts) * np.linspace(1, 20, len(evaluate.texts), dtype=np.float32)[:, None]
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    of = dict(zip(evaluate.texts, unit, strict=True))
    red, blue = (sum(of[prompt] for prompt in own) for own in CLASSES.prompts)
    # The unlabelled image has no direction that any class would have.
    images = np.stack([red, blue, blue, red]).astype(np.float32)
    found = evaluate(images, texts)
    assert found["zero_shot_accuracy"] == pytest.approx(2 / 3)
    assert evaluate.chance["zero_shot_accuracy"] == 0.5
    assert {type(value) for value in found.values()} == {float}


def test_what_does_not_belong_together_is_an_error_of_the_user():
    with pytest.raises(UserError):
        make_clip_evaluation(CAPTIONS, CLASSES)
    with pytest.raises(UserError):
        make_clip_evaluation(CAPTIONS, None, LABELS)
    with pytest.raises(UserError):
        make_clip_evaluation(CAPTIONS, CLASSES, LABELS[:2])
    with pytest.raises(UserError):
        make_clip_evaluation(CAPTIONS, CLASSES, np.full(4, NO_CLASS))
    evaluate = make_clip_evaluation(CAPTIONS)
    with pytest.raises(UserError):
        evaluate(embed(["1", "2", "3"]), embed(evaluate.texts))
    with pytest.raises(UserError):
        evaluate(embed(["1", "2", "3", "4"]), embed(evaluate.texts[:2]))
