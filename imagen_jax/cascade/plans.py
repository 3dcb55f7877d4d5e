"""Reads and checks the configs and sampling settings of a cascade before its weights are read.

folders, or a name -> config of each stage, overrides -> CascadePlan -> Cascade (``cascade``), which reads the weights

These checks need only ``config.json``: they find stages in the wrong order, settings out of range, and settings
without an effect on any stage. They initialise no JAX device, so that ``jax.distributed`` can be initialised later.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from absl import logging

from imagen_jax.cascade.edits import NO_EDIT, Edit
from imagen_jax.cascade.loading import StagePlan, TrainedStage, plan_stage
from imagen_jax.cascade.requests import ImageRequest
from imagen_jax.cascade.settings import pick_for_stage
from imagen_jax.cascade.stage import Stage, with_settings
from imagen_jax.cascade.stage_sampler import check_invertible, check_order
from imagen_jax.cascade.text_encoder import check_encoder_is_there
from imagen_jax.encoders.caption_tokens import check_tokenizer_is_there
from imagen_jax.errors import UserError, lookup
from imagen_jax.models import Network
from imagen_jax.pretrained import USUAL, find_stages
from imagen_jax.runtime.preconditions import Precondition, check_preconditions
from imagen_jax.storage.paths import Path

NULL_CAPTIONS: dict[str, str | None] = {"zeros": None, "empty_caption": ""}
"""Null prompts by the value of ``text.null``: None for zeros (Imagen), or a caption to encode (DeepFloyd IF)."""


class StageFacts(NamedTuple):
    """The facts that decide whether a setting has an effect on a stage.

    Attributes:
        values: the value of every key of ``config.sampling``.
        takes_noise_level: whether it is a super-resolution stage whose network is told a noise level.
        learns_variance: whether its network predicts the variance of a step.
        makes_vectors: whether it is a prior.
    """

    values: Mapping[str, Any]
    takes_noise_level: bool
    learns_variance: bool
    makes_vectors: bool = False

    @property
    def is_guided(self) -> bool:
        """Whether the guidance weight differs from 1."""
        return self.values["guidance"] != 1.0


class CascadePlan(NamedTuple):
    """A cascade before its weights are read.

    Attributes:
        stages: base first.
        overrides: values for keys of ``config.sampling``: one value for all stages, or a list with one per stage.
        sampling: the stages with their sampling settings, overrides included.
    """

    stages: Sequence[StagePlan]
    overrides: Mapping[str, Any]
    sampling: Sequence[Stage]

    @property
    def names(self) -> list[str]:
        """The name of each stage: its folder."""
        return [one.name for one in self.stages]

    def adjusted(self, overrides: Mapping[str, Any]) -> "CascadePlan":
        """Returns the same stages with further overrides.

        Raises:
            UserError: a setting is unknown, or its value has the wrong type or is out of range.
        """
        together = {**self.overrides, **overrides}
        return self._replace(overrides=together, sampling=stages_with(self.stages, together))

    def check_encoders(self) -> None:
        """Checks that the files of the stages' text encoders and tokenizers are on this machine.

        Raises:
            UserError: they are not.
        """
        for one in self.stages:
            if one.stage.text_length:
                check_encoder_is_there(one.config.text, one.name)
            if one.stage.token_length:
                check_tokenizer_is_there(one.config.text.tokenizer)

    def check_images(self, edit: Edit = NO_EDIT, negative_prompt: str | None = None) -> None:
        """Checks that the stages can sample with an edit and a negative prompt, and that these have an effect.

        Raises:
            UserError: the stages can't, or a part of the edit or the negative prompt has no effect.
        """
        check_images(self.sampling, self.names, edit, negative_prompt)

    def check_effects(self, given: Collection[str]) -> None:
        """Checks that each of the ``given`` settings has an effect on at least one stage.

        Raises:
            UserError: one has none.
        """
        check_effects(self.stages, self.overrides, given)


def plan_cascade(
    stages: str | Path | Sequence[str | Path],
    overrides: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    text_encoder: str | Path | None = None,
    network: type[Network] | None = None,
) -> CascadePlan:
    """Reads the configs of a cascade's stages, and checks them and the sampling settings.

    Args:
        stages: the workdir or exported folder of each stage, base first, a single such folder, or a name in
            ``pretrained.CASCADES``.
        overrides: values for keys of ``config.sampling``: one value for all stages, or a list with one per stage.
        dtype: compute dtype of the networks, "float32" or "bfloat16"; None means that of each stage's config.
        text_encoder: folder of the stages' T5, if it has moved since training.
        network: the class of the network of those stages whose configs name one of the user's own.

    Raises:
        UserError: there are no stages, a folder has no stage, the resolutions of consecutive stages do not match, or a
            setting is wrong.
    """
    if not stages:
        raise UserError(
            "no stages are given: give the folders of a trained cascade, as in --stages=runs/base,runs/large, or "
            f"--stages={USUAL}"
        )
    overrides = {} if overrides is None else overrides
    if not isinstance(overrides, Mapping):
        raise UserError(f"overrides must map names of settings to values, as in {{'steps': 32}}, not {overrides!r}")
    plans = [plan_stage(folder, dtype, text_encoder, network) for folder in find_stages(stages)]
    check_order([one.stage for one in plans], [one.name for one in plans], has_image=True)
    check_spaces(plans)
    return CascadePlan(plans, dict(overrides), stages_with(plans, overrides))


def check_spaces(stages: Sequence[StagePlan]) -> None:
    """Checks that all image embeddings of a cascade are of one CLIP, in one form.

    Raises:
        UserError: they are not; names both stages.
    """
    spaces = {
        one.name: (one.config.fingerprints.get("image_encoder", ""), one.stage.space.form)
        for one in stages
        if one.stage.makes_vectors or one.stage.image_vector
    }
    for (first, here), (second, there) in pairwise(spaces.items()):
        # A stage that was told vectors of a function of the user's own has no name for them.
        if here[1] != there[1] or (here[0] and there[0] and here[0] != there[0]):
            raise UserError(
                f"{first} makes or takes image embeddings of {' '.join(filter(None, here))}, and {second} those of "
                f"{' '.join(filter(None, there))}: train both with the same config.embedding"
            )


def stages_with(stages: Sequence[StagePlan | TrainedStage], overrides: Mapping[str, Any]) -> list[Stage]:
    """Returns the stages with the sampling settings of their configs and the overrides.

    Raises:
        UserError: a setting is unknown, or its value has the wrong type or is out of range.
    """
    sampling = []
    for number, one in enumerate(stages):
        lookup(NULL_CAPTIONS, one.config.text.null, "text.null")
        picked = pick_for_stage(overrides, number, len(stages))
        sampling.append(with_settings(one.stage, one.config.sampling.to_dict() | picked))
    return sampling


def check_classifier(resolution: int, stages: Sequence[Stage]) -> None:
    """Checks that at least one stage has the classifier's resolution.

    Raises:
        UserError: none has.
    """
    if all(stage.resolution != resolution for stage in stages):
        sizes = ", ".join(str(stage.resolution) for stage in stages)
        raise UserError(
            f"the classifier takes images of {resolution} px, and the stages make images of {sizes} px: "
            "train a classifier for one of these resolutions"
        )


def check_images(
    stages: Sequence[Stage], names: Sequence[str], edit: Edit = NO_EDIT, negative_prompt: str | None = None
) -> None:
    """Checks that the stages can sample with an edit and a negative prompt, and that these have an effect.

    Args:
        stages: the stages, base first.
        names: names of the stages in error messages.
        edit: an image to start from or to keep in part.
        negative_prompt: text that guidance uses instead of the null prompt.

    Raises:
        UserError: the stages can't, or a part of the edit or the negative prompt has no effect.
    """
    check_order(stages, names, edit.image is not None)
    if (edit.begins_with_image or edit.keeps_some) and any(stage.makes_vectors for stage in stages):
        raise UserError(
            "an image is edited from the decoder on: list the decoder first in --stages, without the prior, or leave "
            "--image out"
        )
    if negative_prompt is not None and all(stage.settings.guidance_weight == 1.0 for stage in stages):
        raise UserError(
            "a negative prompt has no effect at guidance 1: set the guidance to a value other than 1, or leave the "
            "negative prompt out"
        )
    if edit.later_prompt is not None and len(stages) == 1:
        raise UserError("--later_prompt is for the stages after the first, but there is only one: use --prompt instead")
    has_effect = edit.begins_with_image or edit.keeps_some or stages[0].low_resolution is not None
    if edit.image is not None and not has_effect:
        raise UserError(
            "--mask is entirely white, so nothing of --image is kept: paint the part to keep black"
            if edit.mask is not None
            else "--image has no effect at --strength=1: set --strength below 1, or give --mask or --invert with it"
        )
    for stage in stages:
        if edit.invert is not None:
            check_invertible(stage)


def check_makes_images(stages: Sequence[Stage], names: Sequence[str]) -> None:
    """Checks that the last stage makes images.

    Raises:
        UserError: it is a prior.
    """
    if stages[-1].makes_vectors:
        raise UserError(f"{names[-1]} is a prior, which makes no images: list a decoder after it in --stages")


def check_conditionings(stages: Sequence[Stage], requests: Sequence[ImageRequest], edit: Edit = NO_EDIT) -> None:
    """Checks that stages can sample what requests say of image embeddings and of the noise to start from.

    Args:
        stages: the stages, base first.
        requests: the requests.
        edit: an image to start from or to keep in part.

    Raises:
        UserError: no stage takes an image embedding, there is no prior to draw one, or two settings contradict.
    """
    if any(one.start is not None for one in requests):
        if edit.begins_with_image or any(one.to_seed is not None for one in requests):
            raise UserError(
                "a request that brings its noise can't start from an image or a second seed: leave them out"
            )
        if next(stage for stage in stages if not stage.makes_vectors).low_resolution is not None:
            raise UserError(
                "a request that brings its noise needs a stage that enlarges no image: list the decoder first"
            )
    if any(one.conditioning == "text_embedding" and one.to_prompt is not None for one in requests):
        raise UserError("--conditioning=text_embedding takes one prompt: leave out --to_prompt")
    asked = {one.conditioning or ("" if one.vector is None else "an image's embedding") for one in requests} - {""}
    if asked and not any(stage.image_vector for stage in stages):
        raise UserError(
            f"{', '.join(sorted(asked))}: no stage takes an image embedding, so it has no effect: sample a decoder"
        )
    undrawn = any(one.conditioning == "prior" and one.vector is None for one in requests)
    if undrawn and not any(stage.makes_vectors for stage in stages):
        raise UserError(
            "--conditioning=prior needs a prior: list its folder first in --stages, or choose text_embedding or caption"
        )
    if any(one.conditioning == "image" and one.vector is None for one in requests):
        raise UserError("conditioning='image' needs the embedding of an image: give the request a vector")
    told = any(stage.image_vector for stage in stages) and not any(stage.makes_vectors for stage in stages)
    if told and any(one.vector is None and not one.conditioning for one in requests):
        logging.warning("the decoder is told captions alone, since there is no prior: list one first in --stages")


def any_stage(condition: Any) -> Any:
    """Returns a function of a list of facts that is true if ``condition`` is true of any of them."""
    return lambda facts: any(map(condition, facts))


EFFECTS = (
    Precondition(
        "gamma",
        any_stage(lambda stage: stage.values["sampler"] == "ancestral" and not stage.learns_variance),
        "--gamma has no effect: no stage uses the ancestral sampler with a fixed variance. Set --sampler=ancestral, or "
        "leave --gamma out",
    ),
    Precondition(
        "eta",
        any_stage(lambda stage: stage.values["sampler"] == "ddim"),
        "--eta has no effect: no stage uses the ddim sampler. Set --sampler=ddim, or leave --eta out",
    ),
    Precondition(
        "sections",
        any_stage(lambda stage: stage.values["spacing"] == "sections"),
        "--sections has no effect without the spacing sections: set --spacing=sections, or leave --sections out",
    ),
    Precondition(
        "percentile",
        any_stage(lambda stage: stage.values["thresholding"] == "dynamic"),
        "--percentile has no effect without dynamic thresholding: set --thresholding=dynamic, or leave it out",
    ),
    Precondition(
        "max_threshold",
        any_stage(lambda stage: stage.values["thresholding"] in ("dynamic", "clip")),
        "max_threshold has no effect without dynamic thresholding or clip: set thresholding='dynamic', or leave it out",
    ),
    Precondition(
        "augmentation_level",
        any_stage(lambda stage: stage.takes_noise_level),
        "--augmentation_level has no effect: no stage is a super-resolution stage that is told a noise level. Leave it "
        "out, or add such a stage",
    ),
    Precondition(
        "candidates",
        any_stage(lambda stage: stage.makes_vectors),
        "--candidates has no effect: no stage is a prior. Leave it out, or list a prior first in --stages",
    ),
    Precondition(
        "guidance_interval",
        any_stage(lambda stage: stage.is_guided),
        "--guidance_interval has no effect at guidance 1: set --guidance to a value other than 1, or leave it out",
    ),
    Precondition(
        "batched_guidance",
        any_stage(lambda stage: stage.is_guided),
        "--batched_guidance has no effect at guidance 1: set --guidance to a value other than 1, or leave it out",
    ),
)
"""Preconditions of settings; their facts are a list with the ``StageFacts`` of each stage."""


def check_effects(
    stages: Sequence[StagePlan | TrainedStage],
    overrides: Mapping[str, Any],
    given: Collection[str],
) -> None:
    """Checks that each setting that the user gave has an effect on at least one stage.

    Args:
        stages: the stages, base first.
        overrides: values of all overridden settings.
        given: names of the settings to check: those that the user gave for this call.

    Raises:
        UserError: one has none.
    """
    facts = [
        StageFacts(
            one.config.sampling.to_dict() | pick_for_stage(overrides, number, len(stages)),
            one.stage.takes_noise_level,
            one.stage.learns_variance,
            one.stage.makes_vectors,
        )
        for number, one in enumerate(stages)
    ]
    check_preconditions(given, facts, EFFECTS)
