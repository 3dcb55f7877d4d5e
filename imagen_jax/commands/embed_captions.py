"""Embeds the captions of a prepared data set once, so that training reads them.

    imagen-jax embed_captions --data=DATA --encoder=t5 --option=folder=T5 --option=dtype=bfloat16 --plan
    imagen-jax embed_captions --data=DATA --encoder=t5 --option=folder=T5 --option=dtype=bfloat16

``--plan`` embeds a few captions and prints the disk space and time that all of them would take. After an interruption,
the same command resumes. Several hosts (``--distributed``, or ``--coordinator`` and its related flags) share the work,
each on all of its devices.
"""

import itertools
import time
from collections.abc import Iterator

import jax
from absl import flags

from imagen_jax.data.preparation.summary import format_duration, format_size
from imagen_jax.data.splits import SPLITS
from imagen_jax.data.stored_images import identify, read_captions
from imagen_jax.encoders.embedding_layer import recall, remember
from imagen_jax.encoders.embedding_store import BATCH, build_layer, split_into_batches
from imagen_jax.encoders.encoder import TEXT_ENCODERS, TextEncoder, load_text_encoder
from imagen_jax.errors import UserError, lookup
from imagen_jax.runtime import distributed_flags, processes
from imagen_jax.runtime.distributed_flags import join_as_flagged
from imagen_jax.runtime.main import parse_options, run_main
from imagen_jax.runtime.preconditions import Precondition, check_flags
from imagen_jax.storage.paths import create_folder, to_path

DATA = flags.DEFINE_string("data", None, "Folder of a data set that prepare_data made.", required=True)
ENCODER = flags.DEFINE_string("encoder", None, f"The text encoder: {', '.join(TEXT_ENCODERS)}.", required=True)
OPTION = flags.DEFINE_multi_string("option", [], "Option of the encoder as NAME=VALUE, such as folder=T5; repeatable.")
PLAN = flags.DEFINE_bool("plan", False, "Only estimate the disk space and the time for all captions.")
VERIFY = flags.DEFINE_bool("verify", False, "Only verify the checksums of existing embeddings.")

SAMPLE = 8 * BATCH
"""Max number of captions that ``--plan`` embeds."""

PADDED_TOKENS = 128

PRECONDITIONS = (
    *distributed_flags.PRECONDITIONS,
    Precondition(
        "verify",
        lambda given: not (given.verify and given.plan),
        "--plan and --verify exclude each other: leave out one of them",
    ),
)


def main() -> None:
    """Embeds the captions of ``--data``."""
    check_flags(PRECONDITIONS)
    load = lookup(TEXT_ENCODERS, ENCODER.value, "text encoder")
    options = parse_options(load, OPTION.value)
    join_as_flagged()
    data = to_path(DATA.value)
    identify(data)
    encoder = load_text_encoder(ENCODER.value, **options)
    folder = data / "embeddings" / encoder.name
    if PLAN.value:
        print(*plan(DATA.value, encoder), sep="\n")
        return
    if VERIFY.value:
        layer = recall(folder, identify(data), verify=True)
        if layer is None:
            raise UserError(
                f"{folder} does not contain the embeddings of all captions of {data}: run this without --verify"
            )
        print(f"{layer.folder} is complete: {layer.captions:,} captions")
        return
    processes.check_agreement({"the data set": identify(data), "the encoder": encoder.name})
    create_folder(folder)
    processes.check_shared(folder)
    with processes.lock_on_process_zero(folder, "--data"):
        layer = build_layer(
            folder,
            lambda: all_captions(DATA.value),
            encoder,
            share=(jax.process_index(), jax.process_count()),
            barrier=lambda: processes.barrier("all captions are embedded"),
        )
        if processes.is_process_zero():
            remember(folder, identify(data), layer)
    if processes.is_process_zero():
        tokens = sum(length * count for length, count in layer.lengths.items())
        print(f"{layer.folder}: {layer.captions:,} captions, {describe_size(tokens, layer.captions, layer.width)}")


def all_captions(data: str) -> Iterator[str]:
    """Yields every caption of a data set, including repeated ones."""
    for split in SPLITS:
        for of_image in read_captions(data, split):
            yield from of_image


def plan(data: str, encoder: TextEncoder) -> Iterator[str]:
    """Yields lines that estimate the disk space and time of embedding all captions, from a sample of them.

    It counts repeated captions each time, although they are embedded once.
    """
    count = sum(1 for _ in all_captions(data))
    sample = list(itertools.islice(all_captions(data), 0, None, max(1, count // SAMPLE)))[:SAMPLE]
    batches = list(split_into_batches(sample))
    for batch in batches:
        encoder.encode(batch)  # compiles
    began = time.perf_counter()
    tokens = sum(int(encoder.encode(batch).mask.sum()) for batch in batches) / len(sample)
    seconds = (time.perf_counter() - began) / len(sample) * count / jax.process_count()
    yield f"{count:,} captions of about {tokens:.1f} tokens"
    yield describe_size(round(tokens * count), count, encoder.width)
    devices = f"{jax.process_count()} × {jax.local_device_count()} devices like these"
    yield f"about {format_duration(seconds)} on {devices}"


def describe_size(tokens: int, captions: int, width: int) -> str:
    """Describes the size of bfloat16 embeddings, compared with captions padded to ``PADDED_TOKENS`` tokens.

    Args:
        tokens: number of tokens of all captions.
        captions: number of captions.
        width: width of the embeddings.
    """
    size, padded = 2 * tokens * width, 2 * captions * PADDED_TOKENS * width
    return f"{format_size(size)}, {padded / max(size, 1):.1f} times smaller than when padded to {PADDED_TOKENS} tokens"


if __name__ == "__main__":
    run_main(
        main,
        "an option of the encoder is given as in --option=folder=T5",
        if_interrupted="finished embeddings are kept; run the same command to continue",
    )
