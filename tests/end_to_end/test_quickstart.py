"""The quickstart's smoke size trains, is cut and resumed, samples, and is evaluated, on a disk and in a bucket.

Both in one file, for the second test then finds the first one's programs compiled. Only with ``--thorough`` are
there a super-resolution stage, the evaluation and the bucket.
"""

import json
import re

import numpy as np
import pytest
from PIL import Image

from configs import own_images as own_images_config
from configs import quickstart
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.evaluate import evaluate
from imagen_jax.evaluation.protocols.requests import Wanted
from imagen_jax.train import train_to_end as train
from tests.end_to_end.smoke_runs import copy_after_first_step, losses, plain, smoke
from tests.evaluation.reports.html_outline import Outline, check_self_contained
from tests.few_drawings import few_drawings

VARIANTS = ("base", "super_resolution")

FEWER_LEVELS = {
    "base": {"channels": (8,), "blocks": (1,), "strides": (1,), "self_attention": (True,), "cross_attention": (False,)},
    "super_resolution": {
        "channels": (8,),
        "blocks": (1,),
        "strides": (2,),
        "self_attention": (False,),
        "cross_attention": (True,),
    },
}
"""One level of ``network`` for each stage, together with both kinds of attention and of convolutions.

Compiling is most of the time.
"""

pytestmark = pytest.mark.slow(seconds=80)


@pytest.fixture(autouse=True)
def every_tenth_drawing():
    with few_drawings():
        yield


@pytest.mark.usefixtures("as_users_have_it")
def test_quickstart_trains_resumes_bit_for_bit_and_samples(tmp_path, data_dir, own_images, caplog, capsys, request):
    thorough = request.config.getoption("thorough")
    variants = VARIANTS if thorough else VARIANTS[:1]
    workdirs = [tmp_path / variant for variant in variants]
    for variant, workdir in zip(variants, workdirs, strict=True):
        config = smoke(quickstart.get_config, variant, data_dir, own_images)
        config.network.update(FEWER_LEVELS[variant])
        whole = train(config, workdir)
        assert int(whole.step) == 2 and set(losses(workdir)) == {1, 2}
        check_page(workdir)
        check_resumed(config, whole, workdir, capsys)

    cascade = load_cascade(workdirs, batch_size=2)
    images = next(cascade.draw(["red apple", "panda"]))
    assert [one.shape for one in images] == [(2, 8, 8, 3), (2, 16, 16, 3)][: len(variants)]
    last = images[-1]
    assert np.all(np.isfinite(last)) and np.abs(last).max() <= 1
    assert not np.allclose(last[0], last[1], atol=1e-4), "two prompts, one image"
    again = next(cascade.draw(["tree", "red apple"]))[-1]
    np.testing.assert_allclose(again[1], last[0], atol=1 / 255, err_msg="an image depends on its neighbours")

    if thorough:
        check_report(workdirs, tmp_path / "out")

    caplog.clear()
    long_prompt = "a red apple " * 40
    next(cascade.draw([long_prompt]))
    warnings = [record.getMessage() for record in caplog.records if "tokens" in record.getMessage()]
    assert len(warnings) == 1 and repr(long_prompt) in warnings[0], "all stages and the filled batch warn as one"


def check_page(workdir):
    assert sorted(path.name for path in (workdir / "previews").iterdir()) == ["0000002.png"]
    page = Outline((workdir / "run.html").read_text(encoding="utf-8"))
    check_self_contained(page)
    assert "Loss by noise level" in [heading.text for heading in page.all("h3")]
    assert page.all("img", alt="Preview of step 2")


def check_resumed(config, whole, workdir, capsys):
    """What was cut after its first step goes on bit for bit, even where the page can't be written."""
    cut = copy_after_first_step(workdir, workdir.with_name(f"{workdir.name}_cut"))
    (cut / "run.html").unlink()
    (cut / "run.html").mkdir()
    capsys.readouterr()
    resumed = train(config, cut)
    assert "run.html can't be written" in capsys.readouterr().err
    assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(resumed), strict=True))
    assert losses(workdir) == losses(cut)


def check_report(workdirs, out):
    report = evaluate([str(one) for one in workdirs], out, Wanted(features=["pixels"], samples=4), batch_size=2)
    saved = json.loads((out / "report.json").read_text())
    assert saved["caption_recall_at_10"] == report["caption_recall_at_10"]
    assert {path.name for path in out.iterdir()} == {
        "captions.jsonl", "features", "loss.png", "pictures", "recall.png", "report.html", "report.json"
    }  # fmt: skip


def make_config(images, data):
    """The quickstart's base on images that are quickly made."""
    config = own_images_config.get_config("base,smoke")
    config.data.data_dir, config.data.options.folder = str(data), str(images)
    return config


@pytest.mark.thorough
def test_a_run_in_a_bucket_is_the_run_on_a_disk(tmp_path, own_images, bucket, fake_buckets, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    objects = fake_buckets.buckets[bucket.parts[2]]
    for file in own_images.iterdir():
        (bucket / "images" / file.name).write_bytes(file.read_bytes())

    whole = train(make_config(own_images, tmp_path / "data"), tmp_path / "base")
    workdir = bucket / "runs" / "base"
    config = make_config(bucket / "images", bucket / "data")
    config.training.steps = 1
    train(config, workdir)
    config.training.steps = 2
    resumed = train(config, workdir)
    assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(resumed), strict=True))
    assert losses(workdir) == losses(tmp_path / "base")
    assert re.search(rf"{workdir} .*\bstep 1 of 2\.", capsys.readouterr().out)
    kept = {name.removeprefix("runs/base/").split("/")[0] for name in objects if name.startswith("runs/base/")}
    assert kept == {"began.json", "checkpoints", "config.json", "metrics.jsonl", "previews", "run.html"}
    assert {name.split("/")[3] for name in objects if name.startswith("runs/base/checkpoints/")} == {"1", "2"}

    again = train(config, workdir)
    assert re.search(rf"{workdir} .*\b2 steps", capsys.readouterr().out)
    assert all(np.array_equal(a, b) for a, b in zip(plain(whole), plain(again), strict=True))

    (ours,) = next(load_cascade([tmp_path / "base"], batch_size=2).draw(["panda", "red apple"]))
    (theirs,) = next(load_cascade([str(workdir)], batch_size=2).draw(["panda", "red apple"]))
    assert np.array_equal(ours, theirs)

    out = bucket / "out"
    report = evaluate([str(workdir)], out, Wanted(features=["pixels"], samples=4), batch_size=2)
    assert report["stages"]["base"]["steps"] == 2
    assert {"out/report.json", "out/report.html", "out/loss.png", "out/recall.png"} <= set(objects)
    with (out / "recall.png").open("rb") as file:
        assert Image.open(file).size[0] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "data"], "a folder of this machine came of it"
    assert not [name for name in objects if "unfinished" in name]
