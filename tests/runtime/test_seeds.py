"""Seeds: 0 to 2³² - 1 give images of their own, as they always did; any other is refused wherever it is given."""

import jax
import numpy as np
import pytest

from configs import openmoji_classifier, own_images
from imagen_jax.cascade.cascade import ImageRequest, load_cascade
from imagen_jax.cascade.image_files import file_name
from imagen_jax.cascade.stage_inputs import keys_of_prompts
from imagen_jax.cascade.stage_task import make_stage_task
from imagen_jax.data.batches import make_batches
from imagen_jax.data.sources.synthetic import synthetic_parts
from imagen_jax.data.transforms import make_example
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.requests import Wanted
from imagen_jax.runtime.seeds import MAX_SEED, check_seed
from imagen_jax.train import train_classifier
from imagen_jax.training.compiled_training import make_training
from imagen_jax.web.orders import Limits, read_order
from tests.forked_programs import run_forked
from tests.small_cascades import write_cascade

KEYS = {
    0: [[4254791214, 4012692516], [3924516879, 2066946769]],
    1: [[3555606649, 985096404], [183925962, 3996043336]],
    2**31: [[3681334086, 2039487866], [662692637, 3194082750]],
    2**32 - 1: [[2037867966, 1830536873], [765284285, 2552835049]],
}
"""Written down before any seed was refused."""

OTHERS = [-1, 2**32, 2**53, -(2**63), 2**63, 10**30]
NO_NUMBERS = [1.5, "1", None, True, float("nan"), [1], "9" * 3000]


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    return load_cascade(write_cascade(tmp_path_factory.mktemp("cascade"))[:1], {"steps": 1}, batch_size=1)


def train_config(seed, config):
    with config.ignore_type():
        config.seed = seed
    return config


def start_training(seed):
    config = train_config(seed, own_images.get_config("base,smoke"))
    make_training(make_stage_task(config))


ENTRIES = {
    "check": lambda seed, cascade, folder: check_seed(seed),
    "keys": lambda seed, cascade, folder: keys_of_prompts(seed, ["a"], [0]),
    "draw": lambda seed, cascade, folder: next(cascade.draw(["a"], seed)),
    "sample": lambda seed, cascade, folder: cascade.sample("a", seed=seed),
    "evaluate": lambda seed, cascade, folder: Wanted(seed=seed),
    "page": lambda seed, cascade, folder: read_order({"prompt": "a", "seed": seed}, cascade.stages, Limits()),
    "train": lambda seed, cascade, folder: start_training(seed),
    "train_classifier": lambda seed, cascade, folder: train_classifier(
        train_config(seed, openmoji_classifier.get_config()), folder
    ),
    "batches": lambda seed, cascade, folder: make_batches([None], make_example(8), 1, seed=seed),
    "synthetic": lambda seed, cascade, folder: synthetic_parts(seed=seed),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("seed", OTHERS, ids=repr)
def test_any_other_seed_is_refused_and_nothing_is_written(cascade, tmp_path, entry, seed):
    with pytest.raises(UserError, match=r"seed.*4294967295"):
        ENTRIES[entry](seed, cascade, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("entry", ["check", "page"])
@pytest.mark.parametrize("seed", [*NO_NUMBERS, np.int64(-1), np.float32(1)], ids=lambda seed: repr(seed)[:20])
def test_so_is_a_value_that_is_not_a_whole_number(cascade, tmp_path, entry, seed):
    with pytest.raises(UserError, match=r"seed .{1,80}4294967295"):
        ENTRIES[entry](seed, cascade, tmp_path)


@pytest.mark.parametrize("seed", OTHERS)
def test_so_is_the_second_seed_of_an_interpolation(seed):
    with pytest.raises(UserError, match=r"to_seed .*4294967295"):
        ImageRequest("a", to_seed=seed)


@pytest.mark.parametrize("flag", ["sample --seed", "sample --prompt=a --to_seed", "evaluate --seed"])
@pytest.mark.parametrize("seed", [-1, 2**32, 2**63])
def test_a_flag_is_refused_before_anything_is_loaded(tmp_path, flag, seed):
    command, *arguments = f"{flag}={seed}".split()
    finished = run_forked(f"imagen_jax.{command}", *arguments, f"--out={tmp_path / 'out'}", "--stages=nowhere")
    assert finished.returncode == 2 and "Traceback" not in finished.stderr, finished.stderr
    last = finished.stderr.strip().splitlines()[-1]
    assert f"seed={seed}" in last and "[0, 4294967295]" in last
    assert list(tmp_path.iterdir()) == []


def test_every_seed_in_range_keeps_its_keys():
    assert max(KEYS) == MAX_SEED
    for seed, keys in KEYS.items():
        assert jax.random.key_data(keys_of_prompts(seed, ["panda", "un café"], [0, 3])).tolist() == keys
        for kind in (np.int64, np.uint32, np.asarray):
            assert check_seed(kind(seed)) == seed and type(check_seed(kind(seed))) is int


def test_the_page_takes_whole_numbers_as_json_has_them(cascade):
    for seed in (0, 7, 7.0, MAX_SEED, float(MAX_SEED)):
        order = read_order({"prompt": "a", "seed": seed}, cascade.stages, Limits())
        assert order.seed == order.page_settings["seed"] == seed and type(order.seed) is int


def test_files_of_other_seeds_have_other_names():
    assert len({file_name("panda", seed, index) for seed in KEYS for index in (0, 1)}) == 2 * len(KEYS)
