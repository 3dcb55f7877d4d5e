"""Loads the text encoder or tokenizer that a stage's config names, and checks that it is the one used in training."""

from dataclasses import replace

from imagen_jax.config.sections import TextConfig
from imagen_jax.encoders import minilm
from imagen_jax.encoders.caption_tokens import CaptionTokenizer, load_caption_tokenizer
from imagen_jax.encoders.encoder import TextEncoder, load_text_encoder
from imagen_jax.errors import UserError
from imagen_jax.pretrained import find_part
from imagen_jax.storage.paths import Path, to_path


def load_encoder(text: TextConfig) -> TextEncoder:
    """Loads the text encoder ``text.encoder``; its weights are read when the first caption is encoded.

    Raises:
        UserError: there is no such encoder, a file of it is missing, or its width is not ``text.width``.
    """
    encoder = load_text_encoder(text.encoder, **text.options)
    if encoder.width != text.width:
        raise UserError(
            f"the text encoder {encoder.name} makes embeddings of width {encoder.width}, and config.text.width is "
            f"{text.width}: set --config.text.width={encoder.width}, or choose another encoder"
        )
    return encoder


def check_encoder(encoder: TextEncoder, trained_with: str | None, stage: str) -> None:
    """Checks that a text encoder is the one that a stage was trained with.

    Args:
        encoder: the text encoder to check.
        trained_with: name of the encoder used in training; None if it was not recorded, then any encoder passes.
        stage: name of the stage in error messages.

    Raises:
        UserError: the encoder has another name.
    """
    if trained_with not in (None, encoder.name):
        raise UserError(
            f"{stage} was trained with the text encoder {trained_with}, not with {encoder.name}: give the folder "
            "with the same weights and tokenizer"
        )


def load_tokenizer(text: TextConfig, trained_with: str | None, stage: str) -> CaptionTokenizer:
    """Loads the tokenizer ``text.tokenizer`` of a stage, and checks that it is the one used in training.

    Args:
        text: the stage's text section.
        trained_with: name of the tokenizer used in training; None if it was not recorded, then any tokenizer passes.
        stage: name of the stage in error messages.

    Raises:
        UserError: it is missing or damaged, or has another name.
    """
    tokenizer = load_caption_tokenizer(text.tokenizer)
    if trained_with not in (None, tokenizer.name):
        raise UserError(
            f"{stage} was trained with the tokenizer {trained_with}, and {text.tokenizer} is now {tokenizer.name}: "
            "restore the original file"
        )
    return tokenizer


def move_encoder(text: TextConfig, folder: str | Path, stage: str) -> TextConfig:
    """Returns a stage's text section, changed so that its T5 or CLIP is read from another folder.

    Args:
        text: the stage's text section.
        folder: the new folder of T5, or folder or file of the CLIP.
        stage: name of the stage in error messages.

    Raises:
        UserError: its text encoder is neither.
    """
    if text.encoder not in ("t5", "clip"):
        raise UserError(
            f"the text encoder of {stage} is {text.encoder}, which the package contains: leave --text_encoder out"
        )
    options = {**text.options, "folder": str(folder)}
    if options.get("tokenizer") and not to_path(options["tokenizer"]).is_file():
        options["tokenizer"] = ""
    return replace(text, options=options)


def check_encoder_is_there(text: TextConfig, stage: str) -> None:
    """Checks that the files of a stage's text encoder are on this machine, without reading them.

    Args:
        text: the stage's text section.
        stage: name of the stage in error messages.

    Raises:
        UserError: they are not.
    """
    folder = text.options.get("folder", "")
    if text.encoder == "t5" and not to_path(folder).is_dir():
        raise UserError(
            f"there is no folder {folder} with the T5 of {stage}: pass its current folder with --text_encoder"
        )
    if text.encoder == "clip" and not find_part(folder).exists():
        raise UserError(f"there is no {folder} with the CLIP of {stage}: pass its current place with --text_encoder")
    if text.encoder == "minilm" and not folder:
        minilm.find_folder()
