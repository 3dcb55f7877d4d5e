"""A folder of prepared data that the tests of one worker share, and a small folder of a user's own images."""

import pytest

from tests.compiled_programs import kept_in
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
    with kept_in(compiled):
        yield
