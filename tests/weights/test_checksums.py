"""What is exported, and what comes with the package, is read as it was written or refused: no bit flips silently."""

import hashlib
import json
import shutil
import subprocess

import jax
import numpy as np
import pytest

from configs import own_images
from imagen_jax.cascade import checkpoint_export
from imagen_jax.cascade.cascade import load_cascade
from imagen_jax.cascade.experiment import read_model
from imagen_jax.cascade.loading import load_stage
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.errors import UserError
from imagen_jax.pretrained import CASCADES, find_stages
from imagen_jax.weight_formats.formats import import_stage
from imagen_jax.weights.checksums import SUMS, check_checksums
from tests.drawn_params import draw_params

BUNDLED = [folder for name in CASCADES for folder in find_stages([name])]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "base"
    config = own_images.get_config("base,smoke")
    checkpoint_export.write(read_model(config), draw_params(abstract_params(build_stage(config))), 7, folder)
    return folder


def positions(size, seed):
    """The first bytes, which a header begins with, the last one, and others anywhere."""
    return {*range(min(size, 12)), size - 1, *np.random.default_rng(seed).integers(0, size, 20).tolist()}


def flip(file, position, bit):
    with file.open("r+b") as stream:
        stream.seek(position)
        (before,) = stream.read(1)
        stream.seek(position)
        stream.write(bytes([before ^ 1 << bit]))


def read_by_import(folder, tmp_path):
    import_stage("imagen_jax", folder, tmp_path / "imported")


READERS = {
    "load_stage": lambda folder, tmp_path: load_stage(folder),
    "load_cascade": lambda folder, tmp_path: load_cascade([folder]),
    "import_stage": read_by_import,
}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", SUMS])
def test_a_bit_that_flips_anywhere_in_an_export_is_an_error(exported, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    for position in positions((copy / name).stat().st_size, seed=1):
        bit = position % 8
        flip(copy / name, position, bit)
        for read in READERS.values():
            with pytest.raises(UserError, match=rf"copy/({name}|{SUMS})\b"):
                read(copy, tmp_path)
        flip(copy / name, position, bit)
    assert load_stage(copy).step == 7, "as it was, it is read again"


@pytest.mark.parametrize("folder", BUNDLED, ids=lambda folder: folder.name)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", SUMS])
def test_a_bit_that_flips_in_a_bundled_stage_is_an_error(folder, name, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    check_checksums(copy)
    for position in sorted(positions((copy / name).stat().st_size, seed=2))[::4]:
        flip(copy / name, position, 3)
        with pytest.raises(UserError, match=rf"copy/({name}|{SUMS})\b"):
            load_stage(copy)
        flip(copy / name, position, 3)


@pytest.mark.parametrize("folder", BUNDLED, ids=lambda folder: folder.name)
def test_bundled_stages_have_checksums_of_all_files(folder):
    lines = dict(reversed(line.split("  ")) for line in (folder / SUMS).read_text().splitlines())
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.name != SUMS}
    assert lines == files and len(files) == 2


def test_the_usual_program_reads_the_checksums(exported):
    command = ["sha256sum", "--check", "--strict", SUMS]
    checked = subprocess.run(command, cwd=exported, capture_output=True, text=True, check=True)
    assert checked.stdout.splitlines() == ["config.json: OK", "model.safetensors: OK"]


def test_an_export_of_an_earlier_version_has_none_and_is_read(exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    (copy / SUMS).unlink()
    jax.tree.map(np.testing.assert_array_equal, load_stage(copy).params, load_stage(exported).params)


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / SUMS).write_bytes(b""), SUMS),
        (lambda folder: (folder / SUMS).write_text(f"{'0' * 64}  ../other\n"), SUMS),
    ],
)
def test_missing_files_and_damaged_lists_are_named(exported, tmp_path, spoil, name):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    spoil(copy)
    with pytest.raises(UserError, match=name):
        check_checksums(copy)


def test_a_file_that_a_user_changed_is_read_without_its_checksum(exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    config = json.loads((copy / "config.json").read_text())
    config["sampling"]["steps"] = 3
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"config\.json .*{SUMS}\b"):
        load_stage(copy)
    lines = [line for line in (copy / SUMS).read_text().splitlines(keepends=True) if "config.json" not in line]
    (copy / SUMS).write_text("".join(lines))
    assert load_stage(copy).config.sampling.steps == 3
