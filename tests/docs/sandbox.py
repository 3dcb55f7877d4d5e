"""A folder with everything that the commands of the pages name, at smoke size."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.preparation.conversion import Conversion
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.data.sources.records import Record
from imagen_jax.data.sources.synthetic import SHAPES, synthetic_parts
from imagen_jax.data.splits import SPLITS, split_of
from tests.docs.pages import CHECKOUT
from tests.end_to_end.data_trees import write_coco, write_shards
from tests.reference.clip_folders import write_clip_folder
from tests.reference.deepfloyd_folders import SIZES, write_stage
from tests.reference.make_deepfloyd_reference import GOLDEN
from tests.reference.t5_folders import write_t5_folder
from tests.small_cascades import write_cascade
from tests.web.rating_folders import write_two_folders

PROMPTS = ("red circle", "blue square")


def write_sandbox(folder: Path) -> None:
    """Writes all inputs into a folder, in which the commands are run."""
    write_pictures(folder)
    write_data_sets(folder)
    write_cascades(folder)
    write_t5_folder(folder / "T5")
    write_clip_folder(folder / "CLIP")
    write_classes(folder)
    write_deepfloyd(folder)
    (folder / "captions.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    (folder / "DRAWBENCH.csv").write_text("Prompts,Category\n" + "".join(f"{prompt},Colors\n" for prompt in PROMPTS))
    ours, theirs = write_two_folders(folder / "rated")
    for images, name in ((ours, "ours"), (theirs, "if")):
        images.rename(make_parent(folder / "runs" / name / "pictures"))
    for name in ("configs", "docs", "launch"):
        (folder / name).symlink_to(CHECKOUT / name)


def copy_sandbox(folder: Path, target: Path) -> Path:
    """Copies the folder for one page."""
    return shutil.copytree(folder, target, symlinks=True)


def make_parent(path: Path) -> Path:
    """Makes the folder that a path is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def draw_records(count: int, resolution: int) -> list[Record]:
    """Returns captioned JPEGs of coloured shapes."""
    (records,) = [list(part.read()) for part in synthetic_parts(count=count, resolution=resolution)]
    return records


def write_pictures(folder: Path) -> None:
    """Writes images to edit, and a folder of captioned ones, the first of which is a cat."""
    generator = np.random.default_rng(0)
    for name, side in (("photo", 20), ("small", 8)):
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    mask = np.zeros((20, 20), np.uint8)
    mask[:, :9] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "FOLDER").mkdir()
    for number, record in enumerate(draw_records(32, resolution=72)):
        name = f"{number:02d}" if number else "cat"
        (folder / "FOLDER" / f"{name}.jpg").write_bytes(record.encoded)
        (folder / "FOLDER" / f"{name}.txt").write_text(record.captions[0] + "\n")
    image = Image.open(folder / "FOLDER" / "cat.jpg")
    image.save(folder / "FOLDER" / "cat.png")
    (folder / "FOLDER" / "cat.jpg").unlink()


def write_data_sets(folder: Path) -> None:
    """Writes data sets of others, and a prepared one."""
    records = draw_records(24, resolution=72)
    write_coco(folder / "COCO", records, validate=12, second_caption="some shape")
    write_shards(folder / "SHARDS", draw_records(30, resolution=272), shards=3)
    # It is cut off, for other tests.
    (folder / "SHARDS" / "00002.tar").unlink()
    rows = [
        {"image": f"FOLDER/{number:02d}.jpg", "caption": record.captions[0]} for number, record in enumerate(records)
    ]
    (folder / "TABLE.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    parts = synthetic_parts(count=32, resolution=72)
    prepare(Preparation("synthetic", {}, "Ours", parts, Conversion(), duplicates="keys"), folder / "DATA", 0)


def write_cascades(folder: Path) -> None:
    """Writes the quickstart's trained stages, and what stands for the bundled cascade: 8 px and 16 px."""
    trained = write_cascade(make_parent(folder / "runs" / "quickstart"))
    for stage in trained:
        file = stage / "config.json"
        config = json.loads(file.read_text())
        # A network that compiles fast, called once for each step.
        config["sampling"]["guidance"] = 1.0
        config["data"] |= {"source": "folder", "options": {"folder": "FOLDER"}, "data_dir": "drawn"}
        config["data"]["validation_fraction"] = 0.2
        file.write_text(json.dumps(config))
        data = config["data"]
    prepare_data("folder", data["resolution"], folder / "drawn", data["validation_fraction"], folder=folder / "FOLDER")
    for stage in trained:
        shutil.copytree(stage, folder / "bundled" / "openmoji" / stage.name)
    (folder / "bundled" / "emoji_unclip").symlink_to(CHECKOUT / "imagen_jax" / "pretrained" / "emoji_unclip")
    # For pages that name its stages by their paths in a checkout.
    make_parent(folder / "imagen_jax" / "pretrained").symlink_to(Path("..") / "bundled")


def write_deepfloyd(folder: Path) -> None:
    """Writes both stages of a small DeepFloyd IF, in diffusers' layout."""
    with np.load(GOLDEN) as golden:
        for name, stage in zip(("IF-I-M-v1.0", "IF-II-M-v1.0"), SIZES, strict=True):
            write_stage(folder / name, stage, json.loads(str(golden[f"{stage}/shapes"])))


def write_classes(folder: Path) -> None:
    """Writes a file of classes: the shapes that both halves of the folder FOLDER have."""
    captions = [file.read_text().strip() for file in (folder / "FOLDER").glob("*.txt")]
    halves = ({name for name in SHAPES for one in captions if name in one.split() and split_of(one, 0.5) == half}
              for half in SPLITS)  # fmt: skip
    names = sorted(set.intersection(*halves))
    (folder / "classes.txt").write_text("".join(f"{name}: {name}, {name} on a ground\n" for name in names))


def bundled_cascades(folder: Path) -> str:
    """Returns what ``imagen_jax.pretrained.__file__`` is where this folder's cascade is the bundled one."""
    return str(folder / "bundled" / "__init__.py")


def shrink(command: str, arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of a command with its config, its training and its data at smoke size."""
    # The start of worker processes would take most of the time.
    added = ["--workers=0"] if command == "prepare_data" else []
    if command == "evaluate" and not any(
        one.startswith(("--samples", "--protocol", "--captions")) for one in arguments
    ):
        added = ["--samples=8"]
    return [*added, *map(shrink_argument, arguments)]


MAX_VALUES = {"--config.training.steps": 1, "--config.preview.samples": 4, "--samples": 8, "--option=count": 24}
"""Max values of numbers that would take minutes."""


def shrink_argument(argument: str) -> str:
    """Returns one argument at smoke size."""
    name, _, value = argument.rpartition("=")
    if name in MAX_VALUES and value.isdigit():
        return f"{name}={min(int(value), MAX_VALUES[name])}"
    if argument.startswith("--config="):
        file, _, variant = argument.removeprefix("--config=").partition(":")
        module = file.removesuffix(".py").replace("/", ".")
        module = module if module.startswith("configs.") else f"configs.{module}"
        if (CHECKOUT / f"{module.replace('.', '/')}.py").exists():
            return f"--config={CHECKOUT / 'tests/docs/smoke_configs.py'}:{module}:{variant}"
    return argument
