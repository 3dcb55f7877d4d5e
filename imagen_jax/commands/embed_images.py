"""Embeds the images of a prepared data set once with a CLIP, as they are and mirrored.

    imagen-jax embed_images --data=DATA --clip=runs/emoji_clip

The embeddings lie beside the data, in a folder that names the CLIP's checksum. After an interruption the same command
resumes. Several hosts (``--distributed``, or ``--coordinator`` and its related flags) share the work.
"""

from absl import flags

from imagen_jax.data.preparation.summary import format_size
from imagen_jax.encoders.image_embeddings import folder_of, open_image_embeddings
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.runtime import distributed_flags, processes
from imagen_jax.runtime.distributed_flags import join_as_flagged
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.preconditions import check_flags
from imagen_jax.storage.paths import create_folder, to_path

DATA = flags.DEFINE_string(
    "data", None, "Folder of a data set that prepare_data made, or a training rendered.", required=True
)
CLIP = flags.DEFINE_string(
    "clip", None, "A CLIP: the workdir of a training, or a folder or file of weights.", required=True
)

PRECONDITIONS = distributed_flags.PRECONDITIONS


def main() -> None:
    """Embeds the images of ``--data``."""
    check_flags(PRECONDITIONS)
    join_as_flagged()
    data = to_path(DATA.value)
    network = load_clip(CLIP.value, model="").image
    folder = folder_of(data, network)
    processes.check_agreement({"the data set": data.name, "the CLIP": network.sha256})
    create_folder(folder)
    with processes.lock_on_process_zero(folder, "--data"):
        embeddings = open_image_embeddings([data], network)
    if processes.is_process_zero():
        size = embeddings.plain.nbytes + embeddings.mirrored.nbytes
        print(f"{folder}: {len(embeddings.rows):,} images, each also mirrored, {format_size(size)}")


if __name__ == "__main__":
    run_main(main, if_interrupted="finished embeddings are kept; run the same command to continue")
