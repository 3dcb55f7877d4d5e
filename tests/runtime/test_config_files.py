"""Configs by name and by path, from any folder, with their neighbours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import imagen_jax
from configs import own_images, quickstart
from configs.imagen import base_64
from imagen_jax.errors import UserError
from imagen_jax.runtime.config_files import find_bundled_configs, load_config, read_config

CHECKOUT = Path(__file__).parents[2]
EXPERIMENTS = {file for file in (CHECKOUT / "configs").rglob("*.py") if "\ndef get_config(" in file.read_text()}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("own_images:super_resolution", own_images.get_config("super_resolution")),
        ("quickstart", quickstart.get_config()),
        ("imagen/base_64:500m,smoke", base_64.get_config("500m,smoke")),
    ],
)
def test_a_name_is_a_bundled_config_in_any_folder(name, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name).to_dict() == config.to_dict()


def test_each_experiment_has_a_name():
    assert set(find_bundled_configs().values()) == EXPERIMENTS
    assert {"quickstart", "openmoji_classifier", "imagen/super_res_1024"} <= find_bundled_configs().keys()
    assert not {"base", "imagen/recipe"} & find_bundled_configs().keys()


def test_a_path_is_a_file_with_its_neighbours_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in (CHECKOUT / "configs" / "openmoji.py", CHECKOUT / "configs" / "imagen" / "base_64.py"):
        assert load_config(file).stage.resolution == 64
    assert load_config(f"{CHECKOUT}/configs/openmoji.py:super_res_256").stage.resolution == 256


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, source in files.items():
        (folder / f"{name}.py").write_text(source)
    return folder


FROM_NEIGHBOUR = "from . import sizes\n\ndef get_config(size='1'):\n    return sizes.make(int(size))\n"
NEIGHBOUR = "from ml_collections import ConfigDict\n\ndef make(size):\n    return ConfigDict({'size': %s})\n"


def test_a_neighbour_is_imported_without_a_package_and_read_again(tmp_path):
    folder = write(tmp_path / "some folder", mine=FROM_NEIGHBOUR, sizes=NEIGHBOUR % "size")
    assert load_config(f"{folder}/mine.py:3").size == 3
    write(folder, sizes=NEIGHBOUR % "100 * size")
    assert load_config(folder / "mine.py").size == 100
    other = write(tmp_path / "other", mine=FROM_NEIGHBOUR, sizes=NEIGHBOUR % "-size")
    assert load_config(other / "mine.py").size == -1


def test_the_package_of_a_file_is_not_run(tmp_path):
    """It may define flags, or start a whole program."""
    write(tmp_path / "project", __init__="raise RuntimeError")
    write(
        tmp_path / "project" / "configs", __init__="raise RuntimeError", mine=FROM_NEIGHBOUR, sizes=NEIGHBOUR % "size"
    )
    assert load_config(tmp_path / "project" / "configs" / "mine.py").size == 1


def test_values_can_be_set_and_keys_can_not_be_added():
    config = load_config("quickstart:base")
    config.training.steps = 3
    with pytest.raises(AttributeError, match="steps"):
        config.training.stepz = 3
    with pytest.raises(TypeError):
        config.training.steps = "many"


def test_old_keys_of_a_file_get_their_new_names(tmp_path, capsys):
    source = (
        "from ml_collections import ConfigDict\n\ndef get_config(): return ConfigDict({'training': {'accumulate': 2}})"
    )
    folder = write(tmp_path, mine=source)
    assert load_config(folder / "mine.py").training.to_dict() == {"gradient_accumulation": 2}
    assert "gradient_accumulation" in capsys.readouterr().err
    assert read_config(folder / "mine.py").training.to_dict() == {"accumulate": 2}


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("configs/own_images.py:base", ("--config=own_images:base", "imagen-jax copy_configs")),
        ("configs/imagen/base_64.py:2b", ("--config=imagen/base_64:2b", "imagen-jax copy_configs")),
        ("mine.py", ("mine.py", "--config=own_images:base", "imagen-jax copy_configs")),
        ("own_image:base", ("'own_image'", "'own_images'")),
        ("imagen/recipe", ("'imagen/recipe'",)),
        ("quickstart:bse", ("quickstart", "'bse'", "super_resolution")),
        ("folder", ("folder is a folder",)),
        ("gs:" + "//BUCKET/mine.py:base", ("//BUCKET/mine.py", "this machine")),
    ],
)
def test_what_is_missing_names_both_ways(name, facts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(UserError) as raised:
        load_config(name)
    assert all(fact in str(raised.value) for fact in facts), raised.value
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "fact"),
    [
        ("def get_config(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit('left')", "left"),
        ("x = 1", "get_config"),
        ("def get_config(): return 3", "int"),
        ("def get_config(): return {}[2]", "KeyError"),
        ("from . import nowhere", "nowhere"),
        ("import a_module_that_is_nowhere", "a_module_that_is_nowhere"),
    ],
)
def test_an_error_of_a_file_names_it(source, fact, tmp_path):
    folder = write(tmp_path, mine=source)
    with pytest.raises(UserError, match=rf"mine.py.*{fact}"):
        load_config(folder / "mine.py")


def test_an_installed_package_has_the_configs_and_its_types(tmp_path):
    """As a wheel has them: what ``pip install`` copies, in a folder that has no checkout beside it."""
    build = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "imagen_jax" / "py.typed").exists()
    assert {path.name for path in (tmp_path / "site").iterdir()} == {"imagen_jax"}, "nothing else is at the top level"
    program = (
        "import sys, imagen_jax; from imagen_jax.runtime.config_files import find_bundled_configs\n"
        "print(imagen_jax.__file__, len(find_bundled_configs()))\n"
        "for name in find_bundled_configs(): imagen_jax.load_config(name)\n"
        "print('jax' in sys.modules, 'configs' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    package = tmp_path / "site" / "imagen_jax" / "__init__.py"
    assert done.stdout.split() == [str(package), str(len(EXPERIMENTS)), "False", "False"], done.stderr
    assert imagen_jax.load_config is load_config
