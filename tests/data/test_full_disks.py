"""A disk that fills while data are written: one message, and the same call continues when there is room.

The first test fills a real disk, a tmpfs of every small size in turn, where the system lets us mount one.
"""

import errno
import hashlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from imagen_jax.data.preparation.builder import prepare_data
from imagen_jax.data.preparation.preparation import Preparation, prepare
from imagen_jax.errors import ForNowError, UserError
from imagen_jax.storage.refusals import disk_error_code, explaining_disk
from tests.data.part_sources import draw, encode, parts
from tests.tiers import thorough_except

FULL = "No space left on device"

SWEEP = """
import subprocess, sys
from pathlib import Path
from imagen_jax.errors import UserError
from tests.data.test_full_disks import MAKERS, contents_of

make, disk, images = MAKERS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
mount = lambda options: subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
whole = contents_of(make(images.parent / "reference", images))
refused = 0
for size in range(4, 4000, int(sys.argv[4])):
    mount(f"size={size}k")
    try:
        make(disk / "data", images)
        break
    except UserError as error:
        assert "No space left on device" in str(error), error
        refused += 1
    mount("remount,size=64m")
    assert contents_of(make(disk / "data", images)) == whole, size
    subprocess.run(["umount", disk], check=True)
print("refused", refused)
"""


def make_prepared(out, images):
    prepare(Preparation("pictures", {}, "Ours, CC0", parts(40)), out, workers=0)
    return out


def make_rendered(out, images):
    return prepare_data("folder", 8, out, folder=images)


MAKERS = {"prepared": make_prepared, "rendered": make_rendered}


def contents_of(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.png").write_bytes(encode(draw(number)))
        (folder / f"{number}.txt").write_text(f"image {number}")
    return folder


@pytest.fixture
def namespace(tmp_path):
    """The beginning of a command that may mount disks which no other process sees."""
    (tmp_path / "disk").mkdir()
    for options in (["-m"], ["-Urm"]):
        command = ["unshare", *options, "mount", "-t", "tmpfs", "tmpfs", tmp_path / "disk"]
        try:
            if subprocess.run(command, capture_output=True).returncode == 0:
                return ["unshare", *options]
        except FileNotFoundError:
            break
    pytest.skip("this system lets no test mount a disk")


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "step", "minimum"), [("prepared", 12, 8), ("rendered", 4, 4)])
def test_a_disk_of_any_size_ends_in_a_sentence_and_the_same_call_continues(
    namespace, tmp_path, images, kind, step, minimum
):
    command = [*namespace, sys.executable, "-c", SWEEP, kind, tmp_path / "disk", images, str(step)]
    checkout = str(Path(__file__).parents[2])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": checkout})
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) >= minimum


ERRORS = {
    "the system": lambda: OSError(errno.ENOSPC, FULL),
    "ArrayRecord": lambda: RuntimeError(f"write() failed: {FULL}; writing x; at byte 0; Failed to close chunk_writer"),
    "NumPy": lambda: OSError("1536 requested and 1024 written"),
    "TFDS": lambda: RuntimeError(f'Failed to finalize writing of split "train": write() failed: {FULL}'),
    "safetensors": lambda: ValueError(f"Error while serializing: I/O error: {FULL} (os error 28)"),
    "tensorstore": lambda: ValueError("RESOURCE_EXHAUSTED: Error writing x [os_error_code='28']"),
}

WRITES = {
    "prepared": [
        "imagen_jax.data.preparation.conversion.ShardWriter.write",
        "imagen_jax.data.preparation.conversion.ShardWriter.close",
        "imagen_jax.data.preparation.conversion.np.save",
        "imagen_jax.data.preparation.conversion.write_lines",
        "imagen_jax.data.preparation.conversion.write_json",
        "imagen_jax.data.preparation.conversion.sync_all",
        "imagen_jax.data.preparation.preparation.write_json",
        "imagen_jax.data.preparation.preparation.link_or_copy",
        "imagen_jax.data.preparation.preparation.write_lines",
        "imagen_jax.data.preparation.preparation.write_dataset_info",
        "imagen_jax.data.preparation.preparation.sync_all",
        "imagen_jax.data.preparation.preparation.sync",
    ],
    "rendered": [
        "imagen_jax.data.preparation.builder.create_folder",
        "imagen_jax.data.preparation.builder.CaptionedImages.download_and_prepare",
        "imagen_jax.data.preparation.builder.write_json",
        "imagen_jax.data.preparation.builder.put_in_place",
    ],
}


@pytest.mark.parametrize("library", ERRORS)
def test_a_full_disk_is_recognised_in_the_error_of_any_library(library):
    assert disk_error_code(ERRORS[library]()) == errno.ENOSPC
    with pytest.raises(UserError, match=rf"^x can't be written \({FULL}\): make room$") as raised:
        with explaining_disk("x can't be written", "make room"):
            raise ERRORS[library]()
    assert not raised.value.for_now


@pytest.mark.parametrize("error", [RuntimeError("device"), ValueError("3 requested and 2 written"), KeyError("space")])
def test_other_errors_are_no_disks(error):
    assert disk_error_code(error) is None
    with pytest.raises(type(error)), explaining_disk("x can't be written", "make room"):
        raise error


def test_what_may_pass_by_itself_is_for_now():
    with pytest.raises(ForNowError, match="Input/output error"), explaining_disk("x can't be written", "wait"):
        raise RuntimeError("read() failed: Input/output error; reading y")


def resolve(path):
    """The module or class that holds what a path names, and its name there."""
    holder, name = path.rsplit(".", 1)
    return pkgutil.resolve_name(holder), name


@pytest.mark.parametrize(("kind", "write"), [(kind, write) for kind, writes in WRITES.items() for write in writes])
@pytest.mark.parametrize("library", thorough_except(["ArrayRecord"], ["the system", "ArrayRecord", "NumPy"]))
def test_a_write_that_has_no_room_is_an_error_and_done_again(tmp_path, images, monkeypatch, kind, write, library):
    holder, name = resolve(write)
    written = getattr(holder, name)

    def fail(*arguments, **options):
        if name == "close":
            written(*arguments, **options)
        raise ERRORS[library]()

    with monkeypatch.context() as patch:
        patch.setattr(holder, name, fail)
        with pytest.raises(UserError, match=FULL):
            MAKERS[kind](tmp_path / "data", images)
    whole = contents_of(MAKERS[kind](tmp_path / "reference", images))
    assert contents_of(MAKERS[kind](tmp_path / "data", images)) == whole
