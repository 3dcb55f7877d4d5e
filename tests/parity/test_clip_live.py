"""CLIP against transformers and against OpenAI's own code, run here and now.

OpenAI's code and vocabulary are of the package openai-clip; its top imports torchvision, so its modules are loaded one
by one.
"""

import importlib.util
import json
import warnings
from itertools import islice, product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax.clip.tokenizer import MERGES, VOCABULARY, list_bytes, load_folder_tokenizer, load_openai_vocabulary
from imagen_jax.data.tokenizer import truncate_token_ids
from imagen_jax.encoders.clip_preprocessing import normalise, resize_and_crop
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.encoders.published_clips import SIZES
from imagen_jax.storage.paths import checksum_of
from tests.reference.clip_folders import to_openai

pytestmark = pytest.mark.references

NASTY = [
    "",
    "a photo of a cat",
    "A Photo of a DOG, isn't it? They're we'll I'd 'S",
    "naïve café, Ångström, ÀÉÎÕÜ ß",
    "cafe\u0301 n\u0303",
    "😀👩‍🚀🏳️‍🌈 emoji👍🏽",
    "一隻貓 ねこ 고양이 кошка γάτα قطة",
    "1234567890 3.14159 1,000,000 ½ ² Ⅷ",
    "  white\tspace\n\nand   more\u00a0here ",
    "don't 'start 'so''s x'y''z",
    "under_scores-and-hyphens/slashes\\back",
    "!!!???...---===~~~```^^^",
    "#hashtag @user https://example.org/a?b=c&d=e",
    "supercalifragilisticexpialidocious" * 3,
    "x" * 300,
    "the quick brown fox " * 40,
    "<b>tags</b> {braces} [brackets]",
    "zero\u200bwidth soft\u00adhyphen",
    "C++ & Rust's `Vec<T>`",
]
# OpenAI's tokenizer cleans these, and transformers' leaves them.
UNCLEAN = [
    "it’s “quoted” ‘here’",
    "&lt;b&gt; &amp;amp; &quot;x&quot; &eacute;",
    "ﬀ ﬃ Ǆ ŉ ﬅ",
    "ＦＵＬＬ　ｗｉｄｔｈ！ ﾊﾝｶｸ",
    "a\ufeffb\x00c\x7fd",
    "ΟΔΟΣ",
    "<|startoftext|> the end <|endoftext|>",
]


def load_openai_module(name: str):
    """A module of the package openai-clip, without the package; the test is skipped where there is none."""
    package = importlib.util.find_spec("clip")
    folder = Path(package.submodule_search_locations[0]) if package and package.submodule_search_locations else None
    if folder is None or not (folder / f"{name}.py").is_file():
        pytest.skip("the package openai-clip is not installed")
    spec = importlib.util.spec_from_file_location(f"openai_clip_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def openai_tokenizer():
    return load_openai_module("simple_tokenizer")


@pytest.fixture(scope="module")
def vocabulary(openai_tokenizer):
    path = Path(openai_tokenizer.default_bpe())
    assert checksum_of(path) == VOCABULARY.sha256
    return path


def write_any_tokenizer(folder: Path) -> None:
    """Writes a vocabulary as large as CLIP's, of pairs of letters."""
    letters = list_bytes()
    merges = list(islice(product(letters, letters), MERGES))
    words = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    numbers = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(map(" ".join, merges)), encoding="utf-8")


def make_model(seed: int, changes: dict | None = None, text: dict | None = None, image: dict | None = None):
    """A CLIPModel with random weights, biases and norms too."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text or {}, vision_config=image or {}, **(changes or {}))).eval()
    with torch.inference_mode():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def embed_with(model, images: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of images and of captions, as transformers computes them."""
    import torch

    pixels = np.asarray(normalise(jnp.asarray(images))).transpose(0, 3, 1, 2).copy()
    with torch.inference_mode():
        image = model.get_image_features(pixel_values=torch.from_numpy(pixels)).pooler_output
        text = model.get_text_features(input_ids=torch.from_numpy(ids).long()).pooler_output
    return image.numpy(), text.numpy()


def make_inputs(resolution: int, end: int, batch: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(4)
    ids = generator.integers(0, end - 1, (batch, 77)).astype(np.int32)
    ids[:, 60] = end
    ids[0, 5] = ids[1, 76] = end
    ids[1, 60] = 3
    return generator.integers(0, 256, (batch, resolution, resolution, 3), dtype=np.uint8), ids


def assert_close(found, expected) -> None:
    scale = np.abs(expected).max()
    assert scale > 0.5
    np.testing.assert_allclose(np.asarray(found) / scale, expected / scale, rtol=0, atol=1e-5)


def embed(clip, images, ids):
    image = jax.jit(clip.image.extract)(clip.image.weights, jnp.asarray(images)).pooled
    return image, clip.embed(clip.text_weights, jnp.asarray(ids))


SETTINGS = {
    "fewer_layers": ({}, {"num_hidden_layers": 2}, {"num_hidden_layers": 3}),
    "old_end": ({}, {"num_hidden_layers": 1, "eos_token_id": 2}, {"num_hidden_layers": 1}),
    "other_widths": (
        {"projection_dim": 48},
        {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 72},
        {"num_hidden_layers": 2, "hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 80}
        | {"image_size": 42, "patch_size": 14},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_folder_of_transformers_is_the_same_network(name, tmp_path):
    model = make_model(0, *SETTINGS[name])
    model.save_pretrained(tmp_path)
    write_any_tokenizer(tmp_path)
    clip = load_clip(str(tmp_path), model="")
    images, ids = make_inputs(clip.description.image["resolution"], 49407)
    for found, expected in zip(embed(clip, images, ids), embed_with(model, images, ids), strict=True):
        assert_close(found, expected)
    assert clip.logit_scale == pytest.approx(np.exp(model.logit_scale.item()))


@pytest.mark.slow
def test_vit_b32_of_full_size_is_the_same_network(tmp_path):
    model = make_model(1)
    model.save_pretrained(tmp_path)
    write_any_tokenizer(tmp_path)
    clip = load_clip(str(tmp_path), "ViT-B/32")
    assert clip.description == SIZES["ViT-B/32"] and clip.name == "clip_vit_b32"
    images, ids = make_inputs(224, 49407, batch=2)
    for found, expected in zip(embed(clip, images, ids), embed_with(model, images, ids), strict=True):
        assert_close(found, expected)


def build_tree(tensors: dict[str, np.ndarray]):
    """A module of modules whose parameters have these dotted names."""
    import torch

    class Tree(torch.nn.Module):
        def forward(self, x):
            return x + 1

    root = Tree()
    for name, array in tensors.items():
        *parts, last = name.split(".")
        inner = root
        for part in parts:
            if part not in dict(inner.named_children()):
                inner.add_module(part, torch.nn.Module())
            inner = inner.get_submodule(part)
        if array.dtype == np.int64:
            inner.register_buffer(last, torch.from_numpy(array))
        else:
            inner.register_parameter(last, torch.nn.Parameter(torch.from_numpy(array)))
    return root.eval()


@pytest.mark.parametrize("kind", ["trace", "script", "state dict"])
def test_a_file_of_openais_layout_is_the_same_network(kind, tmp_path, monkeypatch):
    import torch

    text = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 72}
    image = {"num_hidden_layers": 2, "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 80}
    model = make_model(2, {}, text, image).half().float()
    tree = build_tree(to_openai({name: tensor.numpy() for name, tensor in model.state_dict().items()}))
    with warnings.catch_warnings(action="ignore"):
        if kind == "state dict":
            torch.save(tree.state_dict(), tmp_path / "clip.pt")
        else:
            script = torch.jit.trace(tree, torch.zeros(1)) if kind == "trace" else torch.jit.script(tree)
            torch.jit.save(script, tmp_path / "clip.pt")
    monkeypatch.setattr("imagen_jax.encoders.pretrained_clip.load_openai_vocabulary", lambda path: one_caption)
    clip = load_clip(str(tmp_path / "clip.pt"), model="", vocabulary=str(tmp_path / "clip.pt"))
    images, ids = make_inputs(224, 49407)
    for found, expected in zip(embed(clip, images, ids), embed_with(model, images, ids), strict=True):
        assert_close(found, expected)


def one_caption(captions) -> list[list[int]]:
    return [[49406, 49407] for _ in captions]


def test_openais_own_network_and_tokenizer_traced_as_published(tmp_path, vocabulary, openai_tokenizer):
    import torch

    torch.manual_seed(3)
    own = load_openai_module("model").CLIP(96, 64, 2, 128, 16, 77, 49408, 128, 2, 3).eval()
    images, _ = make_inputs(64, 49407)
    pixels = torch.from_numpy(np.asarray(normalise(jnp.asarray(images))).transpose(0, 3, 1, 2).copy())
    captions = [*NASTY[1:13], *UNCLEAN]
    tokenizer = openai_tokenizer.SimpleTokenizer()
    ids = torch.zeros(len(captions), 77, dtype=torch.int)
    for row, caption in enumerate(captions):
        tokens = [49406, *tokenizer.encode(caption), 49407]
        ids[row, : len(tokens)] = torch.tensor(tokens)
    own = own.half().float()
    with warnings.catch_warnings(action="ignore"), torch.inference_mode():
        expected = own.encode_image(pixels).numpy(), own.encode_text(ids).numpy()
        methods = {"encode_image": pixels, "encode_text": ids, "forward": (pixels, ids)}
        traced = torch.jit.trace_module(own, methods, check_trace=False).half()
        torch.jit.save(traced, tmp_path / "clip.pt")
    clip = load_clip(str(tmp_path / "clip.pt"), model="", vocabulary=str(vocabulary))
    found = np.asarray(jax.jit(clip.image.extract)(clip.image.weights, jnp.asarray(images)).pooled)
    assert_close(found, expected[0])
    assert_close(clip.encode_texts(captions, batch_size=8), expected[1])
    assert clip.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)


def test_tokens_equal_openais(vocabulary, openai_tokenizer):
    theirs = openai_tokenizer.SimpleTokenizer()
    tokenize = load_openai_vocabulary(vocabulary)
    for caption in [*NASTY, *UNCLEAN]:
        assert tokenize([caption]) == [[49406, *theirs.encode(caption), 49407]], caption


def test_characters_are_cleaned_as_openai_cleans_them(openai_tokenizer):
    from imagen_jax.clip.tokenizer import clean

    codes = [*range(0x3000), *range(0xF900, 0x10000), *range(0x1F000, 0x1FB00)]
    for code in codes:
        text = f"a{chr(code)}b"
        theirs = openai_tokenizer.whitespace_clean(openai_tokenizer.basic_clean(text)).lower()
        # Python's words end at more signs than theirs; nothing of either becomes a token.
        assert clean(text) == " ".join(theirs.split()), hex(code)


def test_tokens_equal_open_clips(vocabulary):
    # Its tokenizer alone: the package imports torchvision, which has no release for this torch.
    package = importlib.util.find_spec("open_clip")
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", Path(package.origin).parent / "tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ours = [truncate_token_ids(ids, 77) for ids in load_openai_vocabulary(vocabulary)([*NASTY, *UNCLEAN[:-1]])]
    theirs = module.SimpleTokenizer()([*NASTY, *UNCLEAN[:-1]]).tolist()
    assert [ids + [0] * (77 - len(ids)) for ids in ours] == theirs


def test_tokens_equal_transformers(tmp_path, vocabulary):
    import gzip

    from transformers import CLIPTokenizer

    lines = gzip.decompress(vocabulary.read_bytes()).decode().split("\n")[1 : 1 + MERGES]
    letters = list_bytes()
    words = [*letters, *(letter + "</w>" for letter in letters), *(line.replace(" ", "") for line in lines)]
    numbers = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    theirs = CLIPTokenizer(vocab=numbers, merges=[tuple(line.split()) for line in lines])
    theirs.save_pretrained(tmp_path / "one")
    assert (tmp_path / "one" / "tokenizer.json").is_file()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    (tmp_path / "two" / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
    expected = theirs(NASTY)["input_ids"]
    for tokenize in (
        load_folder_tokenizer(tmp_path / "one"),
        load_folder_tokenizer(tmp_path / "two"),
        load_openai_vocabulary(vocabulary),
    ):
        assert tokenize(NASTY) == expected
    truncated = theirs(NASTY, truncation=True, max_length=77)["input_ids"]
    assert [truncate_token_ids(ids, 77) for ids in expected] == truncated


@pytest.mark.parametrize(
    "shape",
    [
        (224, 224),
        (64, 64),
        (256, 256),
        (1024, 1024),
        (480, 640),
        (333, 500),
        (227, 301),
        (31, 30),
        (225, 224),
        (100, 999),
    ],
)
def test_images_are_prepared_as_in_transformers(shape):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = CLIPImageProcessorPil()(image, return_tensors="np")["pixel_values"][0]
    ours = normalise(jnp.asarray(resize_and_crop(image, 224))[None])[0]
    np.testing.assert_allclose(ours, np.asarray(theirs).transpose(1, 2, 0), rtol=0, atol=1e-5)
