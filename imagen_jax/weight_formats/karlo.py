"""Imports and exports stages of Karlo, a public reproduction of DALL·E 2, in the folder layout of diffusers.

    FOLDER/prior/, prior_scheduler/                                 -> prior
    FOLDER/decoder/, text_proj/, decoder_scheduler/                 -> decoder of 64 px
    FOLDER/super_res_first/, super_res_last/, super_res_scheduler/  -> upsampler to 256 px

``karlo_pipeline`` imports all of FOLDER, with its CLIP. Karlo differs from DALL·E 2 in these config keys:

- ``embedding.form``: "raw"; the prior diffuses embeddings that are shifted and scaled in each channel.
- ``stage.noise_conditioning`` and ``stage.schedule``: discrete steps of a discrete cosine schedule, as in DeepFloyd IF.
- ``sampling.spacing``: "both_ends"; the super-resolution stage takes seven steps, no other number.
- ``sampling.thresholding``: "clip" in the prior, to the range that its scheduler says. It is 5 as diffusers converted
  Karlo, whose own code clips to 10.
- ``text.null``: guidance leads away from the encoded empty caption.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from imagen_jax.cascade.checkpoint_export import NO_CHOICES, ImportChoices, name_params, write_files
from imagen_jax.cascade.experiment import ModelConfig, read_model
from imagen_jax.cascade.loading import TrainedStage
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.encoders.clip_text import ClipTextEncoder, load_clip_text
from imagen_jax.errors import UserError
from imagen_jax.models.karlo_unet import KarloUNet, KarloUpsampler
from imagen_jax.models.prior import PriorTransformer
from imagen_jax.storage.paths import Path, absolute
from imagen_jax.weight_formats.karlo_settings import (
    PRIOR,
    PROJECTIONS,
    SCHEDULER,
    check_settings,
    read_decoder,
    read_prior,
    read_upsampler,
    write_decoder,
    write_prior,
    write_upsampler,
)
from imagen_jax.weight_formats.karlo_tensors import (
    DEVIATION,
    MEAN,
    export_karlo_weights,
    import_karlo_weights,
)
from imagen_jax.weights.checksums import check_checksums
from imagen_jax.weights.json_settings import read_settings
from imagen_jax.weights.named_tensors import flatten_shapes
from imagen_jax.weights.safetensors_folder import SafetensorsFolder
from imagen_jax.weights.written_folder import write_json

FORMAT = "karlo"
"""The value of ``--format`` for Karlo."""

LICENCE_NOTICE = """\
These are weights of Karlo, of Kakao Brain. They are not ours and do not come under this project's licence:
  Karlo is licensed under the CreativeML OpenRAIL-M licence.
  It allows commercial use, and forbids the uses that its attachment A lists, for the weights and all derivatives.
  If you pass them on, converted or not, pass on that licence and its restrictions too (read the model card of Karlo).
"""


class Part(NamedTuple):
    """A stage in the folder of a pipeline.

    Attributes:
        folders: the folders of its networks; the first gives the part its name.
        scheduler: the folder of its scheduler.
        process: values that the scheduler must have.
        steps: number of sampling steps.
        guidance: guidance weight, the default of diffusers' pipeline.
    """

    folders: tuple[str, ...]
    scheduler: str
    process: Mapping[str, Any]
    steps: int
    guidance: float


PARTS = {
    "prior": Part(
        ("prior",), "prior_scheduler", {"variance_type": "fixed_small_log", "prediction_type": "sample"}, 25, 4.0
    ),
    "decoder": Part(
        ("decoder", "text_proj"),
        "decoder_scheduler",
        {"variance_type": "learned_range", "prediction_type": "epsilon", "clip_sample_range": 1.0},
        25,
        8.0,
    ),
    "upsampler": Part(
        ("super_res_first", "super_res_last"),
        "super_res_scheduler",
        {"variance_type": "fixed_small_log", "prediction_type": "epsilon", "clip_sample_range": 1.0},
        7,
        1.0,
    ),
}
"""The stages of a pipeline, in the order of sampling."""

RANGE = {"prior": 5.0, "decoder": 1.0, "upsampler": 1.0}
"""The clip ranges of a folder without schedulers: those that diffusers' conversion writes."""

SCALE = 4
"""Upscaling factor of the super-resolution stage."""


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a part's folders, by folder and name. Each is read on demand.

    Attributes:
        folder: the folder that contains the part's.

    Raises:
        UserError: a folder has no safetensors, or a damaged file.
    """

    def __init__(self, folder: Path, names: tuple[str, ...]):
        self.folder = folder
        self.parts = {name: SafetensorsFolder(folder / name) for name in names}

    def __getitem__(self, name: str) -> np.ndarray:
        folder, tensor = name.split("/", 1)
        return self.parts[folder][tensor]

    def __iter__(self) -> Iterator[str]:
        return (f"{folder}/{name}" for folder, tensors in self.parts.items() for name in tensors)

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))


def name_of_part(source: Path) -> str:
    """Returns the part whose first folder a folder is.

    Raises:
        UserError: it is none.
    """
    for name, part in PARTS.items():
        if source.name == part.folders[0]:
            return name
    firsts = ", ".join(f"{part.folders[0]}/" for part in PARTS.values())
    raise UserError(
        f"{source} is not the folder of a stage of Karlo: give that of the whole pipeline, with model_index.json, or "
        f"{firsts}"
    )


def read_config(source: Path, choices: ImportChoices = NO_CHOICES) -> ModelConfig:
    """Returns the config of the stage in a folder: the sections that sampling reads.

    Args:
        source: the first folder of a part, such as ``decoder``; the others must be beside it.
        choices: ``text_encoder`` is the folder of Karlo's CLIP in one of our layouts, which is needed.

    Raises:
        UserError: a file is missing, has values that Karlo does not have, or differs from its checksum.
    """
    name, beside = name_of_part(source), source.parent
    part = PARTS[name]
    for folder in part.folders:
        check_checksums(beside / folder)
    if choices.text_encoder is None:
        raise UserError(f"{source} has no CLIP: pass the folder of the imported one with --text_encoder")
    if choices.text_dtype is not None:
        raise UserError("--text_dtype has no effect with --format=karlo, whose CLIP computes in float32: leave it out")
    settings = [read_settings(beside / folder / "config.json") for folder in part.folders]
    where = beside / part.folders[0] / "config.json"
    stage, network = {"prior": prior_sections, "decoder": decoder_sections, "upsampler": upsampler_sections}[name](
        settings, where
    )
    space = read_space(beside) if name == "prior" else {}
    sampling = read_scheduler(beside / part.scheduler, name)
    clip = str(absolute(choices.text_encoder))
    encoder = load_clip_text(clip, vectors="raw")
    check_clip(encoder, stage.get("text_vector", 0), settings[0].get("num_embeddings", 0), where)
    return read_model(
        {
            "seed": 0,
            "text": {
                "encoder": "clip",
                "options": {"folder": clip, "vectors": "raw"},
                "width": encoder.width,
                "length": encoder.max_tokens,
                "null": "empty_caption",
            },
            "stage": {"schedule": "discrete_cosine", "noise_conditioning": "timestep", **stage},
            "embedding": {} if name == "upsampler" else {"form": "raw", "clip": clip, **space},
            "network": network | {"dtype": choices.dtype or "float32"},
            "sampling": {
                "sampler": "ancestral",
                "steps": part.steps,
                "spacing": "both_ends",
                "guidance": part.guidance,
                **sampling,
            },
        }
    )


def check_clip(encoder: ClipTextEncoder, vector: int, tokens: int, where: Path) -> None:
    """Checks that a CLIP makes what a network takes.

    Args:
        encoder: the text encoder of the CLIP.
        vector: number of channels of tokens and vectors; 0 for a network without text.
        tokens: number of tokens of a caption; 0 for any.
        where: the ``config.json`` of the network.

    Raises:
        UserError: it does not.
    """
    makes = encoder.width, encoder.vector_width, encoder.max_tokens
    takes = vector or makes[0], vector or makes[1], tokens or makes[2]
    if makes != takes:
        raise UserError(
            f"{where} takes tokens of {takes[0]} channels, vectors of {takes[1]} and {takes[2]} tokens, and the CLIP "
            f"{encoder.name} makes {makes[0]}, {makes[1]} and {makes[2]}: pass the CLIP that came with these weights "
            "with --text_encoder"
        )


def prior_sections(settings: list[dict[str, Any]], where: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns ``config.stage`` and ``config.network`` of the prior."""
    network = read_prior(settings[0], where)
    vector = settings[0].get("embedding_dim", PRIOR.defaults["embedding_dim"])
    return {"vector": vector, "text_vector": vector, "prediction": "x0"}, network


def decoder_sections(settings: list[dict[str, Any]], where: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns ``config.stage`` and ``config.network`` of the decoder."""
    network = read_decoder(settings[0], settings[1], where)
    vector = settings[1].get("clip_embeddings_dim", PROJECTIONS.defaults["clip_embeddings_dim"])
    return {"resolution": settings[0]["sample_size"], "text_vector": vector, "image_vector": vector}, network


def upsampler_sections(settings: list[dict[str, Any]], where: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns ``config.stage`` and ``config.network`` of the super-resolution stage."""
    network = read_upsampler(settings[0], settings[1], where)
    size, decoder = settings[0]["sample_size"], where.parent.parent / "decoder" / "config.json"
    small = read_settings(decoder).get("sample_size", size // SCALE) if decoder.is_file() else size // SCALE
    # It is told no text, but the stages of a cascade share their text encoder. It is told no noise level either, so it
    # trains on as the paper's does, on blurred images.
    return {"resolution": size, "low_resolution": small, "text": False, "corruption": "blur"}, network


def read_space(folder: Path) -> dict[str, Any]:
    """Returns mean and deviation of the channels of embeddings, as ``config.embedding`` has them.

    Raises:
        UserError: a tensor is missing, or a deviation is not positive, as in a prior that was never given its own.
    """
    tensors = Tensors(folder, ("prior",))
    if missing := [name for name in (MEAN, DEVIATION) if name not in tensors]:
        raise UserError(f"{folder} lacks the tensors {', '.join(missing)}: download it again")
    mean, deviations = (np.asarray(tensors[name], np.float32).reshape(-1) for name in (MEAN, DEVIATION))
    if not (np.isfinite(mean).all() and np.isfinite(deviations).all() and np.all(deviations > 0)):
        raise UserError(
            f"{folder} has a tensor {DEVIATION} that is not positive: set the deviations of CLIP's channels, which "
            "diffusers leaves at zero in a new prior"
        )
    return {"mean": tuple(map(float, mean)), "deviations": tuple(map(float, deviations))}


def read_scheduler(folder: Path, name: str) -> dict[str, Any]:
    """Returns the thresholding keys of ``config.sampling`` of a part, from its scheduler if it is there.

    Raises:
        UserError: the scheduler's diffusion process is not that of Karlo.
    """
    path = folder / "scheduler_config.json"
    released = {**PARTS[name].process, "_class_name": "UnCLIPScheduler", "clip_sample_range": RANGE[name]}
    read = check_settings(SCHEDULER, read_settings(path) if folder.is_dir() else released, path)
    for key, expected in PARTS[name].process.items():
        if read[key] != expected:
            raise UserError(f"{path} has {key}={read[key]!r}, but Karlo has {expected!r}: fix the file")
    if not read["clip_sample"]:
        return {"thresholding": "none"}
    if name == "prior":
        return {"thresholding": "clip", "max_threshold": float(read["clip_sample_range"])}
    return {"thresholding": "static"}


def read_params(source: Path, config: ModelConfig) -> dict:
    """Reads the parameters of a stage, a nested dict of float32 arrays.

    Raises:
        UserError: a file is damaged, a pickle, or does not match ``config.json``; names file and tensor.
    """
    shapes = flatten_shapes(abstract_params(build_stage(config)))
    tensors = Tensors(source.parent, PARTS[name_of_part(source)].folders)
    return import_karlo_weights(config.network.name, tensors, shapes, len(config.network.fields.get("channels", ())))


def check_network(network: Any, name: str) -> None:
    """Checks that Karlo has a stage's network, so that it can be exported.

    Raises:
        UserError: it has not.
    """
    if isinstance(network, PriorTransformer):
        if network.learned_null or not network.causal or network.activation != "gelu":
            raise UserError(
                f"{name} has a learned null, another activation or no causal mask, which diffusers' prior has not: "
                "export it with --format=imagen_jax"
            )
    elif not isinstance(network, KarloUNet | KarloUpsampler):
        raise UserError(f"diffusers does not implement the network of {name}: export it with --format=imagen_jax")


def write(trained: TrainedStage, folder: Path, dtype: str = "float32") -> None:
    """Exports a stage as the folders of its part of a pipeline, with its scheduler.

    Args:
        trained: the stage.
        folder: the folder of the pipeline, created if missing.
        dtype: dtype of the stored parameters, "float32" or "bfloat16".

    Raises:
        UserError: the network is none of Karlo's, a folder is already there, or a file can't be written.
    """
    stage, network = trained.stage, trained.stage.network
    check_network(network, trained.name)
    name = {PriorTransformer: "prior", KarloUNet: "decoder", KarloUpsampler: "upsampler"}[type(network)]
    for one in PARTS[name].folders:
        if (folder / one).exists():
            raise UserError(f"{folder / one} is already there: choose another --out")
    levels = len(getattr(network, "channels", ()))
    tensors = export_karlo_weights(trained.config.network.name, name_params(trained.params), levels)
    if isinstance(network, PriorTransformer):
        settings = [write_prior(network, stage.shape[0], stage.text_length)]
        space = trained.config.embedding
        tensors[MEAN] = np.asarray([space.mean or (0.0,) * stage.shape[0]], np.float32)
        tensors[DEVIATION] = np.asarray([space.deviations or (1.0,) * stage.shape[0]], np.float32)
    elif isinstance(network, KarloUNet):
        settings = list(write_decoder(network, stage.resolution, stage.image_vector))
    else:
        assert isinstance(network, KarloUpsampler)
        settings = [write_upsampler(network, stage.resolution)] * 2
    for one, contents in zip(PARTS[name].folders, settings, strict=True):
        own = {key.removeprefix(f"{one}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{one}/")}
        write_files(folder / one, contents, own, dtype, "diffusion_pytorch_model.safetensors")
    write_scheduler(folder / PARTS[name].scheduler, name, trained.config)


def write_scheduler(folder: Path, name: str, config: ModelConfig) -> None:
    """Writes the ``scheduler_config.json`` of a part."""
    sampling = config.sampling
    clips = sampling.thresholding != "none"
    settings = {
        **SCHEDULER.needed,
        **SCHEDULER.fixed,
        **PARTS[name].process,
        "clip_sample": clips,
        "clip_sample_range": sampling.max_threshold if sampling.thresholding == "clip" else RANGE[name],
    }
    write_json(folder, "scheduler_config.json", settings)
