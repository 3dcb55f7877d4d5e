"""Every flag and every key that names a place: none takes a bucket for a folder of this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.sources.folder import folder_images
from imagen_jax.data.stored_images import captions_of, load_split
from imagen_jax.encoders.embedding_store import EmbeddingStore
from imagen_jax.encoders.encoder import load_text_encoder
from imagen_jax.errors import UserError
from imagen_jax.training.checkpoints.store import CheckpointStore
from tests.reference.t5_folders import write_t5_folder

CHECKOUT = Path(__file__).parents[2]
ELSEWHERE = "s3://some-bucket/folder"

# Runs in a process of its own, where the flags of one command can be forgotten before the next one's are read.
PROGRAM = """
import importlib, sys
from absl import flags
import imagen_jax.cascade
from imagen_jax.__main__ import COMMANDS
from imagen_jax.runtime import distributed_flags
from imagen_jax.errors import UserError

PLACES = {"workdir", "stages", "out", "source", "text_encoder", "prompts_file", "image", "mask", "classifier",
          "a", "b", "data_dir", "cache", "captions_file", "inception_weights", "clip_weights", "clip_vocabulary",
          "beside", "reference_statistics"}
OTHERS = {"config", "prompt", "negative_prompt", "guidance", "steps", "sampler", "thresholding", "augmentation_level",
          "features", "format", "later_prompt", "guidance_interval", "spacing", "gamma", "eta", "percentile", "invert",
          "to_prompt", "dtype", "text_dtype", "profile_steps", "classifier_class", "host", "protocol", "dataset",
          "resize", "clip", "sweep", "origins"}
MORE = {"train": ["--config=CHECKOUT/configs/quickstart.py:base,smoke"], "sample": ["--prompt=x"],
        "train_classifier": ["--config=CHECKOUT/configs/openmoji_classifier.py:,smoke"],
        "evaluate": ["--features=pixels"], "import_weights": ["--format=imagen_jax"], "export_weights": [],
        "rate": []}


def texts_of(module):
    return {flag.name for flag in flags.FLAGS.get_flags_for_module(module)
            if flag.flag_type() not in ("int", "float", "bool")}

common = set(flags.FLAGS)
for name, more in MORE.items():
    module = importlib.import_module(COMMANDS[name])
    texts = texts_of(COMMANDS[name])
    if "imagen_jax.cascade.stage_flags" in sys.modules:
        texts |= texts_of("imagen_jax.cascade.stage_flags")
    assert texts_of("imagen_jax.cascade.sampling_flags") <= OTHERS
    assert texts <= PLACES | OTHERS, f"is it a place? {texts - PLACES - OTHERS}"
    for place in sorted(texts & PLACES):
        given = {flag: "local" for flag in texts & PLACES - {"text_encoder", "prompts_file", "image", "mask",
                                                            "classifier"}}
        values = given | {place: "ELSEWHERE"}
        flags.FLAGS.unparse_flags()
        flags.FLAGS([name, *more, *(f"--{flag}={value}" for flag, value in values.items())])
        try:
            module.main()
        except UserError as error:
            print(name, place, error)
        else:
            print(name, place, "accepted")
        flags.FLAGS[place].unparse()
    for flag in [*flags.FLAGS]:
        if flag not in common and flag != "debug":
            delattr(flags.FLAGS, flag)
    # Whoever shares its flags is to define them anew.
    for shared in ("sampling_flags", "stage_flags"):
        if sys.modules.pop(f"imagen_jax.cascade.{shared}", None):
            delattr(imagen_jax.cascade, shared)
"""


def test_no_flag_takes_another_place_for_a_folder(tmp_path):
    program = PROGRAM.replace("CHECKOUT", str(CHECKOUT)).replace("ELSEWHERE", ELSEWHERE)
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 29
    for line in told:
        assert f"{ELSEWHERE} is neither a folder of this machine nor in a bucket" in line, line
    assert not [path.name for path in tmp_path.iterdir() if ":" in path.name]


@pytest.fixture
def own_images(tmp_path):
    folder = tmp_path / "own_images"
    folder.mkdir()
    for name in ("ox", "yak"):
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(name)
    return folder


KEYS = {
    "data.data_dir": lambda place, folder: prepare_data("folder", 8, place, folder=str(folder)),
    "data.options.folder": lambda place, folder: folder_images(place),
    "text.options.folder, T5": lambda place, folder: load_text_encoder("t5", folder=place),
    "text.options.tokenizer": lambda place, folder: load_text_encoder(
        "t5", folder=str(write_t5_folder(folder / "t5")), tokenizer=place
    ),
    "text.options.folder, MiniLM": lambda place, folder: load_text_encoder("minilm", folder=place).encode(["ox"]),
    "a data set": lambda place, folder: load_split(place, "train"),
    "its captions": lambda place, folder: captions_of(place, "train"),
    "embeddings": lambda place, folder: EmbeddingStore.build_or_open(place, ["ox"], load_text_encoder("minilm")),
    "checkpoints": lambda place, folder: CheckpointStore(place),
}


@pytest.mark.parametrize("key", KEYS)
def test_no_key_takes_another_place_for_a_folder(key, tmp_path, own_images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "t5" if "tokenizer" in key else own_images
    with pytest.raises(UserError, match="neither a folder of this machine nor in a bucket"):
        KEYS[key](ELSEWHERE, folder)
    assert not [path.name for path in tmp_path.iterdir() if ":" in path.name]
