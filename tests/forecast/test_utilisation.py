"""The share of the chips' peak that a training reaches."""

import pytest

from configs import quickstart
from imagen_jax.forecast import utilisation
from imagen_jax.forecast.chips import chip_of
from imagen_jax.forecast.utilisation import make_mfu


def test_it_is_computed_for_chips_with_a_known_peak(monkeypatch):
    config = quickstart.get_config("base,smoke")
    assert make_mfu(config) is None, "a CPU"
    monkeypatch.setattr(utilisation, "find_chip", lambda kind: chip_of("v4"))
    assert 0 < make_mfu(config)(1.0) < 1e-4
    monkeypatch.setattr(utilisation, "count_training_operations", lambda config: 275e12)
    assert make_mfu(config)(0.5) == pytest.approx(0.5 * config.training.batch_size / 8)
