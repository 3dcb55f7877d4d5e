"""The keys of each section of a config, as frozen dataclasses.

To add a key, add a field with a default here, and read it where it has its effect. A field without a default must be
set by each experiment. Saved configs of older versions lack newer keys and get the default, so the default of a new key
must be what the program did before. Later changes of a default would change such runs.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from imagen_jax.config.embedding_section import EmbeddingConfig
from imagen_jax.config.section import Section


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """The training images, and how they are read.

    Attributes:
        source: a key of ``data.sources.sources.SOURCES``, or ``prepared``.
        options: arguments of the source, such as ``folder``.
        resolution: height and width of the stored images, in pixels; at least those of the stage.
        data_dir: folder for generated data sets.
        validation_fraction: fraction of the images in the validation split, in [0, 1].
        fold: which of ``folds`` parts of the concepts is the validation split, instead of ``validation_fraction``; None
            for no folds.
        folds: number of such parts, for cross-validation.
        cache: whether decoded images stay in memory.
        crop: the square that is cut out of other images: ``centre``, or ``random`` along the longer side.
        mirror: whether each image is mirrored with probability 1/2, unless its caption mentions sides or text.
        weights: how often each of several prepared data sets is read; () for their sizes.
        max_bad_fraction: training stops if a larger fraction of the images can't be read, in [0, 1].
        num_workers: number of processes that read images; 0 for none but this one.
    """

    free_to_change = ("data_dir", "num_workers", "max_bad_fraction")

    source: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    resolution: int
    data_dir: str = "runs/data"
    validation_fraction: float = 0.01
    fold: int | None = None
    folds: int = 5
    cache: bool = False
    crop: str = "centre"
    mirror: bool = False
    weights: tuple[float, ...] = ()
    max_bad_fraction: float = 0.01
    num_workers: int = 0


@dataclass(frozen=True, kw_only=True)
class TextConfig(Section):
    """The text encoder and its embeddings.

    Attributes:
        encoder: a key of ``encoders.encoder.TEXT_ENCODERS``; "" for a stage without ``stage.text``.
        options: arguments of the encoder; T5 takes ``folder``, ``tokenizer``, ``max_tokens`` and ``dtype``.
        width: number of channels of an embedding; 0 without an encoder.
        length: number of tokens to which captions are padded.
        embeddings: ``stored``, or ``computed`` again for each batch.
        null: the text of no caption in sampling: ``zeros``, or ``empty_caption``.
        tokenizer: the tokenizer for ``stage.tokens``: ``minilm``, the file of OpenAI's vocabulary, or a folder with
            it or with ``tokenizer.json``, such as that of a CLIP.
    """

    encoder: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    width: int = 0
    length: int
    embeddings: str = "stored"
    null: str = "zeros"
    tokenizer: str = ""


@dataclass(frozen=True, kw_only=True)
class StageConfig(Section):
    """The images of a stage, or the vectors, and its diffusion process.

    Attributes:
        resolution: height and width of the images, in pixels; 0 for a stage that makes vectors.
        vector: number of channels of the vectors that the stage makes, as a prior does; 0 for a stage of images.
        channels: number of channels of the images: 3 for RGB, 1 for grey.
        low_resolution: height and width of the image that a super-resolution stage enlarges; None for a base.
        text: whether the network is told the caption, by the embeddings of a frozen text encoder.
        tokens: whether the network is told the caption as token ids, for a text transformer of its own.
        text_vector: width of the vector of a caption that the network is told; 0 for none.
        image_vector: width of the vector of an image that the network is told; 0 for none.
        classes: a key of ``data.classes.CLASSES``, for a network that is told the class; "" for none.
        crop: height and width of training crops; None for whole images.
        schedule: noise schedule, a key of ``diffusion.schedules.SCHEDULES``.
        schedule_shifted_from: resolution for which the schedule was made, from which it is shifted to this one; 0 for a
            schedule that is not shifted.
        corruption: how training corrupts the low-resolution image, a key of ``diffusion.augmentation.CORRUPTIONS``:
            ``noise`` of a level that the network is told (Imagen), or without a level ``blur`` (Gaussian, σ 0.6) or
            ``bsr`` (BSRGAN's degradations), as unCLIP's upsamplers.
        blur_probability: fraction of the images that ``blur`` blurs. unCLIP prints none; 0.5 is DALLE2-pytorch's.
        augmentation_schedule: noise schedule of the low-resolution image, for ``noise``.
        enlarge_before_noise: a key of ``diffusion.augmentation.ENLARGEMENTS``: ``none``, or ``corners``, for DeepFloyd
            IF adds noise to the enlarged image.
        noise_conditioning: input of the network for the noise level: ``log_snr``, or ``timestep`` (of 1000).
        prediction: output of the network, a key of ``diffusion.process.PREDICTIONS``.
        self_conditioned: whether the network also takes its own estimate of a first pass.
    """

    resolution: int = 0
    vector: int = 0
    channels: int = 3
    low_resolution: int | None = None
    text: bool = True
    tokens: bool = False
    text_vector: int = 0
    image_vector: int = 0
    classes: str = ""
    crop: int | None = None
    schedule: str = "cosine"
    schedule_shifted_from: int = 0
    corruption: str = "noise"
    blur_probability: float = 0.5
    augmentation_schedule: str = "cosine"
    enlarge_before_noise: str = "none"
    noise_conditioning: str = "log_snr"
    prediction: str = "eps"
    self_conditioned: bool = False


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Section):
    """A network.

    Attributes:
        name: a key of ``models.NETWORKS``.
        dtype: compute dtype, ``float32`` or ``bfloat16``.
        fields: the fields of its Linen module.
    """

    rest = "fields"
    free_to_change = ("remat",)

    name: str
    dtype: str = "float32"
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(Section):
    """A classifier of noisy images.

    Attributes:
        classes: a key of ``cascade.classifier.CLASSES``.
        resolution: height and width of its images, those of the guided stage.
        schedule: noise schedule of the guided stage.
        fields: the fields of ``models.noise_classifier.NoiseClassifier``.
    """

    rest = "fields"

    classes: str
    resolution: int
    schedule: str = "cosine"
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Section):
    """The settings of every training: its length, parameter average, log and checkpoints.

    Attributes:
        steps: number of training steps.
        batch_size: number of images in a batch.
        ema_decay: decay of the average of the parameters, in [0, 1).
        ema_warm_up: whether the decay rises from 0, so that early averages are useful.
        log_every: steps between two lines of metrics.
        checkpoint_every: steps between two checkpoints.
        keep_checkpoints: number of newest checkpoints that stay.
        keep_every: steps between two checkpoints that stay for good; 0 for none.
        max_consecutive_nonfinite: max number of consecutive steps that are skipped because their numbers are not
            finite.
        on_nonfinite: action after so many: ``stop``, or ``rewind`` to a good checkpoint and continue with later data.
        max_rewinds: max number of rewinds.
        tensorboard: whether metrics are also written for TensorBoard.
    """

    free_to_change: ClassVar[tuple[str, ...]] = (
        "steps",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_every",
        "max_consecutive_nonfinite",
        "on_nonfinite",
        "max_rewinds",
        "tensorboard",
    )

    steps: int
    batch_size: int
    ema_decay: float = 0.9999
    ema_warm_up: bool = True
    log_every: int = 100
    checkpoint_every: int = 5000
    keep_checkpoints: int = 3
    keep_every: int = 0
    max_consecutive_nonfinite: int = 10
    on_nonfinite: str = "stop"
    max_rewinds: int = 3
    tensorboard: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(LoopConfig):
    """The training of a stage. See also ``LoopConfig``.

    Attributes:
        caption_dropout: fraction of the captions, and of the classes, that are dropped for guidance, in [0, 1].
        drop: fractions of other conditions that are dropped, by name, such as ``image_vector``.
        drop_together: whether one random number for each example decides about all its conditions.
        weighting: weights of the loss by noise level: a key of ``cascade.stage_loss.WEIGHTINGS``.
        min_snr_gamma: max signal-to-noise ratio of ``min_snr``.
        sigmoid_bias: bias of ``sigmoid``; larger values train more on nearly clean inputs.
        noise_levels: distribution of the noise levels: a key of ``diffusion.noise_levels.NOISE_LEVELS``.
        noise_mean: mean of ``logit_normal`` (of the time) and ``log_normal`` noise levels (of σ/α; -1.2 in the paper).
        noise_deviation: standard deviation of ``logit_normal`` and ``log_normal`` noise levels (1.2 in the paper).
        stratified_times: whether the times of a batch are spread evenly.
        time_exponent: exponent of the distribution of times: 1 is uniform, more draws noisier times.
        gradient_accumulation: number of parts of a batch, one after the other, to save memory.
        init_from: folder of a stage whose averaged weights a new run starts from: a workdir, an import, an export, or a
            bundled stage such as ``openmoji/base``; "" for random ones. A run that has begun does not read it.
        init_parts: beginnings of the paths of the parameters to load, such as ``down_``; () for all.
        init_optimizer: whether parameters, average and optimizer continue from a workdir, and not the average alone.
        preview_every: steps between two previews; 0 for none.
        evaluate_every: steps between two evaluations of ``preview.samples`` images; 0 for none.
    """

    free_to_change = (
        *LoopConfig.free_to_change,
        "preview_every",
        "evaluate_every",
        "init_from",
        "init_parts",
        "init_optimizer",
    )

    caption_dropout: float = 0.1
    drop: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    drop_together: bool = False
    weighting: str = "uniform"
    min_snr_gamma: float = 5.0
    sigmoid_bias: float = 2.0
    noise_levels: str = "times"
    noise_mean: float = 0.0
    noise_deviation: float = 1.0
    stratified_times: bool = False
    time_exponent: float = 1.0
    gradient_accumulation: int = 1
    init_from: str = ""
    init_parts: tuple[str, ...] = ()
    init_optimizer: bool = False
    preview_every: int = 10_000
    evaluate_every: int = 0


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Section):
    """An optimizer and its learning rate, see ``training.optimizer.make_optimizer``.

    Attributes:
        name: a key of ``training.optimizer.OPTIMIZERS``.
        learning_rate: peak learning rate.
        warm_up_steps: updates from 0 to the peak.
        decay_steps: updates after which the learning rate is 0.
        clip_norm: max global norm of a gradient; None for no clipping.
        options: other arguments of the optimizer.
    """

    rest = "options"

    name: str
    learning_rate: float
    warm_up_steps: int
    decay_steps: int
    clip_norm: float | None = 1.0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Section):
    """Sampling with a stage. ``cascade.settings`` checks the ranges.

    Attributes:
        sampler: a key of ``sampling.sampler.STEP_RULES``, or ``analytic`` for a prior.
        steps: number of steps.
        guidance: guidance weight; 1 for no guidance.
        spacing: spacing of the steps, a key of ``sampling.spacings.SPACINGS``: ``uniform`` in time, ``discrete`` as in
            diffusers' DeepFloyd IF, ``both_ends`` as in Karlo, ``sections`` as in GLIDE and others.
        sections: for the spacing ``sections``, the number of steps of each of as many equal parts of 1000 discrete
            steps, from clean to noisy; their sum is ``steps``.
        thresholding: a key of ``sampling.thresholding.THRESHOLDS``.
        percentile: percentile of dynamic thresholding, in (1, 100].
        max_threshold: max threshold of dynamic thresholding, and of ``clip``; the paper has none.
        gamma: variance of ancestral sampling: interpolates between the min (0) and the max (1) of the posterior.
        eta: noise of ddim, from 0 (none) to 1 (as much as ancestral sampling).
        guidance_interval: two log-SNRs; guidance applies only between them. () applies it at all noise levels.
        batched_guidance: whether guidance evaluates the network once with twice the batch, instead of twice.
        augmentation_level: noise level of the low-resolution image, in [0, 1].
        candidates: number of vectors that a prior draws; that with the largest dot product with the caption's stays.
        estimate_errors: the table of the sampler ``analytic``, see ``cascade.estimate_errors``; a training measures it.
    """

    sampler: str = "ancestral"
    steps: int
    guidance: float
    spacing: str = "uniform"
    sections: str = "10,10,3,2,2"
    thresholding: str = "dynamic"
    percentile: float = 99.5
    max_threshold: float = 1e9
    gamma: float = 0.0
    eta: float = 0.0
    guidance_interval: tuple[float, ...] | None = ()
    batched_guidance: bool = False
    augmentation_level: float = 0.0
    candidates: int = 1
    estimate_errors: str = ""


@dataclass(frozen=True, kw_only=True)
class PreviewConfig(Section):
    """Samples during training.

    Attributes:
        prompts: prompts of a base's previews; () for a few captions of the training data.
        samples: number of images that an evaluation samples, with training captions.
        compared: max number of training images that they are compared with.
        features: a key of ``encoders.feature_networks.FEATURE_NETWORKS``.
    """

    prompts: tuple[str, ...]
    samples: int = 64
    compared: int = 2000
    features: str = "efficientnet_lite0"


@dataclass(frozen=True, kw_only=True)
class MeshConfig(Section):
    """Sizes of the axes of the device mesh, see ``sharding.mesh``. One may be -1: all remaining devices.

    Attributes:
        slice: number of slices of devices.
        data: shards of the batch.
        fsdp: shards of the batch and of the parameters.
        tensor: shards of channels and attention heads.
    """

    slice: int = 1
    data: int = -1
    fsdp: int = 1
    tensor: int = 1


SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig,
    "text": TextConfig,
    "stage": StageConfig,
    "embedding": EmbeddingConfig,
    "network": NetworkConfig,
    "training": TrainingConfig,
    "optimizer": OptimizerConfig,
    "sampling": SamplingConfig,
    "preview": PreviewConfig,
    "mesh": MeshConfig,
}
"""The sections of a stage's config, by name. Beside them it has a ``seed``."""

CLASSIFIER_SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig,
    "classifier": ClassifierConfig,
    "training": LoopConfig,
    "optimizer": OptimizerConfig,
    "mesh": MeshConfig,
}
"""The sections of a classifier's config, by name. Beside them it has a ``seed``."""
