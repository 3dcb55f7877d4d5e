"""Evaluations from end to end, on a cascade of random weights and a COCO of forty images."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imagen_jax import evaluate as command
from imagen_jax.cascade.cascade import load_planned
from imagen_jax.encoders.efficientnet_lite0 import load_efficientnet_lite0
from imagen_jax.encoders.feature_networks import extract_features
from imagen_jax.encoders.pretrained_clip import load_clip
from imagen_jax.errors import UserError
from imagen_jax.evaluate import evaluate
from imagen_jax.evaluation.metrics.caption_recall import measure_caption_recall
from imagen_jax.evaluation.protocols.reporting import describe_headline
from imagen_jax.evaluation.protocols.requests import Wanted, make_request, open_data
from imagen_jax.evaluation.protocols.runs import run_sweep
from imagen_jax.evaluation.protocols.sampled_images import StepBar
from imagen_jax.evaluation.protocols.sweep import list_points, parse_axis
from imagen_jax.evaluation.protocols.training_captions import headline_of, warn_of_few
from tests.evaluation.protocols.coco_tree import write_coco
from tests.reference.clip_folders import write_clip_folder
from tests.small_cascades import write_cascade

SAMPLES = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    stages = [str(workdir) for workdir in write_cascade(folder / "cascade")]
    return folder, stages, write_coco(folder / "coco", 40)


def wanted(folders, **others):
    _, _, coco = folders
    settings = {"protocol": "imagen", "dataset": "coco2014", "data_dir": str(coco), "samples": SAMPLES,
                "features": ["efficientnet_lite0"], **others}  # fmt: skip
    return Wanted(**settings)


@pytest.fixture(scope="module")
def report(folders):
    folder, stages, _ = folders
    return evaluate(stages, folder / "out", wanted(folders), batch_size=8)


@pytest.mark.thorough
def test_clip_scores_are_those_of_the_files_and_their_captions(folders, report):
    folder, stages, _ = folders
    weights = str(write_clip_folder(folder / "clip"))
    report = evaluate(stages, folder / "out", wanted(folders, clip_weights=weights), batch_size=8)
    clip = load_clip(str(folder / "clip"), model="")
    captions = [json.loads(line)["caption"] for line in (folder / "out" / "captions.jsonl").read_text().splitlines()]
    by_caption = {}
    for file in (folder / "out" / "pictures").glob("*.png"):
        with Image.open(file) as image:
            by_caption[image.text["prompt"]] = np.asarray(image)
    prepared = np.stack([clip.image.prepare(by_caption[caption]) for caption in captions])
    images = np.asarray(clip.image.extract(clip.image.weights, jnp.asarray(prepared)).pooled, np.float64)
    texts = np.asarray(clip.encode_texts(captions), np.float64)
    cosines = np.sum(images * texts, 1) / np.linalg.norm(images, axis=1) / np.linalg.norm(texts, axis=1)
    numbers = report["numbers"][clip.name]
    assert numbers["clip_score"]["cosine"] == pytest.approx(cosines.mean(), rel=1e-4, abs=1e-6)
    assert numbers["r_precision"]["candidates"] == len(set(captions))
    assert report["clip"]["sha256"] == clip.sha256


def features_of(files):
    images = [np.asarray(Image.open(file)) for file in files]
    return extract_features(load_efficientnet_lite0(), images, show=False).pooled.astype(np.float64)


def test_the_distance_is_that_of_the_files(folders, report):
    folder, _, coco = folders
    ours = features_of(sorted((folder / "out" / "pictures").glob("*.png")))
    originals = []
    for file in sorted((coco / "val2014").iterdir()):
        pixels = np.asarray(Image.open(file)).astype(np.float64)
        left = (pixels.shape[1] - 40) // 2
        # Area means of 40 pixels for 16: each covers two and a half.
        weights = np.clip(np.minimum.outer(np.arange(1, 17) * 2.5, np.arange(1, 41))
                          - np.maximum.outer(np.arange(16) * 2.5, np.arange(40)), 0, None) / 2.5  # fmt: skip
        small = np.einsum("ab,bcd,ec->aed", weights, pixels[:, left : left + 40], weights)
        originals.append(np.clip(np.rint(small), 0, 255).astype(np.uint8))
    theirs = extract_features(load_efficientnet_lite0(), originals, show=False).pooled.astype(np.float64)
    assert len(ours) == SAMPLES and len(theirs) == 40
    # Equation (1) by singular values: tr (Σ₁ Σ₂)^½ is the sum of those of the deviations' product.
    deviations = [(one - one.mean(0)) / np.sqrt(len(one) - 1) for one in (ours, theirs)]
    between = np.linalg.svd(deviations[0] @ deviations[1].T, compute_uv=False).sum()
    expected = np.square(ours.mean(0) - theirs.mean(0)).sum() - 2 * between
    expected += sum(np.square(one).sum() for one in deviations)
    found = report["numbers"]["efficientnet_lite0"]["Fréchet distance"]["distance"]
    # A pixel on the edge between two numbers may be rounded to either.
    assert found == pytest.approx(expected, rel=1e-3)


def test_the_report_lists_deviations_and_never_calls_it_fid(folders, report):
    deviations = [warning for warning in report["warnings"] if warning.startswith("not the protocol: ")]
    facts = [("12", "30,000"), ("16", "256"), ("efficientnet_lite0", "inception")]
    assert len(deviations) == len(facts), "no other: the protocol's own guidance weights are used"
    for deviation, (ours, protocols) in zip(deviations, facts, strict=True):
        assert ours in deviation and protocols in deviation
    assert any("12" in warning and "1280" in warning for warning in report["warnings"])
    (ours,) = [row for row in report["table"] if row["ours"]]
    assert ours["value"] is None and "not FID" in ours["note"]
    folder, *_ = folders
    page = (folder / "out" / "report.html").read_text()
    assert report["captions"]["sha256"] in page and "35.49" in page


@pytest.mark.parametrize("protocol", ["imagen", "training_captions"])
def test_without_a_number_a_smaller_data_set_gives_all_its_captions(folders, protocol):
    _, stages, _ = folders
    opened = open_data(stages[0], wanted(folders, protocol=protocol, samples=None))
    assert sorted(opened.choice.images) == list(range(40))
    for samples in (0, 41):
        with pytest.raises(UserError, match=r"--samples .*\b40\b"):
            open_data(stages[0], wanted(folders, protocol=protocol, samples=samples))


def test_caption_recall_stands_beside_chance_and_few_images_are_warned_of():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 16))
    for samples, is_warned in ((99, True), (100, False)):
        recall = measure_caption_recall(features[:samples], np.arange(samples), features)
        warnings = warn_of_few(recall)
        line = describe_headline({"headline": [headline_of(recall, "a network").as_dict()], "warnings": warnings})
        assert "1 (chance 0.05)" in line
        assert bool(warnings) == is_warned and all("99 images" in one and one in line for one in warnings)


def test_every_fact_is_there(folders, report):
    folder, *_ = folders
    written = json.loads((folder / "out" / "report.json").read_text())
    assert written["captions"]["count"] == SAMPLES and written["reference"]["count"] == 40
    assert len(written["weights"]["stage_1"]["sha256"]) == 64
    assert written["weights"]["stage_0"]["sha256"] != written["weights"]["stage_1"]["sha256"]
    assert "guidance 1.35" in written["sampling"]["stage_0"]
    lines = (folder / "out" / "captions.jsonl").read_text().splitlines()
    assert len(lines) == SAMPLES and {"caption", "picture"} == set(json.loads(lines[0]))


def test_a_second_run_samples_nothing_and_gives_the_same_digits(folders, report):
    folder, stages, _ = folders
    again = evaluate(stages, folder / "out", wanted(folders), batch_size=8)
    assert again["drawing"]["drawn_now"] == 0
    assert again["numbers"]["efficientnet_lite0"] == report["numbers"]["efficientnet_lite0"]


def test_the_reference_is_measured_once_and_statistics_of_a_file_beside_it(folders, report, monkeypatch):
    folder, stages, _ = folders
    (kept,) = (folder / "reference_features").glob("efficientnet_lite0-*")

    def measure_again(*_):
        raise AssertionError("the reference is measured a second time")

    with monkeypatch.context() as patch:
        patch.setattr("imagen_jax.evaluation.protocols.measured_references.save_statistics", measure_again)
        patch.setattr("imagen_jax.evaluation.protocols.measured_references.neighbourhood_radii", measure_again)
        beside = wanted(folders, reference_statistics=str(kept / "statistics.npz"))
        found = evaluate(stages, folder / "out", beside, batch_size=8)
    numbers = found["numbers"]["efficientnet_lite0"]
    (title,) = (name for name in numbers if name.endswith("against statistics.npz"))
    distance = report["numbers"]["efficientnet_lite0"]["Fréchet distance"]["distance"]
    assert numbers[title]["distance"] == distance == found["headline"][0]["value"]
    assert found["reference_statistics"]["file"] == "statistics.npz"

    whole = (kept / "statistics.npz").read_bytes(), (kept / "radii.npz").read_bytes()
    for name in ("statistics.npz", "radii.npz"):
        (kept / name).write_bytes((kept / name).read_bytes()[:200])
    again = evaluate(stages, folder / "out", wanted(folders), batch_size=8)
    assert again["numbers"] == {"efficientnet_lite0": report["numbers"]["efficientnet_lite0"]}
    assert ((kept / "statistics.npz").stat().st_size, (kept / "radii.npz").stat().st_size) == tuple(map(len, whole))


def test_statistics_of_another_network_are_refused(folders):
    folder, stages, _ = folders
    np.savez(folder / "narrow.npz", mu=np.zeros(7), sigma=np.eye(7))
    with pytest.raises(UserError, match=r"\b1280\b.*\b7\b"):
        evaluate(stages, folder / "out", wanted(folders, reference_statistics=str(folder / "narrow.npz")), batch_size=8)


def test_another_choice_of_captions_is_refused_in_the_same_folder(folders, report):
    folder, stages, _ = folders
    with pytest.raises(UserError, match="captions_sha256"):
        evaluate(stages, folder / "out", wanted(folders, seed=1, samples=13), batch_size=8)


@pytest.mark.thorough
def test_a_list_of_captions_is_a_deviation_and_an_unknown_one_is_refused(folders):
    folder, stages, _ = folders
    (folder / "captions.txt").write_text("patches number 3\ncolours number 3\npatches number 3\n")
    theirs = wanted(folders, captions_file=str(folder / "captions.txt"), features=["pixels"])
    found = evaluate(stages, folder / "listed", theirs, batch_size=8)
    assert any(warning.startswith("not the protocol: ") and "file" in warning for warning in found["warnings"])
    assert len(list((folder / "listed" / "pictures").glob("*.png"))) == 3, "a repeated caption gets another image"
    (folder / "unknown.txt").write_text("a fish\n")
    with pytest.raises(UserError, match=r"1 of 1 .*'a fish'"):
        evaluate(stages, folder / "unknown", wanted(folders, captions_file=str(folder / "unknown.txt")))


@pytest.mark.thorough
def test_a_sweep_keeps_its_points_and_plots_them(folders):
    folder, stages, _ = folders
    request_of = wanted(folders, protocol="training_captions", features=["efficientnet_lite0"], samples=8)
    steps = StepBar()
    cascade = load_planned(command.plan_protocol(stages, "training_captions", {}), 8, steps)
    request = make_request(cascade, folder / "sweep", request_of)
    points = list_points([parse_axis("guidance=1/2"), parse_axis("steps=1")])
    lines = run_sweep(cascade, steps, request, points)
    written = json.loads((folder / "sweep" / "sweep.json").read_text())["points"]
    assert [line["settings"] for line in written] == [{"guidance": "1", "steps": "1"}, {"guidance": "2", "steps": "1"}]
    assert [one["value"] for one in lines[0]["headline"]] != [one["value"] for one in lines[1]["headline"]]
    assert "caption recall@10" in (folder / "sweep" / "pareto.svg").read_text()
    with Image.open(folder / "sweep" / "pareto.png") as image:
        assert image.size[0] > 500
    again = run_sweep(cascade, steps, request, points)
    assert again == lines
