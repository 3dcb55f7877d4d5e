"""The flags of each command, with values that are valid by themselves, and what a command leaves when it is done.

``command_trees`` writes what the values name.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

FEW, STRAY = 2.5, 0.6
"""Optional and stray flags of a line, on average."""


class Command(NamedTuple):
    """A command and its flags.

    Attributes:
        weight: how often it is drawn, against the others.
        required: one of each group is given.
        optional: some of these are given; most go with each other.
        stray: few of these are given; most need another flag, or are out of range.
        results: one of these is there when it is done; none: it only prints.
    """

    weight: float
    required: tuple[tuple[str, ...], ...]
    optional: tuple[tuple[str, ...], ...]
    stray: tuple[tuple[str, ...], ...] = ()
    results: tuple[str, ...] = ()

    def draw(self, generator: np.random.Generator) -> list[str]:
        """Draws a command line; the flags of one choice are separated by spaces."""
        chosen = [str(generator.choice(group)) for group in self.required]
        for groups, mean in ((self.optional, FEW), (self.stray, STRAY)):
            chosen += [str(generator.choice(group)) for group in groups if generator.random() < mean / len(groups)]
        return [flag for one in chosen for flag in one.split(" ") if flag]

    def has_result(self) -> bool:
        """Whether what the command writes is in the present folder."""
        return not self.results or any(Path(name).exists() for name in self.results)


def values(flag: str, *given: object) -> tuple[str, ...]:
    """The ways to give one flag."""
    return tuple(f"--{flag}={value}" for value in given)


PROCESSES = (
    ("--heartbeat_seconds=30",),
    ("--nodistributed", "--distributed", "--distributed --heartbeat_seconds=20"),
    (
        "--coordinator=localhost:1",
        "--process_count=1",
        "--coordinator=localhost:1 --process_count=1 --process_index=0",
    ),
)
STAGES = ("", "--stages=base,super_resolution", "--stages=base,super_resolution", "--stages=base",
          "--stages=super_resolution", "--stages=exported,super_resolution", "--stages=exported",
          "--stages=super_resolution,base", "--stages=base,base")  # fmt: skip
SAMPLING = (
    values("dtype", "float32", "bfloat16"),
    ("--guidance=1", "--guidance=2", "--guidance=0.5,2", "--guidance=2 --guidance_interval=-4,3",
     "--guidance=3 --batched_guidance"),
    ("--sampler=unipc", "--sampler=heun,ddim", "--sampler=ancestral --gamma=0.5", "--sampler=ddim --eta=0.5",
     "--sampler=dpm_solver_2m_sde", "--sampler=ddim,ancestral --eta=1 --gamma=0"),
    values("spacing", "uniform", "log_snr", "karras", "discrete", "discrete,uniform", "both_ends"),
    ("--thresholding=none", "--thresholding=static", "--thresholding=dynamic --percentile=90",
     "--thresholding=static,dynamic --percentile=99,90"),
    values("augmentation_level", 0, 0.1, "0,0.2"),
)  # fmt: skip
STRAY_SAMPLING = (
    values("guidance", "1,2,3", "-1", "nan"),
    values("guidance_interval", "-4,3", "3,-4", "-4"),
    ("--batched_guidance", "--noguide_at_once"),
    values("gamma", 0, 0.5, "0.5,1", 2),
    values("eta", 0, 0.5, 1, "0,1"),
    values("percentile", 99.5, 90, "90,99", 0.5),
    values("augmentation_level", 0, 1.5),
    values("spacing", "karas"),
    values("dtype", "float16"),
    ("--heartbeat_seconds=30",),
)

SAMPLE = Command(
    40,
    (STAGES, values("out", "out"), values("steps", 1, 2, "1,2", "2,1"),
     ("--prompt=panda", "--prompt=panda", "--prompt=tree --prompt=panda", "--prompts_file=prompts.txt", "")),
    (
        *SAMPLING,
        values("prompt", "apple"),
        ("--negative_prompt=tree", "--negative_prompt=tree --guidance=2", "--negative_prompt= --guidance=3"),
        values("later_prompt", "tree", "panda"),
        values("seed", 0, 1, 7),
        values("samples_per_prompt", 1, 2, 3),
        values("batch_size", 1, 2, 8),
        values("format", "png", "jpg", "webp", "npz"),
        ("--grid", "--nogrid"),
        ("--classifier=classifier --classifier_class=Flags",
         "--classifier=classifier --classifier_class=Objects --classifier_scale=-2"),
        ("--image=photo.png --strength=0.5", "--image=wide.png --strength=0.01", "--image=photo.png --mask=mask.png",
         "--image=photo.png --mask=mask.png --resample=2 --strength=0.9",
         "--image=photo.png --sampler=ddim --invert=panda",

         "--image=photo.png --invert= --sampler=ddim", "--image=photo.png"),
        ("--to_prompt=tree --between=2", "--to_seed=7 --between=3", "--to_prompt=apple --to_seed=2 --between=2"),
    ),
    (
        *STRAY_SAMPLING,
        values("steps", "1,1,1", 0, "two"),
        values("prompt", "", "panda"),
        ("--conditioning=caption", "--conditioning=image --image=photo.png", "--conditioning=priors"),
        values("candidates", 0, 2),
        values("sampler", "analytic"),
        values("prompts_file", "prompts.csv", "nowhere.txt"),
        ("--classifier=classifier", "--classifier_class=Flags", "--classifier=base --classifier_class=Flags",
         "--classifier=classifier --classifier_class=Flag", "--classifier_scale=1", "--classifier_scale=0"),
        values("image", "nowhere.png", "wide.png", "photo.png"),
        values("mask", "mask.png", "all.png", "none.png", "edge.png"),
        values("strength", 0.5, 1, 0),
        values("resample", 1, 2),
        values("invert", "panda"),
        values("to_prompt", "panda", "apple"),
        values("to_seed", 0, 7),
        values("between", 2, 3),
    ),
    ("out/sampling.json",),
)  # fmt: skip
EVALUATE = Command(
    14,
    (STAGES, values("out", "out"), values("steps", 1, "1,2"),
     ("--features=pixels --dataset=prepared_train --data_dir=prepared", "--features=pixels",
      "--features=pixels --dataset=prepared_train --data_dir=prepared --samples=2",
      "--features=pixels --dataset=prepared --data_dir=prepared --samples=1",
      "--protocol=drawbench --prompts_file=prompts.csv --samples=1")),
    (
        *SAMPLING,
        values("seed", 0, 1),
        values("batch_size", 1, 4),
        values("clip", "none"),
        values("sweep", "guidance=1/2", "eta=0/1", "steps=1/2", "augmentation_level=0/0.1"),
    ),
    (
        *STRAY_SAMPLING,
        values("protocol", "training_captions", "drawbench", "imagen", "drawbanch"),
        values("dataset", "prepared", "coco2014", "prepred"),
        values("data_dir", "prepared", "nowhere"),
        values("cache", "out/cache"),
        values("samples", 2, 3),
        values("captions_file", "prompts.txt", "nowhere.txt"),
        values("prompts_file", "prompts.csv", "nowhere.csv"),
        values("beside", "rated", "nowhere"),
        values("features", "inception", "pixel"),
        values("resize", "clean", "bicubic"),
        values("inception_weights", "nowhere.pth"),
        values("clip", "ViT-L/14", "ViT-L"),
        values("clip_weights", "nowhere"),
        values("clip_vocabulary", "nowhere"),
        values("reference_statistics", "nowhere.npz"),
        values("sweep", "steps=0/1", "steps", "sampler=ddim/dimm", "gamma=0/1"),
    ),
    ("out/report.json", "out/sweep.json"),
)  # fmt: skip
TRAIN = Command(
    8,
    (("--config=train.py:base", "--config=train.py:super_resolution"), values("workdir", "out")),
    (
        *PROCESSES,
        values("profile_steps", "1,1", "1,2", "5,6", "2"),
        values("hang_seconds", 0, 100),
        ("--end_when_hung", "--noend_when_hung"),
        values("config.training.steps", 1, 2),
        values("config.training.batch_size", 8, 4),
        values("config.training.weighting", "min_snr", "uniform", "min_snt"),
        values("config.training.min_snr_gamma", 3.0),
        values("config.training.on_nonfinite", "rewind", "stop"),
        values("config.training.max_rewinds", 2),
        values("config.training.evaluate_every", 1),
        values("config.training.preview_every", 0, 1),
        values("config.preview.samples", 2),
        values("config.preview.features", "pixels", "pixel"),
        values("config.data.source", "prepared", "folder", "openmoji"),
        values("config.data.options.folder", "prepared", "own", "nowhere"),
        values("config.data.validation_fraction", 0.1),
        values("config.optimizer.name", "adam", "adafactor", "adamw"),
        values("config.text.embeddings", "computed", "stored"),
        values("config.training.stesp", 3),
    ),
    results=("out/checkpoints",),
)
TRAIN_CLASSIFIER = Command(
    3,
    (("--config=classify.py",), values("workdir", "out")),
    (
        values("config.training.steps", 1),
        values("config.training.batch_size", 4),
        values("config.classifier.blocks", 1, 2),
        values("config.classifier.classes", "openmoji_groups", "groups"),
        values("config.classifier.blokcs", 1),
    ),
    results=("out/checkpoints",),
)
PREPARE_DATA = Command(
    10,
    (
        (
            "--source=folder --option=folder=own",
            "--source=folder --option=folder=own",
            "--source=synthetic --option=count=12 --option=resolution=16",
            "--source=coco --option=folder=own",
            "--source=table --option=table=prompts.csv",
            "--source=tar_shards --option=folder=own",
            "--source=folder",
        ),
        values("out", "out"),
        values("workers", 0),
    ),
    (
        values("option", "folder=own", "fodler=own", "count=12", "count=x", "count"),
        values("shorter_side", 8, 400),
        values("validation_fraction", 0, 0.2, 1),
        values("min_side", 1, 16, 400),
        values("max_aspect", 0.5, 1, 2),
        values("min_words", 1, 2, 9),
        values("max_words", 1, 5),
        values("condition", "aesthetic>=5", "aesthetic", "license!=unknown"),
        values("duplicates", "keys", "files", "looks"),
        values("max_bad_fraction", 0, 1),
    ),
    results=("out/manifest.json",),
)
EMBED_CAPTIONS = Command(
    6,
    (values("data", "prepared", "prepared", "own"), values("encoder", "minilm", "minilm", "t5")),
    (
        *PROCESSES,
        values("option", "max_tokens=16", "max_tokens=1", "max_token=16", "folder=nowhere", "max_tokens=x"),
        ("--plan", "--noplan"),
        ("--verify",),
    ),
)
EMBED_IMAGES = Command(
    3,
    (
        values("data", "prepared", "prepared", "own", "nowhere"),
        values("clip", "clip", "clip", "prompts.txt", "nowhere"),
    ),
    (*PROCESSES,),
)
IMPORT_WEIGHTS = Command(
    6,
    (
        values("format", "imagen_jax", "imagen_jax", "deepfloyd_if", "clip", "imagen"),
        values("source", "exported", "exported", "base"),
        values("out", "out", "out", "base"),
    ),
    (
        values("text_encoder", "nowhere"),
        values("dtype", "float32", "bfloat16", "float16"),
        values("text_dtype", "float32", "float16"),
        values("clip_vocabulary", "nowhere"),
    ),
    results=("out/checkpoints",),
)
EXPORT_WEIGHTS = Command(
    5,
    (values("workdir", "base", "base", "exported", "nowhere"), values("out", "out", "out", "exported", "base")),
    (
        values("format", "imagen_jax", "imagen_jax", "deepfloyd_if", "open_clip"),
        values("dtype", "float32", "bfloat16", "float16"),
    ),
    results=("out/model.safetensors",),
)
COUNT = Command(
    3,
    (("--config=train.py:base", "--config=train.py:super_resolution"),),
    (
        ("--flops", "--noflops"),
        values("batch_size", 1, 2),
        values("config.network.channels", "(8,)", "(8,8)"),
        values("config.network.heads", 2, 3),
        values("config.network.head", 2),
    ),
)
COMPILE_CHECK = Command(
    5,
    (values("topology", "v4:2x2x1", "v5e:2x2", "v4:2", "v9:2x2"),),
    (
        ("--config=train.py:base",),
        ("--config=train.py:base", "--encoder=small"),
        values("encoder", "small", "smal"),
        values("slices", 1, 2),
        values("batch", 4, 8),
        ("--sample", "--nosample"),
        values("tokens", 16),
        values("out", "out.json"),
        values("program", "out.txt"),
    ),
)
SERVE = Command(
    5,
    (STAGES,),
    (
        values("host", "127.0.0.1", "0.0.0.0"),
        values("port", 0, 8000),
        values("origins", "https://hub.example", "hub.example"),
        values("dtype", "float32", "bfloat16", "float16"),
        values("max_steps", 1, 10),
        values("max_queue", 1, 3),
    ),
)
RATE = Command(
    6,
    (values("out", "out.sqlite"),),
    (
        values("a", "rated/ours", "own", "nowhere"),
        values("b", "rated/theirs", "rated/ours"),
        values("together", 1, 2),
        ("--results", "--noresults"),
        values("host", "127.0.0.1"),
        values("port", 0),
        values("origins", "https://hub.example", "hub"),
    ),
)
COPY_CONFIGS = Command(
    1,
    (values("out", "out", "out/deeper", "gs:" + "//bucket/configs"),),
    (),
    results=("out/own_images.py", "out/deeper/own_images.py"),
)
SHOW_RUN = Command(
    2,
    (values("workdir", "base", "nowhere", "own"),),
    (values("out", "page.html", "own", "nowhere/page.html"),),
)

MEASURE_BOUND = Command(
    2,
    (values("stage", "base", "exported", "nowhere"), values("data", "prepared", "nowhere")),
    (values("steps", 2, 3), values("images", 1, 2), values("batch_size", 2), values("out", "bound.json")),
)

CLASSIFY = Command(
    5,
    (
        values("clip", "clip", "clip", "clip/model.safetensors", "ViT-B/32", "nowhere"),
        (
            "--data=prepared --split=train --classes=shapes.txt --labels=captions",
            "--data=prepared --split=train --classes=shapes.json --labels=captions --noprobe",
            "--data=prepared --split=train --classes=shapes.txt",
            "--data=prepared --classes=openmoji_groups",
            "--image=photo.png --class=panda --class=tree",
            "--image=photo.png --classes=shapes.txt",
            "--image=photo.png",
        ),
    ),
    (
        values("templates", "bare", "emoji", "openai_7", "openai_80"),
        values("template", "my_{}", "drawing"),
        ("--probe", "--noprobe"),
        values("seed", 0, 1),
        values("out", "out"),
    ),
    (
        values("labels", "folders", "captions", "openmoji_groups", "folder"),
        values("split", "train", "validation"),
        values("class", "panda", "tree"),
        values("classes", "nowhere.txt", "prompts.csv", "photo.png"),
        values("data", "own", "nowhere", "prepared"),
        values("image", "nowhere.png", "prompts.txt"),
        values("templates", "openai"),
        values("clip_vocabulary", "nowhere"),
        values("resolution", 16),
        values("validation_fraction", 0.5, 1),
        values("data_dir", "nowhere"),
        values("option", "folder=own"),
        values("out", "prompts.txt"),
    ),
)
RETRIEVAL = Command(
    3,
    (
        values("clip", "clip", "clip", "ViT-B/32", "nowhere"),
        ("--data=prepared --split=train", "--data=prepared --split=train", "--data=own", "--data=nowhere"),
    ),
    (values("examples", 0, 3, -1), values("seed", 0, 1), values("out", "out", "prompts.txt")),
    (
        values("split", "validation", "test"),
        values("resolution", 16),
        values("option", "folder=own"),
        values("clip_vocabulary", "nowhere"),
    ),
)

MANIPULATE = Command(
    2,
    (
        values("how", "reconstruction", "variations", "interpolation", "text_difference", "components", "collage"),
        values("stages", "base", "base,super_resolution", "nowhere"),
        values("image", "photo.png", "prompts.txt", "nowhere.png"),
        values("out", "out", "prompts.txt"),
    ),
    (values("samples", 2, 0), values("eta", 0.5), values("between", 3, 1), values("seed", 0, 1)),
    (
        values("to_image", "photo.png", "nowhere.png"),
        values("to_text", "a tree"),
        values("data", "prepared", "nowhere"),
        values("components", "2", "two"),
        values("clip", "clip", "nowhere"),
    ),
)

COMMANDS = {
    "sample": SAMPLE,
    "evaluate": EVALUATE,
    "train": TRAIN,
    "train_classifier": TRAIN_CLASSIFIER,
    "prepare_data": PREPARE_DATA,
    "embed_captions": EMBED_CAPTIONS,
    "embed_images": EMBED_IMAGES,
    "import_weights": IMPORT_WEIGHTS,
    "export_weights": EXPORT_WEIGHTS,
    "show_run": SHOW_RUN,
    "measure_bound": MEASURE_BOUND,
    "classify": CLASSIFY,
    "retrieval": RETRIEVAL,
    "manipulate": MANIPULATE,
    "count": COUNT,
    "compile_check": COMPILE_CHECK,
    "serve": SERVE,
    "rate": RATE,
    "copy_configs": COPY_CONFIGS,
}
"""All commands."""
