"""What stored embeddings take, and what reading them adds to a batch, at the width of T5-XXL.

From the repository's root, with 1.5 GB free in FOLDER, after ``read_images write FOLDER``::

    python -m tests.benchmarks.read_embeddings FOLDER

The embeddings are random; the captions have the lengths of COCO's, whose mean is 10.5 words (Chen et al. 2015) or about
13.5 tokens with the closing one: here drawn from a normal distribution with a deviation of 3, from 8 to 60.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from imagen_jax.array_types import Text
from imagen_jax.data.stored_images import load_split
from imagen_jax.data.transforms import make_example
from imagen_jax.encoders.embedding_layer import Layer
from imagen_jax.encoders.embedding_store import EmbeddingStore, build_layer, pad_text

WIDTH, PADDED, COUNT, BATCH, ROUNDS = 4096, 128, 10_000, 64, 25


class RandomEncoder:
    """Embeds nothing, at the width and lengths asked for."""

    name, width, max_tokens = "random-xxl", WIDTH, PADDED

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)

    def encode(self, captions: list[str], length: int | None = None) -> Text:
        """Random embeddings, of as many tokens as the caption says."""
        lengths = np.array([int(caption.split()[-1]) for caption in captions])
        mask = np.arange(lengths.max()) < lengths[:, None]
        row = self._generator.normal(size=WIDTH).astype(np.float32)
        return Text(jnp.broadcast_to(row, (*mask.shape, WIDTH)), jnp.asarray(mask))


def seconds_of(act: Callable[[], object]) -> float:
    """Of this thread's processor time."""
    began = time.thread_time()
    act()
    return time.thread_time() - began


def main(folder: Path) -> None:
    """Builds the store, if it is not there, and measures."""
    generator = np.random.default_rng(1)
    lengths = np.clip(np.rint(generator.normal(13.5, 3, COUNT)), 8, 60).astype(int)
    captions = [f"caption {number} of tokens {tokens}" for number, tokens in enumerate(lengths)]
    layer: Layer = build_layer(folder / "embeddings" / "random-xxl", lambda: captions, RandomEncoder())
    size = sum((layer.folder / name).stat().st_size for name, _ in layer.files)
    padded = COUNT * PADDED * WIDTH * 2
    print(f"{size / 1e9:.2f} GB, 1/{padded / size:.1f} of what padded bfloat16 would take")

    store = EmbeddingStore("random-xxl", WIDTH, (layer,))
    split, transform = load_split(folder / "images", "train"), make_example(64)

    def make_images() -> None:
        """What a batch's images take, in this thread."""
        prepared = [transform.prepare(split[int(index)]) for index in generator.integers(len(split), size=BATCH)]
        transform.finish(np.stack([image.pixels for image in prepared]))

    images, texts, padded = [], [], []
    for _ in range(ROUNDS):
        picked = [captions[index] for index in generator.integers(COUNT, size=BATCH)]
        images.append(seconds_of(make_images))
        texts.append(seconds_of(lambda picked=picked: store.lookup(picked, PADDED)))
        padded.append(seconds_of(lambda picked=picked: pad_text(store.lookup(picked, PADDED), PADDED)))
    for name, measured in (("as training does", texts), ("padded on the host", padded)):
        ratio = statistics.median(one / image for one, image in zip(measured, images, strict=True))
        milliseconds = 1e3 * statistics.median(measured)
        print(f"{name:<18} {milliseconds:6.1f} ms a batch of {BATCH}, {100 * ratio:.1f}% of its images'")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
