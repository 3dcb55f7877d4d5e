"""Compiles without a cache: JAX can't read a program for chips that are not here back."""

import pytest

from tests.compiled_programs import kept_in


@pytest.fixture(scope="module", autouse=True)
def keep_nothing():
    with kept_in(None):
        yield
