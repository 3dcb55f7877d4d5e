r"""Classifies images without labels: a CLIP compares them with texts made of class names.

    imagen-jax classify --clip=runs/clip --data=DATA --classes=openmoji_groups --templates=emoji --out=runs/classified
    imagen-jax classify --clip=ViT-B/32 --data=DATA --classes=classes.txt --template='a drawing of a {}'
    imagen-jax classify --clip=runs/clip --image=photo.png --class='a cat' --class='a dog'

With ``--data`` it measures the accuracy on held-out images, beside chance and beside a linear probe, which learns from
the labels of the training split. With ``--image`` it prints the probabilities of the classes for one image.
"""

from collections.abc import Sequence

from absl import flags

from imagen_jax.array_types import HostPixels
from imagen_jax.cascade.image_files import make_folder
from imagen_jax.data.classes import CLASSES
from imagen_jax.data.opened_images import DamagedImageError
from imagen_jax.data.pixels import decode_pixels
from imagen_jax.encoders import feature_networks
from imagen_jax.encoders.pretrained_clip import Clip
from imagen_jax.errors import UserError
from imagen_jax.evaluation import clip_flags
from imagen_jax.evaluation.metrics.zero_shot import build_classifier, classify
from imagen_jax.evaluation.prompt_templates import OWN, TEMPLATES, ClassPrompts, choose_templates, make_prompts
from imagen_jax.evaluation.protocols.classification import (
    ClassifyRequest,
    LabelledSplit,
    describe_lines,
    embed_prompts,
    make_report,
    run_classification,
)
from imagen_jax.evaluation.protocols.image_labels import (
    LABELLERS,
    Wordings,
    check_labels,
    choose_labeller,
    list_labels,
    load_wordings,
    make_wordings,
)
from imagen_jax.evaluation.protocols.references import open_prepared
from imagen_jax.evaluation.reports.classification_page import PAGE, REPORT, write_classification
from imagen_jax.evaluation.reports.probability_plot import plot_probabilities
from imagen_jax.evaluation.reports.report import write_report
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.preconditions import Precondition, check_flags
from imagen_jax.runtime.seeds import MAX_SEED
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.storage.refusals import raise_if_denied

CLASSES_FLAG = flags.DEFINE_string(
    "classes", "", f"File of classes, one per line, as in 'cat' or 'cat: cat, kitten'; or {', '.join(CLASSES)}."
)
CLASS = flags.DEFINE_multi_string("class", [], "A class, such as 'a cat', instead of --classes. Repeat the flag.")
TEMPLATES_FLAG = flags.DEFINE_enum("templates", "bare", list(TEMPLATES), "Templates of the prompts.")
TEMPLATE = flags.DEFINE_multi_string(
    "template", [], "A template of your own, such as 'a drawing of a {}'. Repeat the flag."
)
LABELS = flags.DEFINE_string(
    "labels",
    "",
    f"What the images' true classes are: {', '.join((*LABELLERS, *CLASSES))}. Default: --classes itself, or folders "
    "for a file.",
)
PROBE = flags.DEFINE_bool("probe", True, "Compare with a linear probe, which reads the training split too.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the choice of examples and of the probe's own split.", 0, MAX_SEED)

IMAGE = flags.DEFINE_string("image", "", "One image to classify, instead of --data.")

OUT = flags.DEFINE_string("out", "", "Folder for the report, the confusions and the page, or for the image's plot.")

IMAGE_REPORT, IMAGE_PLOT = "probabilities.json", "probabilities.png"


def without_image(flag: str) -> Precondition:
    """Returns the precondition of a flag that needs a data set."""
    return Precondition(
        flag, lambda given: not given.image, f"--{flag} has no effect with --image, which is one image: leave one out"
    )


PRECONDITIONS = (
    *map(without_image, ("data", "split", "labels", "probe", "seed", "option", "resolution", "validation_fraction",
                         "data_dir")),
    Precondition(
        "class",
        lambda given: not given.classes,
        "--class has no effect with --classes: leave one of them out, or write the classes into one file",
    ),
    Precondition(
        "class",
        lambda given: given.image or given.labels,
        "--class names classes of one --image: with --data give --classes, or say with --labels what the images' "
        "classes are",
    ),
    Precondition(
        "templates",
        lambda given: not given.template,
        "--templates has no effect with --template: leave one of them out",
    ),
    Precondition(
        "probe",
        lambda given: not (given.probe and given.split == "train"),
        "--probe has no effect with --split=train, whose images would train it: leave one of them out",
    ),
    *clip_flags.PRECONDITIONS,
)  # fmt: skip


def main() -> None:
    """Classifies ``--image``, or the images of ``--data``.

    Raises:
        UserError: a flag is missing, wrong or without effect, or an input can't be used.
    """
    clip_flags.check_paths()
    image_path, _ = to_path(IMAGE.value), to_path(CLASSES_FLAG.value)
    out = to_path(OUT.value) if OUT.value else None
    check_flags(PRECONDITIONS)
    if not (IMAGE.value or clip_flags.DATA.value):
        raise UserError("there is nothing to classify: give images as --data=FOLDER, or one as --image=FILE")
    clip_flags.check_clip()
    wordings = read_wordings()
    templates = choose_templates(TEMPLATES_FLAG.value, TEMPLATE.value)
    prompts = make_prompts(wordings.richest, templates)
    if out is not None:
        make_folder(out)
    if IMAGE.value:
        image = read_image(image_path.expanduser())
        classify_image(clip_flags.load_flagged_clip(), image, prompts, out)
        return
    request = read_request(wordings, templates)
    clip = clip_flags.load_flagged_clip()
    found = run_classification(clip, clip.logit_scale, request)
    print("\n".join(describe_lines(found)))
    if out is not None:
        write_classification(out, make_report(clip, clip.logit_scale, request, found), request, found)
        print(f"the report is {out / REPORT}, the page {out / PAGE}")


def read_wordings() -> Wordings:
    """Returns the classes that the flags name, in words.

    Raises:
        UserError: there are none, or the file can't be used.
    """
    if CLASSES_FLAG.value:
        return load_wordings(CLASSES_FLAG.value)
    if not CLASS.value:
        raise UserError("--classes is missing: give a file of classes, or each as in --class='a cat'")
    repeated = next((one for number, one in enumerate(CLASS.value) if one in CLASS.value[:number]), None)
    if repeated is not None:
        raise UserError(f"--class={repeated} is given twice: leave one out")
    return make_wordings(CLASS.value)


def read_request(wordings: Wordings, templates: Sequence[str]) -> ClassifyRequest:
    """Opens the splits of ``--data`` and finds the classes of their images.

    Raises:
        UserError: the data set can't be used, or a class has no image in one of the splits.
    """
    names = wordings.names
    labeller = choose_labeller(LABELS.value, CLASSES_FLAG.value, names)
    folder = clip_flags.find_data_set()

    def open_labelled(split: str, fix: str) -> LabelledSplit:
        reference = open_prepared(folder, "train" if split == "train" else "validation")
        labelled = LabelledSplit(reference, list_labels(reference, labeller), split)
        check_labels(labelled.labels, names, reference, fix)
        return labelled

    tested = open_labelled(clip_flags.SPLIT.value, "choose another --split, or hold out more images")
    probes = PROBE.value and clip_flags.SPLIT.value != "train"
    return ClassifyRequest(
        wordings=wordings,
        templates=templates,
        templates_name=OWN if TEMPLATE.value else TEMPLATES_FLAG.value,
        tested=tested,
        training=open_labelled("train", "give --noprobe") if probes else None,
        seed=SEED.value,
    )


def read_image(path: Path) -> HostPixels:
    """Reads an image file.

    Raises:
        UserError: it can't be read.
    """
    try:
        return decode_pixels(path.read_bytes())
    except (OSError, DamagedImageError) as error:
        raise_if_denied(error, path)
        raise UserError(f"--image={path} can't be read ({error}): name a PNG, JPEG or WebP file") from error


def classify_image(clip: Clip, image: HostPixels, prompts: ClassPrompts, out: Path | None) -> None:
    """Prints the probability of each class for one image, and writes a plot and JSON into ``out``."""
    (embeddings,) = embed_prompts(clip, [prompts])
    embedded = feature_networks.extract_features(clip.image, [image], 1, show=False).pooled
    found = classify(embedded, build_classifier(embeddings), clip.logit_scale)
    cosines, probabilities = found.cosines[0], found.probabilities[0]
    ordered = sorted(zip(probabilities.tolist(), cosines.tolist(), prompts.names, strict=True), key=lambda one: -one[0])
    for probability, cosine, name in ordered:
        print(f"{probability:.4f}  {name}  (cosine {cosine:.3f})")
    if out is not None:
        classes = [{"class": name, "probability": one, "cosine": cosine} for one, cosine, name in ordered]
        facts = {"name": clip.name, "sha256": clip.sha256, "logit_scale": clip.logit_scale}
        write_report(out / IMAGE_REPORT, {"image": IMAGE.value, "clip": facts, "classes": classes})
        plot_probabilities(image, probabilities, prompts.names, out / IMAGE_PLOT)
        print(f"the plot is {out / IMAGE_PLOT}")


if __name__ == "__main__":
    run_main(main, "give a CLIP as --clip=…, and images as --data=… or --image=…")
