"""What tests need that compile for chips that are not here."""

import importlib.util

import pytest

with_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed: extra [tpu]"
)
