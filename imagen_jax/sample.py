"""Samples images for prompts from a cascade, or edits an image.

    imagen-jax sample --prompt="panda" --out=pictures
    imagen-jax sample --stages=runs/base,runs/super_resolution --prompt="panda" --out=pictures
    imagen-jax sample --stages=BASE,LARGE --prompts_file=captions.txt --samples_per_prompt=4 --out=pictures
    imagen-jax sample --stages=BASE,LARGE --prompt="panda" --image=photo.png --strength=0.6 --out=edited
    imagen-jax sample --stages=BASE,LARGE --prompt="panda" --image=photo.png --mask=mask.png --out=edited
    imagen-jax sample --stages=LARGE --image=small.png --out=enlarged
    imagen-jax sample --stages=PRIOR,DECODER,LARGE --prompt="panda" --conditioning=prior,caption --out=compared
    imagen-jax sample --stages=DECODER,LARGE --prompt="panda" --conditioning=image --image=cat.png --out=alike

Without ``--stages`` it samples from the bundled cascade (``imagen_jax.pretrained``). It writes one file per image, with
prompt, seed and settings in the metadata, and ``grid.png`` of the first images. Settings default to those of each
stage's config. After an interruption, the same command resumes.
"""

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from absl import flags

from imagen_jax.array_types import HostPixels
from imagen_jax.cascade import sampling_flags
from imagen_jax.cascade.cascade import Cascade, load_planned
from imagen_jax.cascade.classifier import GuidancePlan, plan_guidance
from imagen_jax.cascade.clip_guidance import ClipGuidancePlan, plan_clip_guidance
from imagen_jax.cascade.code_draws import check_fits, draw_for_requests, is_code_prior, is_drawn
from imagen_jax.cascade.code_stage import TrainedCodeStage, load_code_stage
from imagen_jax.cascade.edits import Edit, read_mask, read_picture
from imagen_jax.cascade.image_files import make_folder
from imagen_jax.cascade.image_folder import FORMATS, Batch, PictureFolder, draw_missing, settings_of
from imagen_jax.cascade.loading import hash_parameters
from imagen_jax.cascade.manipulations import embed_image, load_clip_of, without_prior
from imagen_jax.cascade.network_flag import read_network
from imagen_jax.cascade.plans import check_classifier, check_conditionings, check_makes_images, plan_cascade
from imagen_jax.cascade.requests import ImageRequest, requests_of
from imagen_jax.cascade.stage_flags import read_stages, read_text_encoder
from imagen_jax.clip.folder import is_clip_folder
from imagen_jax.data.prompts import check_readable, read_prompts
from imagen_jax.errors import UserError
from imagen_jax.runtime import distributed_flags, processes
from imagen_jax.runtime.distributed_flags import join_as_flagged
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.preconditions import Precondition, check_flags
from imagen_jax.runtime.progress_bars import ProgressBar
from imagen_jax.runtime.seeds import MAX_SEED
from imagen_jax.storage.paths import Path, to_path

PROMPTS = flags.DEFINE_multi_string("prompt", [], "Description of the image; repeatable, for more images.")
PROMPTS_FILE = flags.DEFINE_string("prompts_file", None, "File of prompts: one per line, a JSON list, or a CSV column.")
NEGATIVE_PROMPT = flags.DEFINE_string(
    "negative_prompt", None, "Negative prompt, which guidance uses instead of the null prompt."
)
LATER_PROMPT = flags.DEFINE_string("later_prompt", None, "Another prompt for the stages after the first.")
OUT = flags.DEFINE_string("out", None, "Folder for the images.", required=True)
SEED = flags.DEFINE_integer("seed", 0, "The same seed, prompt and weights give the same image.", 0, MAX_SEED)
SAMPLES = flags.DEFINE_integer("samples_per_prompt", 1, "Number of images per prompt.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Number of images that are sampled at once.", lower_bound=1)
FORMAT = flags.DEFINE_enum(
    "format", "png", (*FORMATS, "jpeg"), "Format of the files; jpeg is jpg, and npz is one array of all images."
)
CONDITIONING = flags.DEFINE_list(
    "conditioning",
    [],
    "What a decoder is told: prior, text_embedding, caption, or image (--image). Several are sampled side by side.",
)
GRID = flags.DEFINE_bool("grid", True, "Also write grid.png with the first 64 images.")

CLASSIFIER = flags.DEFINE_string(
    "classifier", None, "Workdir of a classifier, or of a CLIP of noisy images, that also guides the images."
)
CLASS = flags.DEFINE_string("classifier_class", None, "With --classifier: the target class; of a CLIP, a caption.")
SCALE = flags.DEFINE_float(
    "classifier_scale", 1.0, "With --classifier: guidance scale; below 0 guides away from the class."
)

IMAGE = flags.DEFINE_string(
    "image", None, "Image to edit; to enlarge, if the first stage is not a base; or of --conditioning=image."
)
MASK = flags.DEFINE_string("mask", None, "With --image: mask, white where the image is sampled again.")
STRENGTH = flags.DEFINE_float(
    "strength", 1.0, "With --image: share of the steps to take, in (0, 1]; 1 keeps nothing of the image."
)
RESAMPLE = flags.DEFINE_integer(
    "resample",
    1,
    "With --mask: times that each group of ten steps is taken (RePaint); 1 for no resampling.",
    lower_bound=1,
)
INVERT = flags.DEFINE_string(
    "invert", None, "With --image: its caption. Sampling starts from the noise that gives this image."
)
TO_PROMPT = flags.DEFINE_string("to_prompt", None, "Second prompt: images interpolate from each --prompt to it.")
TO_SEED = flags.DEFINE_integer("to_seed", None, "Second seed: images interpolate from --seed to it.", 0, MAX_SEED)
BETWEEN = flags.DEFINE_integer(
    "between", 5, "With --to_prompt or --to_seed: number of images, both ends included.", lower_bound=2
)

PRECONDITIONS = (
    *distributed_flags.PRECONDITIONS,
    Precondition(
        "prompt",
        lambda given: all(map(str.strip, given.prompt)),
        "--prompt is blank: describe the image, or leave out the flag",
    ),
    Precondition(
        "classifier",
        lambda given: given.classifier_class is not None,
        "--classifier has no effect without a class: also give one of its classes, as in --classifier_class='Flags'",
    ),
    Precondition(
        "classifier_class",
        lambda given: given.classifier is not None,
        "--classifier_class has no effect without --classifier: also give the workdir of the classifier",
    ),
    Precondition(
        "classifier_scale",
        lambda given: given.classifier is not None and given.classifier_scale != 0,
        "--classifier_scale has no effect without --classifier, nor at 0: give --classifier and another scale, or "
        "leave out --classifier_scale",
    ),
    Precondition(
        "conditioning",
        lambda given: "image" not in given.conditioning or given.image is not None,
        "--conditioning=image tells the decoder the embedding of --image: give both",
    ),
    *(
        Precondition(
            flag,
            lambda given: "image" not in given.conditioning,
            f"--{flag} has no effect with --conditioning=image, which takes the image's embedding alone: leave one out",
        )
        for flag in ("mask", "strength", "invert")
    ),
    Precondition("mask", lambda given: given.image is not None, "--mask has no effect without --image: give both"),
    Precondition(
        "strength", lambda given: given.image is not None, "--strength has no effect without --image: give both"
    ),
    Precondition("invert", lambda given: given.image is not None, "--invert has no effect without --image: give both"),
    Precondition(
        "resample", lambda given: given.mask is not None, "--resample has no effect without --mask: give both"
    ),
    Precondition(
        "between",
        lambda given: given.to_prompt is not None or given.to_seed is not None,
        "--between has no effect without a target: also give --to_prompt or --to_seed",
    ),
    Precondition(
        "to_seed",
        lambda given: given.to_seed != given.seed,
        "--to_seed is the same as --seed, so all images between them are the same: change one of them",
    ),
    Precondition(
        "to_seed",
        lambda given: given.invert is None and given.strength == 1,
        "--to_seed starts from noise, but --strength and --invert start from the image: leave out one of them",
    ),
    Precondition(
        "to_prompt",
        lambda given: (
            given.to_seed is not None
            or given.prompts_file is not None
            or {prompt.strip() for prompt in given.prompt or [""]} != {given.to_prompt.strip()}
        ),
        "--to_prompt is the same as --prompt, so all images between them are the same: change one of them",
    ),
)


def main() -> None:
    """Samples the images and writes them."""
    out = check_paths()
    check_flags(PRECONDITIONS)
    requests = list_requests(read_all_prompts())
    edit = read_edit()
    overrides = sampling_flags.read_overrides()
    code_folder, stages = split_code_prior(read_stages())
    told = read_picture(to_path(IMAGE.value)) if "image" in CONDITIONING.value else None
    plan = plan_cascade(stages, overrides, sampling_flags.DTYPE.value, read_text_encoder(), read_network())
    plan.check_images(edit, NEGATIVE_PROMPT.value)
    check_conditionings(plan.sampling, [with_stand_in(one, code_folder is not None) for one in requests], edit)
    check_makes_images(plan.sampling, plan.names)
    plan.check_effects(overrides)
    plan.check_encoders()
    guidance = read_classifier()
    if guidance is not None:
        check_classifier(guidance.resolution, plan.sampling)
    make_folder(out)
    join_as_flagged()
    with contextlib.ExitStack() as stack:
        size = min(BATCH_SIZE.value, len(requests))
        classifier = None if guidance is None else guidance.load()
        cascade = load_planned(plan, size, lambda step: progress.update(), classifier)
        code_prior = load_code_stage(code_folder) if code_folder else None
        if code_prior is not None:
            check_fits(code_prior, cascade, requests)
        if told is not None:
            requests = with_embedding(requests, cascade, told)
        settings = describe_settings(cascade, edit, told, code_prior)
        form = "jpg" if FORMAT.value == "jpeg" else FORMAT.value
        folder = processes.run_on_process_zero_first(
            lambda: PictureFolder(out, requests, SEED.value, cascade.batch_size, form, settings)
        )
        missing = folder.missing(jax.process_index(), jax.process_count())
        if code_prior is not None and missing:
            missing = with_drawn_embeddings(missing, cascade, code_prior)
        steps = cascade.count_steps(edit) * len(missing)
        progress = stack.enter_context(ProgressBar("Sampling", steps, "step", disable=not processes.is_process_zero()))
        started = time.perf_counter()
        sampled = draw_missing(cascade, folder, missing, SEED.value, NEGATIVE_PROMPT.value, edit)
    seconds = time.perf_counter() - started
    processes.barrier("all images are sampled")
    if processes.is_process_zero():
        by_prompt = SAMPLES.value * (BETWEEN.value if is_between() else 1) * max(1, len(CONDITIONING.value))
        folder.finish(by_prompt if by_prompt > 1 else min(4, len(requests)), GRID.value)
        others = (
            f" ({len(requests) - sampled} existed already or are sampled elsewhere)" if sampled < len(requests) else ""
        )
        print(f"{sampled} image(s){others} in {seconds:.1f} s, in {out}{', and grid.png' if GRID.value else ''}")


def check_paths() -> Path:
    """Checks every flag with a path, and returns ``--out``.

    Raises:
        UserError: a path has an unknown URL scheme, or a bucket that can't be opened.
    """
    others = (flag.value for flag in (PROMPTS_FILE, IMAGE, MASK, CLASSIFIER) if flag.value is not None)
    for path in (*read_stages(), *others):
        to_path(path)
    return to_path(OUT.value)


def read_all_prompts() -> list[str]:
    """Returns the prompts of the command line, then those of the file; an empty prompt if only an image is given.

    Raises:
        UserError: there is neither a prompt nor an image, or a prompt can't be read.
    """
    prompts = [prompt.strip() for prompt in PROMPTS.value if prompt.strip()]
    others = (NEGATIVE_PROMPT.value, LATER_PROMPT.value, TO_PROMPT.value, INVERT.value)
    check_readable([*prompts, *filter(None, others)])
    if PROMPTS_FILE.value is not None:
        prompts += read_prompts(to_path(PROMPTS_FILE.value))
    if not prompts and IMAGE.value is None:
        raise UserError("there is nothing to sample: give at least one prompt, as in --prompt='red apple'")
    return prompts or [""]


def is_between() -> bool:
    """Returns whether the images interpolate to a second prompt or seed."""
    return TO_PROMPT.value is not None or TO_SEED.value is not None


def list_requests(prompts: Sequence[str]) -> list[ImageRequest]:
    """Returns one request per image. A repeated prompt continues its indices, so its images differ."""
    shares = np.linspace(0.0, 1.0, BETWEEN.value).tolist() if is_between() else [0.0]
    return [
        replace(request, to_prompt=TO_PROMPT.value, to_seed=TO_SEED.value, share=share, conditioning=conditioning)
        for request in requests_of(prompts, SAMPLES.value)
        for share in shares
        for conditioning in CONDITIONING.value or [""]
    ]


NOT_YET = np.zeros(0)
"""Stands for the image embedding that a request will bring along, until there is a cascade to compute it for."""


def split_code_prior(stages: Sequence[str]) -> tuple[Path | None, Sequence[str]]:
    """Returns the folder of an autoregressive prior, if the first one is that, and the folders of the stages."""
    if not stages or not is_code_prior(to_path(stages[0])):
        return None, stages
    return to_path(stages[0]), stages[1:]


def with_stand_in(request: ImageRequest, has_code_prior: bool) -> ImageRequest:
    """Returns the request with ``NOT_YET``, if it will bring along the embedding that the decoder is told."""
    comes = request.conditioning == "image" or (has_code_prior and is_drawn(request))
    return replace(request, vector=NOT_YET) if comes else request


def with_embedding(requests: Sequence[ImageRequest], cascade: Cascade, told: HostPixels) -> list[ImageRequest]:
    """Returns the requests; those that are conditioned on an image have its embedding.

    Raises:
        UserError: the CLIP is not there or another one.
    """
    decoding = without_prior(cascade)
    vector = embed_image(decoding, load_clip_of(decoding), told)
    return [replace(one, vector=vector) if one.conditioning == "image" else one for one in requests]


def with_drawn_embeddings(missing: Sequence[Batch], cascade: Cascade, code_prior: TrainedCodeStage) -> list[Batch]:
    """Returns the missing batches with the embeddings that an autoregressive prior draws for their requests.

    Raises:
        UserError: what ``draw_for_requests`` raises.
    """
    requests = [request for batch in missing for request in batch.requests]
    drawn = iter(draw_for_requests(code_prior, cascade, requests, SEED.value))
    return [batch._replace(requests=[next(drawn) for _ in batch.requests]) for batch in missing]


def read_edit() -> Edit:
    """Returns the edit that the flags describe. An image whose embedding is told is not edited.

    Raises:
        UserError: a file can't be read, or the flags contradict each other.
    """
    is_edited = IMAGE.value is not None and "image" not in CONDITIONING.value
    image = read_picture(to_path(IMAGE.value)) if is_edited else None
    mask = None if MASK.value is None else read_mask(to_path(MASK.value))
    return Edit(image, mask, STRENGTH.value, RESAMPLE.value, INVERT.value, LATER_PROMPT.value)


def read_classifier() -> GuidancePlan | ClipGuidancePlan | None:
    """Returns the classifier guidance that the flags describe, without parameters; None without ``--classifier``.

    Raises:
        UserError: the classifier can't be used, it has no such class, or the scale is out of range.
    """
    if CLASSIFIER.value is None:
        return None
    folder = to_path(CLASSIFIER.value)
    plan = plan_clip_guidance if is_clip_folder(folder) else plan_guidance
    return plan(folder, CLASS.value or "", SCALE.value)


def describe_settings(
    cascade: Cascade, edit: Edit, told: HostPixels | None = None, code_prior: TrainedCodeStage | None = None
) -> dict[str, Any]:
    """Returns everything that the images depend on besides requests and seed, JSON-serialisable.

    Args:
        cascade: the cascade.
        edit: an image to start from or to keep in part.
        told: the image whose embedding the decoder is told.
        code_prior: the autoregressive prior that draws embeddings.
    """
    images = {"image": edit.image, "mask": edit.mask, **({} if told is None else {"told": told})}
    digests = {
        name: None if array is None else hashlib.sha256(array.tobytes()).hexdigest()[:16]
        for name, array in images.items()
    }
    codes = {} if code_prior is None else {"code_prior": [hash_parameters(code_prior.params), *code_prior.settings]}
    return {
        **settings_of(cascade),
        "negative_prompt": NEGATIVE_PROMPT.value,
        "later_prompt": edit.later_prompt,
        **digests,
        **codes,
        "strength": edit.strength,
        "returns": edit.resample,  # the name in files of earlier versions
        "invert": edit.invert,
    }


if __name__ == "__main__":
    run_main(
        main,
        "give each prompt as --prompt='…'",
        if_interrupted="finished images are kept; run the same command to sample the rest",
    )
