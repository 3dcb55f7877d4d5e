"""The keys that all experiments start from, and that importing them is cheap."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import quickstart
from configs.base import base, classifier_base
from configs.imagen import recipe
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.config.sections import CLASSIFIER_SECTIONS, SECTIONS
from imagen_jax.errors import UserError
from imagen_jax.runtime.main import parse_flags

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize(("make", "sections"), [(base, SECTIONS), (classifier_base, CLASSIFIER_SECTIONS)])
def test_every_field_is_a_key(make, sections):
    config = make()
    assert set(config) == {"seed", *sections}
    for name, kind in sections.items():
        assert set(config[name]) == {field.name for field in dataclasses.fields(kind)} - {kind.rest}


def test_what_no_default_fits_waits_for_the_experiment():
    config = base()
    assert config.training.steps is None
    config.training.steps = 5
    assert config.training.steps == 5
    with pytest.raises(TypeError):
        config.training.batch_size = "many"
    with pytest.raises(UserError, match=r"config\.data\.source "):
        read_experiment(config)


def test_each_call_makes_its_own():
    base().data.options.folder = "one"
    base().training.max_rewinds = 9
    assert base().data.options == ConfigDict() and base().training.max_rewinds == 3


def test_the_command_line_may_set_every_key(config_flag, monkeypatch):
    arguments = [
        "train",
        "--config=configs/quickstart.py:base,smoke",
        "--config.training.max_rewinds=5",
        "--config.training.steps=7",
        "--config.data.data_dir=elsewhere",
        "--config.preview.prompts=('a', 'b')",
    ]
    monkeypatch.setattr(sys, "argv", list(arguments))
    parse_flags(arguments)
    experiment = read_experiment(config_flag.config)
    assert (experiment.training.max_rewinds, experiment.training.steps) == (5, 7)
    assert (experiment.data.data_dir, experiment.preview.prompts) == ("elsewhere", ("a", "b"))


def test_it_may_set_those_that_the_experiment_leaves_open(config_flag, monkeypatch, tmp_path):
    file = tmp_path / "open.py"
    file.write_text("from configs.base import base\n\ndef get_config():\n    return base()\n")
    arguments = ["train", f"--config={file}", "--config.training.steps=7", "--config.optimizer.learning_rate=1e-3"]
    monkeypatch.setattr(sys, "argv", list(arguments))
    parse_flags(arguments)
    assert (config_flag.config.training.steps, config_flag.config.optimizer.learning_rate) == (7, 1e-3)
    with pytest.raises(UserError, match=r"config\.data\.source "):
        read_experiment(config_flag.config)


def test_a_config_file_is_read_without_jax():
    program = "import sys; from configs import own_images; own_images.get_config(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_config_file_loads_from_anywhere(tmp_path):
    """As the console command does it, which has no checkout on its path."""
    file = CHECKOUT / "configs" / "quickstart.py"
    program = f"import runpy; print(runpy.run_path({str(file)!r})['get_config']('base').training.steps)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(tmp_path / "package")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "imagen_jax").symlink_to(CHECKOUT / "imagen_jax")
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "1000", done.stderr


def test_one_config_can_be_updated_from_another():
    config = quickstart.get_config("base")
    config.sampling.update(recipe.common().sampling)
    config.training.update(quickstart.get_config("super_resolution").training)
    assert (config.sampling.sampler, config.training.steps) == ("ancestral", 700)
    copy = ConfigDict(config.training)
    copy.steps = 3
    assert config.training.steps == 700
