"""An error of a bucket is one message, from any library; and files in a bucket read as from a disk."""

import errno

import numpy as np
import pytest
import tensorstore
from absl import flags
from gcsfs.retry import HttpError
from ml_collections import ConfigDict

from imagen_jax.cascade.image_files import make_folder, read_png_metadata, save_png
from imagen_jax.errors import UserError
from imagen_jax.evaluation.reports.report import write_report
from imagen_jax.runtime.main import run_guarded
from imagen_jax.storage.buckets import PREFIX
from imagen_jax.storage.paths import array_store, to_path
from imagen_jax.storage.refusals import is_denied
from imagen_jax.training.workdir import keep_config, read_config


@pytest.fixture(autouse=True)
def parsed_flags():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def open_array(folder):
    spec = {"driver": "zarr", "kvstore": array_store(folder), "dtype": "float32", "metadata": {"shape": [2]}}
    tensorstore.open(spec, create=True).result().write(np.ones(2, np.float32)).result()


REQUESTS = {
    "gcsfs writes": lambda bucket: (bucket / "denied").write_bytes(b"x"),
    "tensorstore writes": lambda bucket: open_array(bucket / "denied"),
    "gcsfs deletes": lambda bucket: (bucket / "kept-denied").unlink(),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_an_unexpected_error_of_a_bucket_is_one_message(what, bucket, fake_buckets, capsys):
    fake_buckets.put(bucket.parts[2], "kept-denied", b"x", {})
    fake_buckets.denied.add("denied")
    with pytest.raises(SystemExit) as stop:
        run_guarded(lambda: REQUESTS[what](bucket))
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "gcloud auth application-default login" in line


ERRORS = {
    "a status for now": (ValueError("UNAVAILABLE: Error writing gs:" + "//bucket/x"), True),
    "a server's trouble": (HttpError({"code": 503, "message": "Backend Error"}), True),
    "no connection": (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), True),
    "a file that is not there": (FileNotFoundError("b/bucket/o/x"), False),
    "no right": (OSError("Forbidden: b/bucket/o/x"), False),
    "no login": (HttpError({"code": 401, "message": "Anonymous caller does not have access"}), False),
    "tensorstore without a right": (ValueError("PERMISSION_DENIED: gs:" + "//bucket/x"), False),
}


@pytest.mark.parametrize("what", ERRORS)
def test_only_some_errors_of_a_bucket_may_pass_by_themselves(what):
    error, passing = ERRORS[what]
    assert is_denied(error) is not passing


@pytest.mark.parametrize(("message", "status"), [("UNAVAILABLE: {}/x", 74), ("PERMISSION_DENIED: {}/x", 2)])
def test_a_bucket_that_is_gone_for_now_has_its_own_status(bucket, capsys, message, status):
    def fail():
        raise ValueError(message.format(bucket))

    with pytest.raises(SystemExit) as stop:
        run_guarded(fail)
    assert stop.value.code == status
    assert capsys.readouterr().err.startswith("error: ")


def test_our_own_mistake_is_no_refusal(bucket):
    with pytest.raises(KeyError):
        run_guarded(lambda: {}[bucket.name])


def test_a_workdir_in_a_bucket(bucket, fake_buckets):
    config = ConfigDict({"seed": 0, "training": {"gradient_accumulation": 1, "steps": 5}})
    keep_config(bucket / "run", config)
    keep_config(bucket / "run", config)
    assert read_config(bucket / "run")["training"]["steps"] == 5
    # A run that has a checkpoint can't be continued with another config.
    (bucket / "run" / "checkpoints" / "3" / "state").write_text("as if there were one")
    with pytest.raises(UserError, match=r"config\.seed=0, not 1"):
        keep_config(bucket / "run", ConfigDict({"seed": 1, "training": {"gradient_accumulation": 1, "steps": 5}}))
    with pytest.raises(UserError, match=f"there is no folder {bucket}/none"):
        read_config(bucket / "none")
    fake_buckets.denied.add("closed")
    with pytest.raises(UserError, match=f"{bucket}/closed"):
        keep_config(bucket / "closed", config)
    with pytest.raises(UserError, match="absent"):
        keep_config(to_path(f"{PREFIX}absent/run"), config)


def test_images_and_reports_in_a_bucket(bucket, fake_buckets):
    make_folder(bucket / "out")
    save_png(bucket / "out" / "a.png", np.zeros((4, 4, 3), np.uint8), {"prompt": "红苹果"})
    assert read_png_metadata(bucket / "out" / "a.png") == {"prompt": "红苹果"}
    write_report(bucket / "out" / "report.json", {"good": 1})
    assert [path.name for path in (bucket / "out").iterdir()] == ["a.png", "report.json"]
    fake_buckets.denied.add("closed")
    with pytest.raises(UserError, match=f"{bucket}/closed"):
        make_folder(bucket / "closed")
    for write in (
        lambda: save_png(bucket / "closed.png", np.zeros((4, 4, 3), np.uint8), {}),
        lambda: write_report(bucket / "closed.json", {}),
    ):
        with pytest.raises(UserError, match=f"{bucket}/closed"):
            write()
