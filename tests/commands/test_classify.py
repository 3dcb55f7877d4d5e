"""``classify`` and ``retrieval`` from the command line, with a small CLIP in the layouts of its publishers."""

import json

import numpy as np
import pytest
from PIL import Image

from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.runtime.exit_status import ExitStatus
from tests.forked_programs import run_forked
from tests.reference.clip_folders import write_clip_file, write_clip_folder
from tests.tiers import thorough_except

CLASSIFY, RETRIEVAL = "imagen_jax.commands.classify", "imagen_jax.commands.retrieval"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A CLIP, images in folders of two classes, the same images prepared, and files of classes."""
    folder = tmp_path_factory.mktemp("inputs")
    write_clip_folder(folder / "clip")
    write_clip_file(folder / "openai")
    for number in range(24):
        name = "cat" if number % 2 else "panda"
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / name / f"{number}.png")
        (folder / "images" / name / f"{number}.txt").write_text(f"the {name} {number}\n")
    prepared = prepare_data("folder", 40, folder / "data", 0.5, folder=folder / "images")
    prepared.rename(folder / "prepared")
    (folder / "classes.txt").write_text("panda\ncat: cat, the cat\n")
    (folder / "more.txt").write_text("panda\ncat\ndog\n")
    (folder / "one.txt").write_text("panda\n")
    (folder / "twice.txt").write_text("panda\ncat\npanda\n")
    (folder / "empty.txt").write_text("")
    (folder / "others.txt").write_text("dog\nhorse\n")
    return folder


@pytest.fixture
def here(inputs, monkeypatch):
    monkeypatch.chdir(inputs)
    return inputs


def run(program, *arguments):
    done = run_forked(program, *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.thorough
def test_a_prepared_data_set_is_classified(here, tmp_path):
    done = run(CLASSIFY, "--clip=clip", "--data=prepared", "--classes=classes.txt", "--templates=openai_7",
               f"--out={tmp_path / 'out'}")  # fmt: skip
    assert done.returncode == ExitStatus.DONE, done.stderr
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"report.json", "report.html", "confusion.png"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    accuracy = report["accuracy"]
    assert f"zero-shot accuracy {accuracy['accuracy']:.3f} ± {accuracy['standard_error']:.3f}" in done.stdout
    assert accuracy["chance"] == 0.5 and accuracy["images"] == sum(map(sum, report["confusion"])) < 24
    assert accuracy["images"] + report["probe"]["training_images"] == 24
    assert [one["count"] for one in report["prompt_results"]] == [2, 3, 14, 21]
    assert report["clip"]["logit_scale"] == pytest.approx(np.exp(4.5), rel=1e-5)


@pytest.mark.thorough
def test_a_source_is_prepared_and_the_layouts_of_a_clip_agree(here, tmp_path):
    source = ["--data=folder", "--option=folder=images", "--resolution=40", "--validation_fraction=0.5",
              f"--data_dir={tmp_path}", "--classes=classes.txt", "--noprobe"]  # fmt: skip
    folder = run(CLASSIFY, "--clip=clip", *source)
    file = run(CLASSIFY, "--clip=openai/small.pt", *source)
    assert folder.returncode == ExitStatus.DONE and folder.stdout == file.stdout, folder.stderr + file.stderr
    assert "probe" not in folder.stdout


def test_one_image_is_classified(here, tmp_path):
    done = run(CLASSIFY, "--clip=clip", "--image=images/cat/1.png", "--class=a cat", "--class=a panda", "--class=the",
               f"--out={tmp_path}", "--template=the {}")  # fmt: skip
    assert done.returncode == ExitStatus.DONE, done.stderr
    report = json.loads((tmp_path / "probabilities.json").read_text())
    found = [one["probability"] for one in report["classes"]]
    assert sum(found) == pytest.approx(1.0, abs=1e-4) and found == sorted(found, reverse=True)
    assert done.stdout.startswith(f"{found[0]:.4f}  {report['classes'][0]['class']}")
    with Image.open(tmp_path / "probabilities.png") as picture:
        assert picture.format == "PNG"


def test_retrieval(here, tmp_path):
    done = run(RETRIEVAL, "--clip=clip", "--data=prepared", "--examples=3", f"--out={tmp_path / 'out'}")
    assert done.returncode == ExitStatus.DONE, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    count = report["data"]["image_count"]
    assert report["image_to_text"]["chance_at_1"] == pytest.approx(1 / count, rel=1e-5)
    assert report["image_to_text"]["recall_at_10"] >= report["image_to_text"]["recall_at_1"]
    assert f"({count} among {count})" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()


GIVEN = ("--clip=clip", "--data=prepared")


REFUSED = [
    (CLASSIFY, *GIVEN, "--classes=twice.txt"),
    (CLASSIFY, *GIVEN, "--classes=one.txt"),
    (CLASSIFY, *GIVEN, "--classes=more.txt"),
    (CLASSIFY, *GIVEN, "--classes=openmoji_groups"),
    (CLASSIFY, *GIVEN, "--classes=classes.txt", "--template=a drawing"),
    (CLASSIFY, *GIVEN, "--classes=classes.txt", "--split=train", "--probe"),
    (CLASSIFY, "--clip=clip", "--data=images", "--classes=classes.txt"),
    (CLASSIFY, "--clip=nowhere", "--data=prepared", "--classes=classes.txt"),
    (CLASSIFY, "--clip=clip", "--image=classes.txt", "--class=cat", "--class=dog"),
    (RETRIEVAL, "--clip=clip", "--data=openmojis"),
]
"""Command lines with a mistake in each of: classes, labels, templates, probe, data, CLIP and image."""

REFUSED_ALIKE = [
    (CLASSIFY, *GIVEN, "--classes=empty.txt"),
    (CLASSIFY, *GIVEN, "--classes=others.txt"),
    (CLASSIFY, *GIVEN, "--classes=nowhere.txt"),
    (CLASSIFY, *GIVEN, "--classes=classes.txt", "--labels=folder"),
    (CLASSIFY, *GIVEN, "--classes=classes.txt", "--template=a {}", "--templates=bare"),
    (CLASSIFY, *GIVEN, "--classes=classes.txt", "--resolution=40"),
    (CLASSIFY, *GIVEN, "--classes=classes.txt", "--class=cat"),
    (CLASSIFY, *GIVEN, "--class=cat", "--class=dog"),
    (CLASSIFY, *GIVEN),
    (CLASSIFY, "--clip=clip", "--classes=classes.txt"),
    (CLASSIFY, "--clip=clip", "--data=nowhere", "--classes=classes.txt"),
    (CLASSIFY, "--data=prepared", "--classes=classes.txt"),
    (CLASSIFY, "--clip=clip", "--image=images/cat/1.png", "--class=cat"),
    (CLASSIFY, "--clip=clip", "--image=images/cat/1.png", "--class=cat", "--class=cat"),
    (CLASSIFY, *GIVEN, "--image=images/cat/1.png", "--class=cat", "--class=dog"),
    (RETRIEVAL, "--clip=clip"),
    (RETRIEVAL, "--clip=ViT-B/31", "--data=prepared"),
    (RETRIEVAL, *GIVEN, "--validation_fraction=0.1"),
    (RETRIEVAL, *GIVEN, "--out=classes.txt"),
]
"""More of them."""


@pytest.mark.parametrize(
    "arguments",
    thorough_except(REFUSED, [*REFUSED, *REFUSED_ALIKE]),
    ids=lambda one: " ".join(one).replace("imagen_jax.commands.", ""),
)
def test_bad_input_is_one_sentence(here, arguments):
    done = run(*arguments)
    assert done.returncode == ExitStatus.USER_ERROR and done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")


@pytest.mark.thorough
def test_training_images_need_no_probe(here):
    done = run(CLASSIFY, *GIVEN, "--classes=classes.txt", "--split=train")
    assert done.returncode == ExitStatus.DONE and "probe" not in done.stdout, done.stderr
