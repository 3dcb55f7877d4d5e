"""A folder of prepared data that the tests of one worker share, and a small folder of a user's own images."""

import os

import pytest

from tests.compiled_programs import compiling_once, kept_in
from tests.end_to_end.smoke_runs import draw_own_images


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def own_images(tmp_path_factory):
    return draw_own_images(tmp_path_factory.mktemp("own_images"))


@pytest.fixture(scope="session")
def trainings():
    """Those of this process, by their programs."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def keep_compiled(trainings):
    """Keeps small programs too: a run that is cut and resumed takes its step again, and the same samplers.

    Programs that are started, with each what they compile themselves, are in ``test_preemption``,
    ``test_killed_runs`` and others.
    """
    with kept_in(os.environ["JAX_COMPILATION_CACHE_DIR"]), pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagen_jax.train.make_training", compiling_once(trainings))
        yield
