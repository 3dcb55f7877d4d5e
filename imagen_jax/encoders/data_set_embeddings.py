"""The embeddings of all captions of the data sets that a run trains on."""

from collections.abc import Sequence

from imagen_jax.data.splits import SPLITS
from imagen_jax.data.stored_images import captions_of, identify
from imagen_jax.encoders.embedding_layer import recall
from imagen_jax.encoders.embedding_store import EmbeddingStore
from imagen_jax.encoders.encoder import TextEncoder
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path

MAX_CAPTIONS = 1_000_000
"""Max captions that a training embeds at its start: process 0 does it while the others wait."""


def open_store(folders: Sequence[Path], encoder: TextEncoder, prompts: Sequence[str]) -> EmbeddingStore:
    """Opens the embeddings of some prompts and of all captions of data sets, and computes missing ones.

    Raises:
        UserError: a data set has more than ``MAX_CAPTIONS`` captions, and none are embedded yet.
    """
    layers, captions = [], [*prompts]
    for folder in folders:
        embedded = recall(folder / "embeddings" / encoder.name, identify(folder))
        if embedded:
            layers.append(embedded)
            continue
        missing = [one for split in SPLITS for of_image in captions_of(folder, split) for one in of_image]
        if len(missing) > MAX_CAPTIONS:
            raise UserError(
                f"{folder} has {len(missing):,} captions, and {encoder.name} has not embedded them yet: run "
                f"imagen-jax embed_captions --data={folder} first, or set --config.text.embeddings=computed"
            )
        captions += missing
    return EmbeddingStore.build_or_open(folders[0] / "embeddings", captions, encoder, also=layers)
