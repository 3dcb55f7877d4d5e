"""Trains the emoji CLIP on five folds of the concepts, and measures each on the fold that it has not seen.

    python tests/benchmarks/emoji_clip.py OUT [--variant=frozen] [--source=openmoji]
        [--equal_captions=negatives] [--steps=STEPS]

It prints a table of means over the folds, with their standard errors, beside chance and a linear probe on the features
of the frozen image network (EfficientNet-Lite0). The features of a fold's images are those that the first fold has
stored. A second call reads the folds that are trained already.

The rows "of OpenMoji alone" are of a fold's OpenMoji drawings and their names. These are the same images whatever the
fonts of the training, so they show what other fonts bring.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from configs import emoji_clip
from imagen_jax.cascade.experiment import read_clip_experiment
from imagen_jax.data.classes import CLASSES, NO_CLASS
from imagen_jax.data.data_sets import DataSets
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.data.sources.emoji_keys import style_of
from imagen_jax.data.stored_images import load_split
from imagen_jax.encoders.feature_network import FeatureNetwork
from imagen_jax.encoders.feature_networks import FEATURE_NETWORKS, extract_features
from imagen_jax.encoders.image_embeddings import (
    SHARD_IMAGES,
    ImageEmbeddings,
    folder_of,
    list_shards,
    open_image_embeddings,
    shard_path,
)
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.evaluation.metrics.linear_probe import train_probe
from imagen_jax.evaluation.metrics.zero_shot import measure_accuracy
from imagen_jax.evaluation.protocols.clip_evaluation import make_clip_evaluation
from imagen_jax.storage.paths import to_path
from imagen_jax.tasks.clip_hooks import FILE_NAME, SCORE, class_prompts
from imagen_jax.tasks.training_data import open_configured
from imagen_jax.train import train
from imagen_jax.training.monitoring.metrics import read_metrics

FOLDS = 5


def main() -> None:
    """Trains and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--variant", default="frozen", choices=list(emoji_clip.VARIANTS))
    parser.add_argument("--source", default="openmoji", choices=["openmoji", "emoji_fonts"])
    parser.add_argument("--equal_captions", default="negatives", choices=["negatives", "ignored"])
    parser.add_argument("--steps", type=int, help="that of the config, if it is left out")
    arguments = parser.parse_args()
    first = opened_for(0, arguments)
    store = open_image_embeddings(first.folders, load_network())
    rows = [measure_fold(fold, arguments, store) for fold in range(FOLDS)]
    print(f"\n{arguments.variant}, {arguments.source}: mean of {FOLDS} folds ± its standard error\n")
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        print(f"{name:50} {values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(FOLDS):.3f}   {np.round(values, 3)}")


def load_network() -> FeatureNetwork:
    """The frozen image network."""
    return FEATURE_NETWORKS["efficientnet_lite0"]()


def make_config(fold: int, arguments: argparse.Namespace) -> ConfigDict:
    """The config that holds a fold out."""
    config = emoji_clip.get_config(arguments.variant)
    config.data.update({"source": arguments.source, "data_dir": str(arguments.out / "data"), "fold": fold})
    config.clip.equal_captions = arguments.equal_captions
    if arguments.steps:
        config.training.steps = config.optimizer.decay_steps = arguments.steps
    return config


def opened_for(fold: int, arguments: argparse.Namespace) -> DataSets:
    """The data set of a fold, at the resolution of the frozen network."""
    config = make_config(fold, arguments)
    config.data.resolution = 224
    return open_configured(read_clip_experiment(config).data)


def copy_features(store: ImageEmbeddings, opened: DataSets) -> None:
    """Stores the features of a data set's images, which another one with the same images has."""
    (folder,) = opened.folders
    place = folder_of(folder, load_network())
    place.mkdir(parents=True, exist_ok=True)
    for split, number in list_shards(folder):
        images = load_split(folder, split)
        indices = range(number * SHARD_IMAGES, min((number + 1) * SHARD_IMAGES, len(images)))
        keys = [images[index].key for index in indices]
        rows = [store.rows[key] for key in keys]
        np.savez(
            shard_path(place, split, number),
            keys=np.array(keys),
            plain=store.plain[rows],
            mirrored=store.mirrored[rows],
        )


def measure_fold(fold: int, arguments: argparse.Namespace, store: ImageEmbeddings) -> dict[str, float]:
    """Trains on all but one fold, and returns the numbers of that fold."""
    opened = opened_for(fold, arguments)
    copy_features(store, opened)
    config = make_config(fold, arguments)
    settings = [arguments.variant, arguments.source, arguments.equal_captions, config.training.steps, fold]
    workdir = arguments.out / "_".join(map(str, settings))
    train(config, workdir)
    line = read_metrics(to_path(workdir), FILE_NAME)[-1]
    whole = {name: value for name, value in line.items() if name not in ("step", SCORE)}
    alone = measure_on_openmoji(config, workdir, opened)
    named = {f"{name}, of OpenMoji alone": value for name, value in alone.items()}
    return whole | named | probe_fold(opened, store)


def measure_on_openmoji(config: ConfigDict, workdir: Path, opened: DataSets) -> dict[str, float]:
    """Returns the numbers of a CLIP on the held-out drawings of OpenMoji and their names."""
    stored = [image for folder in opened.folders for image in load_split(folder, "validation")]
    images = [image for image in stored if style_of(image.key) in (None, "openmoji")]
    classes = CLASSES["openmoji_groups"]
    labels = np.array([classes.label_of(image.key) for image in images])
    prompts = class_prompts(read_clip_experiment(config))
    evaluation = make_clip_evaluation([image.captions[:1] for image in images], prompts, labels)
    clip = load_clip(str(workdir), model="")
    features = extract_features(clip.image, [decode_pixels(image.encoded) for image in images], show=False)
    return evaluation(features.pooled, clip.encode_texts(evaluation.texts))


def probe_fold(opened: DataSets, store: ImageEmbeddings) -> dict[str, float]:
    """Returns the accuracy of a linear probe on the frozen features, and that of guessing."""
    classes = CLASSES["openmoji_groups"]
    features, labels, groups = {}, {}, {}
    for split in ("train", "validation"):
        images = [image for folder in opened.folders for image in load_split(folder, split)]
        numbers = np.array([classes.label_of(image.key) for image in images])
        kept = [index for index, number in enumerate(numbers) if number != NO_CLASS]
        features[split] = store.lookup([images[index].key for index in kept])
        labels[split], groups[split] = numbers[kept], [images[index].captions[0] for index in kept]
    probe = train_probe(features["train"], labels["train"], len(classes.names), groups["train"])
    accuracy = measure_accuracy(probe.score(features["validation"]), labels["validation"], classes.names)
    return {
        "probe_accuracy": accuracy.accuracy,
        "largest_group": accuracy.majority,
        "held_out_images": float(accuracy.images),
    }


if __name__ == "__main__":
    main()
