"""Writes the averaged weights of a CLIP's training into ``WORKDIR/clip``, a folder that every command can read."""

from typing import Any

from imagen_jax.cascade.experiment import ClipExperiment
from imagen_jax.clip.description import Description, describe_towers
from imagen_jax.clip.folder import TRAINED, find_tokenizer_files, write_clip_folder
from imagen_jax.clip.pair import Pair
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.tasks.clip_tokenizer import FILE_NAME


def describe_pair(config: ClipExperiment, pair: Pair) -> Description:
    """Returns the description of what a config trains."""
    clip = config.clip
    return describe_towers(
        pair.image, pair.text, mean=clip.mean, deviation=clip.deviation, logit_bias=clip.loss == "sigmoid"
    )


def tokenizer_files(config: ClipExperiment, pair: Pair, workdir: Path) -> list[Path]:
    """Returns the files of the tokenizer; none for a tower that takes features."""
    if not hasattr(pair.text, "vocabulary"):
        return []
    if not config.clip.tokenizer:
        return [workdir / FILE_NAME]
    source = to_path(config.clip.tokenizer)
    return [source] if source.is_file() else find_tokenizer_files(source)


def export_pair(config: ClipExperiment, pair: Pair, params: Any, workdir: Path) -> None:
    """Writes the weights of a pair, with its description and tokenizer.

    Args:
        config: the config of its training.
        pair: the towers.
        params: their parameters, on the host.
        workdir: folder of the run.

    Raises:
        UserError: a file can't be written.
    """
    files = tokenizer_files(config, pair, workdir)
    write_clip_folder(workdir / TRAINED, describe_pair(config, pair), params, tokenizer_files=files)
