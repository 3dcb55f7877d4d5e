"""A folder of prepared data that the tests of one worker share, and a small folder of a user's own images."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.end_to_end.smoke_runs import draw_own_images


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def own_images(tmp_path_factory):
    return draw_own_images(tmp_path_factory.mktemp("own_images"))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module", autouse=True)
def keep_compiled(compiled):
    """Keeps compiled programs, as the command lines do: a run that is cut and resumed compiles the same ones thrice.

    In these files only: programs for chips that are not here can't be read back.
    """
    keep = {
        "jax_compilation_cache_dir": str(compiled),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in keep}
    for name, value in keep.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
