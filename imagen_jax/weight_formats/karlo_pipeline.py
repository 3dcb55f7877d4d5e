"""Imports and exports the whole folder of a Karlo pipeline: its CLIP, and one workdir for each stage.

    FOLDER/text_encoder/, tokenizer/, image_encoder/ of image variations   <-> OUT/clip, a CLIP in our layout
    FOLDER/prior/, decoder/, super_res_first/ …, see ``karlo``             <-> OUT/prior, OUT/decoder, OUT/upsampler

Without ``image_encoder/`` the CLIP embeds captions alone, which is enough for images of prompts.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from imagen_jax.cascade.checkpoint_export import NO_CHOICES, ImportChoices
from imagen_jax.cascade.image_files import make_folder
from imagen_jax.clip.absent_tower import ABSENT
from imagen_jax.clip.description import LOGIT_SCALE, Description, make_description
from imagen_jax.clip.folder import (
    ClipFiles,
    find_tokenizer_files,
    load_tokenizer_of,
    read_clip_folder,
    write_clip_folder,
)
from imagen_jax.clip.folder import write_files as write_clip_files
from imagen_jax.clip.hugging_face_folder import (
    IMAGE_DEFAULTS,
    TEXT_DEFAULTS,
    WRONG_END,
    read_preparation,
    read_tower,
    transformer_fields,
    write_configs,
    write_text_config,
)
from imagen_jax.clip.weights import HUGGING_FACE, export_parameters, import_parameters
from imagen_jax.encoders.pretrained_clip import check_tokenizer
from imagen_jax.errors import UserError
from imagen_jax.storage.paths import Path, write_whole
from imagen_jax.weight_formats.formats import copy_licences, export_stage, import_stage
from imagen_jax.weight_formats.karlo import FORMAT, LICENCE_NOTICE, PARTS
from imagen_jax.weights.checksums import check_checksums
from imagen_jax.weights.json_settings import COUNT, check_kinds, read_settings
from imagen_jax.weights.safetensors_folder import SINGLES, SafetensorsFolder
from imagen_jax.weights.written_folder import write_json

INDEX = "model_index.json"
CLIP = "clip"
"""Folder of the CLIP among the workdirs."""

PIPELINES = ("UnCLIPPipeline", "UnCLIPImageVariationPipeline")

LOGIT_SCALE_OF_CLIP = math.log(100.0)
"""OpenAI's CLIP has this one; the folders of single towers do not contain it."""

TEXT_TENSORS, IMAGE_TENSORS = ("text_model.", "text_projection."), ("vision_model.", "visual_projection.")

COMPONENTS = {
    "decoder": ["diffusers", "UNet2DConditionModel"],
    "decoder_scheduler": ["diffusers", "UnCLIPScheduler"],
    "prior": ["diffusers", "PriorTransformer"],
    "prior_scheduler": ["diffusers", "UnCLIPScheduler"],
    "super_res_first": ["diffusers", "UNet2DModel"],
    "super_res_last": ["diffusers", "UNet2DModel"],
    "super_res_scheduler": ["diffusers", "UnCLIPScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_proj": ["unclip", "UnCLIPTextProjModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
"""The components of the pipeline in ``model_index.json``, as the published folder has them.

diffusers 0.42.1, where the pipeline is deprecated, finds ``text_proj`` neither under this name nor under the one that
it writes itself: load the components by themselves there.
"""


def is_pipeline(source: Path) -> bool:
    """Returns whether a folder is that of a whole pipeline."""
    return (source / INDEX).is_file()


def is_imported_pipeline(source: Path) -> bool:
    """Returns whether a folder has the workdirs of a pipeline, and not one stage."""
    return (source / CLIP).is_dir() and not (source / "config.json").exists()


def import_karlo(source: Path, out: Path, choices: ImportChoices = NO_CHOICES) -> list[Path]:
    """Imports a pipeline's folder into ``out``, and returns the workdirs of the stages in the order of sampling.

    A folder of image variations has no prior, and so gives no workdir of one.

    Args:
        source: the folder.
        out: the folder of the workdirs and the CLIP, created if missing.
        choices: options of the networks; ``text_encoder`` is a CLIP that was imported before, instead of the folder's.

    Raises:
        UserError: a file is missing, damaged or not Karlo's, or a workdir already contains a stage.
    """
    index = read_settings(source / INDEX)
    if index.get("_class_name") not in PIPELINES:
        raise UserError(
            f"{source / INDEX} is of the pipeline {index.get('_class_name')!r}: give the folder of one of Karlo's, "
            f"{' or '.join(PIPELINES)}"
        )
    parts = {name: source / part.folders[0] for name, part in PARTS.items() if (source / part.folders[0]).is_dir()}
    needed = PARTS.keys() - ({"prior"} if index["_class_name"] == PIPELINES[1] else set())
    if missing := sorted(PARTS[name].folders[0] for name in needed - parts.keys()):
        raise UserError(f"{source} lacks {', '.join(missing)}: download the whole folder")
    print(LICENCE_NOTICE, flush=True)
    clip = choices.text_encoder
    if clip is None:
        clip = out / CLIP
        import_clip_of(source, clip)
    for name, folder in parts.items():
        import_stage(FORMAT, folder, out / name, choices._replace(text_encoder=clip), quiet=True)
    return [out / name for name in parts]


def import_clip_of(source: Path, folder: Path) -> None:
    """Imports the CLIP of a pipeline into a folder in our layout, unless it is there already.

    Raises:
        UserError: a file is missing or damaged, or is of another network; or the folder has another CLIP.
    """
    files = read_karlo_clip(source)
    if folder.exists():
        there = read_clip_folder(folder)
        mine, theirs = (flatten_dict(one.parameters, sep="/") for one in (files, there))
        if not files.description.same_network(there.description) or any(
            not np.array_equal(mine[path], theirs[path]) for path in mine
        ):
            raise UserError(f"{folder} contains another CLIP: choose another --out")
        return
    make_folder(folder)
    write_clip_folder(folder, files.description, files.parameters, tokenizer_files=files.tokenizer_files)
    copy_licences(source, folder)


def read_karlo_clip(source: Path) -> ClipFiles:
    """Reads the CLIP of a pipeline's folder: its text tower, and its image tower if it is there.

    Raises:
        UserError: a file is missing or damaged, or is of another network.
    """
    towers = {"text_config": source / "text_encoder"}
    if (source / "image_encoder").is_dir():
        towers["vision_config"] = source / "image_encoder"
    tensors: dict[str, np.ndarray] = {LOGIT_SCALE: np.asarray(LOGIT_SCALE_OF_CLIP, np.float32)}
    for folder in towers.values():
        check_checksums(folder)
        stored = SafetensorsFolder(folder)
        tensors |= {name: stored[name] for name in stored}
    description = describe_clip(source, towers)
    tokenize = load_tokenizer_of(source / "tokenizer", description)
    parameters = import_parameters(tensors, description, HUGGING_FACE)
    files = ClipFiles(description, parameters, tokenize, "", find_tokenizer_files(source / "tokenizer"))
    check_tokenizer(files)
    return files


def describe_clip(source: Path, towers: Mapping[str, Path]) -> Description:
    """Returns the description of a pipeline's CLIP.

    Args:
        source: the pipeline's folder.
        towers: the folder of each tower, by its key in the config of a whole CLIP.

    Raises:
        UserError: a config is missing or damaged, or is of another network.
    """
    paths = {key: folder / "config.json" for key, folder in towers.items()}
    settings = {key: read_settings(path) for key, path in paths.items()}
    for key, path in paths.items():
        check_kinds(path, settings[key], {"projection_dim": COUNT})
    text = read_tower(paths["text_config"], settings, "text_config", TEXT_DEFAULTS)
    end = text["eos_token_id"]
    of_text = {
        "name": "transformer",
        "vocabulary": text["vocab_size"],
        "context": text["max_position_embeddings"],
        "end": text["vocab_size"] - 1 if end == WRONG_END else end,
        **transformer_fields(text),
    }
    embedding = settings["text_config"].get("projection_dim", 512)
    if "vision_config" not in settings:
        return make_description({"name": ABSENT}, of_text, embedding)
    image = read_tower(paths["vision_config"], settings, "vision_config", IMAGE_DEFAULTS)
    of_image = {
        "name": "vision_transformer",
        "resolution": image["image_size"],
        "patch": image["patch_size"],
        **transformer_fields(image),
    }
    extractor = source / "feature_extractor" / "preprocessor_config.json"
    preparation = read_preparation(extractor, image["image_size"]) if extractor.is_file() else {}
    return make_description(of_image, of_text, embedding, **preparation)


def export_karlo(source: Path, folder: Path, dtype: str = "float32") -> None:
    """Exports what ``import_karlo`` made, trained on or not, as a folder of ``UnCLIPPipeline``.

    Args:
        source: the folder with the workdirs ``prior``, ``decoder`` and ``upsampler`` and the CLIP.
        folder: the output folder, created if missing.
        dtype: dtype of the stored parameters, a key of ``written_folder.STORED``.

    Raises:
        UserError: a workdir is missing, its network is not Karlo's, or the folder already contains a model or can't be
            written to.
    """
    if (folder / INDEX).exists():
        raise UserError(f"{folder} already contains a model: choose another --out")
    if missing := [name for name in (*PARTS, CLIP) if not (source / name).is_dir()]:
        raise UserError(f"{source} lacks {', '.join(missing)}: export each stage by itself, as --workdir={source}/NAME")
    files = read_clip_folder(source / CLIP)
    print(LICENCE_NOTICE, flush=True)
    for name in PARTS:
        export_stage(FORMAT, source / name, folder, dtype, quiet=True)
    export_clip_of(files, folder, dtype)
    copy_licences(source / CLIP, folder)
    write_json(folder, INDEX, {"_class_name": PIPELINES[0], **COMPONENTS})


def export_clip_of(files: ClipFiles, folder: Path, dtype: str) -> None:
    """Writes ``text_encoder/``, ``tokenizer/`` and, if there is an image tower, ``image_encoder/`` of a pipeline.

    Raises:
        UserError: transformers has no such towers, or a file can't be written.
    """
    description = files.description
    named = export_parameters(files.parameters, HUGGING_FACE)
    towers: dict[str, tuple[str, Any, tuple[str, ...]]] = {
        "text_encoder": ("CLIPTextModelWithProjection", write_text_config(description), TEXT_TENSORS)
    }
    if description.image["name"] != ABSENT:
        whole = write_configs(description)
        of_images = whole["config.json"]["vision_config"]
        towers["image_encoder"] = ("CLIPVisionModelWithProjection", of_images, IMAGE_TENSORS)
        write_json(folder / "feature_extractor", "preprocessor_config.json", whole["preprocessor_config.json"])
    for name, (kind, config, prefixes) in towers.items():
        own = {key: tensor for key, tensor in named.items() if key.startswith(prefixes)}
        write_clip_files(
            folder / name, own, SINGLES[0], dtype, {"config.json": {"architectures": [kind], **config}}, ()
        )
    make_folder(folder / "tokenizer")
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "model_max_length": description.text["context"]}
    write_json(folder / "tokenizer", "tokenizer_config.json", tokenizer)
    for source in files.tokenizer_files:
        write_whole(folder / "tokenizer" / source.name, source.read_bytes())
