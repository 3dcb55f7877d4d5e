"""All flags and keys with a path: none mistakes a bucket for a folder of this machine."""

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
import imagen_jax.evaluation
from imagen_jax.__main__ import COMMANDS
from imagen_jax.runtime import distributed_flags
from imagen_jax.runtime.config_flag import accept_names
from imagen_jax.errors import UserError

PATHS = {"workdir", "stages", "out", "source", "text_encoder", "prompts_file", "image", "mask", "classifier",
          "a", "b", "data_dir", "cache", "captions_file", "inception_weights", "clip_weights", "clip_vocabulary",
          "beside", "reference_statistics", "stage", "data", "classes"}
OTHERS = {"config", "prompt", "negative_prompt", "guidance", "steps", "sampler", "thresholding", "augmentation_level",
          "features", "format", "later_prompt", "guidance_interval", "spacing", "gamma", "eta", "percentile", "invert",
          "to_prompt", "dtype", "text_dtype", "profile_steps", "classifier_class", "host", "protocol", "dataset",
          "resize", "clip", "sweep", "sections", "origins", "labels", "class", "template", "templates", "split",
          "option", "candidates", "conditioning"}
MORE = {"train": ["--config=CHECKOUT/configs/quickstart.py:base,smoke"], "sample": ["--prompt=x"],
        "train_classifier": ["--config=CHECKOUT/configs/openmoji_classifier.py:,smoke"],
        "evaluate": ["--features=pixels"], "import_weights": ["--format=imagen_jax"], "export_weights": [],
        "rate": [], "copy_configs": [], "show_run": [], "measure_bound": [],
        "classify": ["--clip=local"], "retrieval": ["--clip=local"]}
SHARED = {"imagen_jax.cascade": ("sampling_flags", "stage_flags", "network_flag"),
          "imagen_jax.evaluation": ("clip_flags",)}


def texts_of(module):
    return {flag.name for flag in flags.FLAGS.get_flags_for_module(module)
            if flag.flag_type() not in ("int", "float", "bool")}

common = set(flags.FLAGS)
for name, more in MORE.items():
    module = importlib.import_module(COMMANDS[name])
    texts = texts_of(COMMANDS[name])
    for shared in ("imagen_jax.cascade.stage_flags", "imagen_jax.evaluation.clip_flags"):
        texts |= texts_of(shared) if shared in sys.modules else set()
    assert texts_of("imagen_jax.cascade.sampling_flags") <= OTHERS
    assert texts <= PATHS | OTHERS, f"is it a path? {texts - PATHS - OTHERS}"
    # The vocabulary belongs to --format=clip alone.
    texts -= {"clip_vocabulary"} if name == "import_weights" else set()
    for path in sorted(texts & PATHS):
        given = {flag: "local" for flag in texts & PATHS - {"text_encoder", "prompts_file", "image", "mask",
                                                            "classifier"}}
        values = given | {path: "ELSEWHERE"}
        flags.FLAGS.unparse_flags()
        accept_names(flags.FLAGS)
        flags.FLAGS([name, *more, *(f"--{flag}={value}" for flag, value in values.items())])
        try:
            module.main()
        except UserError as error:
            print(name, path, error)
        else:
            print(name, path, "accepted")
        flags.FLAGS[path].unparse()
    for flag in [*flags.FLAGS]:
        if flag not in common and flag != "debug":
            delattr(flags.FLAGS, flag)
    # The next command defines the shared flags again.
    for room, shared in ((room, one) for room, modules in SHARED.items() for one in modules):
        if sys.modules.pop(f"{room}.{shared}", None):
            delattr(sys.modules[room], shared)
"""


@pytest.mark.thorough
def test_no_flag_takes_a_bucket_for_a_folder(tmp_path):
    program = PROGRAM.replace("CHECKOUT", str(CHECKOUT)).replace("ELSEWHERE", ELSEWHERE)
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 45
    for line in lines:
        assert ELSEWHERE in line and not line.endswith("accepted"), line
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
    "data.data_dir": lambda path, folder: prepare_data("folder", 8, path, folder=str(folder)),
    "data.options.folder": lambda path, folder: folder_images(path),
    "text.options.folder, T5": lambda path, folder: load_text_encoder("t5", folder=path),
    "text.options.tokenizer": lambda path, folder: load_text_encoder(
        "t5", folder=str(write_t5_folder(folder / "t5")), tokenizer=path
    ),
    "text.options.folder, MiniLM": lambda path, folder: load_text_encoder("minilm", folder=path).encode(["ox"]),
    "a data set": lambda path, folder: load_split(path, "train"),
    "its captions": lambda path, folder: captions_of(path, "train"),
    "embeddings": lambda path, folder: EmbeddingStore.build_or_open(path, ["ox"], load_text_encoder("minilm")),
    "checkpoints": lambda path, folder: CheckpointStore(path),
}


@pytest.mark.parametrize("key", KEYS)
def test_no_key_takes_a_bucket_for_a_folder(key, tmp_path, own_images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "t5" if "tokenizer" in key else own_images
    with pytest.raises(UserError, match=ELSEWHERE):
        KEYS[key](ELSEWHERE, folder)
    assert not [path.name for path in tmp_path.iterdir() if ":" in path.name]
