"""Zero-shot weights and templates against open_clip, run here and now.

Its package imports torchvision, which has no release for this torch, so its modules are loaded one by one.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from imagen_jax.evaluation.metrics.zero_shot import build_classifier, classify
from imagen_jax.evaluation.prompt_templates import OPENAI_7, OPENAI_80, fill_template, make_prompts
from imagen_jax.evaluation.protocols.classification import embed_prompts

pytestmark = pytest.mark.references

NAMES = ("tench", "kite (bird of prey)", "a {0} b", "St. Bernard")
WIDTH = 16


def load_open_clip(name: str):
    package = importlib.util.find_spec("open_clip")
    assert package is not None and package.origin is not None
    spec = importlib.util.spec_from_file_location(f"open_clip_{name}", Path(package.origin).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def embed(texts):
    """Embeddings of texts, of very different lengths."""
    rows = []
    for text in texts:
        generator = np.random.default_rng(list(text.encode()))
        rows.append(generator.normal(size=WIDTH) * np.exp(generator.normal()))
    return np.asarray(rows, np.float32)


class Network:
    """Ours."""

    name = "stub"
    image = None

    def encode_texts(self, captions):
        return embed(captions)


class Model:
    """Theirs: a CLIP whose text features have unit length only if asked for."""

    def __init__(self):
        self.texts = []

    def tokenize(self, texts):
        import torch

        first = len(self.texts)
        self.texts += texts
        return torch.arange(first, len(self.texts))

    def encode_text(self, tokens, normalize=False):
        import torch

        features = torch.from_numpy(embed([self.texts[token] for token in tokens]))
        return features / features.norm(dim=-1, keepdim=True) if normalize else features


@pytest.mark.parametrize("builder", ["build_zero_shot_classifier", "build_zero_shot_classifier_legacy"])
@pytest.mark.parametrize("templates", [OPENAI_7, OPENAI_80, ("{}",)])
def test_zero_shot_weights_equal_open_clips(builder, templates):
    model = Model()
    # As functions: their format strings would read the braces in a name.
    functions = [lambda name, one=one: fill_template(one, name) for one in templates]
    theirs = getattr(load_open_clip("zero_shot_classifier"), builder)(model, model.tokenize, NAMES, functions)
    prompts = make_prompts({name: (name,) for name in NAMES}, templates)
    ours = build_classifier(embed_prompts(Network(), [prompts])[0])
    np.testing.assert_allclose(ours.T, theirs.numpy(), rtol=0, atol=1e-6)


def test_probabilities_equal_torchs_softmax():
    import torch

    images, classifier = embed(["one", "two", "three"]), embed(NAMES)
    one, other = (torch.nn.functional.normalize(torch.from_numpy(array)) for array in (images, classifier))
    expected = (100.0 * one @ other.T).softmax(dim=-1)
    np.testing.assert_allclose(classify(images, classifier, 100.0).probabilities, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(OPENAI_80, "OPENAI_IMAGENET_TEMPLATES"), (OPENAI_7, "SIMPLE_IMAGENET_TEMPLATES")]
)
def test_templates_equal_open_clips(ours, theirs):
    functions = getattr(load_open_clip("zero_shot_metadata"), theirs)
    assert [fill_template(one, "tench") for one in ours] == [function("tench") for function in functions]
