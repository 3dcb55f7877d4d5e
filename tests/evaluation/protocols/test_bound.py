"""The bound of a stage on images of a data set."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from imagen_jax.array_types import HostPixels
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.loading import TrainedStage
from imagen_jax.cascade.sampling_settings import SamplingSettings
from imagen_jax.data.stored_images import StoredImage
from imagen_jax.diffusion.schedules import linear
from imagen_jax.errors import UserError
from imagen_jax.evaluation.protocols.bound import measure_bound
from imagen_jax.evaluation.protocols.references import Reference
from imagen_jax.sampling.step_rules import ddim
from imagen_jax.sampling.thresholding import no_threshold
from tests.stages_of_functions import stage_of

CONFIG = read_experiment(quickstart.get_config("base,smoke"))
SETTINGS = SamplingSettings(2, ddim(), 1.0, no_threshold)


class Grey(Reference):
    """Images of one grey each: image n has the number 20 n everywhere."""

    def image(self, number: int, resolution: int) -> HostPixels:
        return np.full((resolution, resolution, 3), 20 * number, np.uint8)


REFERENCE = Grey("greys", "", [("grey",)] * 5, lambda number: StoredImage("", (), b""))


def trained(denoise, **others):
    stage = stage_of(denoise, (4, 4, 3), SETTINGS, schedule=linear, **others)
    return TrainedStage("stage", CONFIG, stage, {}, 0)


def test_a_stage_that_knows_the_image_needs_few_bits_and_one_that_does_not_needs_many():
    knows = trained(lambda params, conditions: lambda noisy, log_snr: jnp.full_like(noisy, 40 / 127.5 - 1))
    bounds = [measure_bound(knows, None, REFERENCE, [number]) for number in (2, 4)]
    assert bounds[0].total < 2 and bounds[1].total > 8
    assert len(bounds[0].steps) == 999 and json.loads(json.dumps(bounds[0].to_dict()))["images"] == 1
    parts = bounds[1].prior + bounds[1].data + sum(bounds[1].steps)
    assert bounds[1].total == pytest.approx(parts, rel=1e-4)


def test_small_images_are_told_and_batches_make_no_difference_to_how_many_there_are():
    def repeat(params, conditions):
        return lambda noisy, log_snr: conditions.low_resolution.image.repeat(2, axis=1).repeat(2, axis=2)

    stage = trained(repeat, low_resolution=2)
    bound = measure_bound(stage, None, REFERENCE, range(5), batch_size=2)
    assert bound.images == 5 and bound.total < 3 and bound.error < 1


def test_no_images_are_an_error():
    with pytest.raises(UserError, match="validation"):
        measure_bound(trained(lambda *_: None), None, REFERENCE, [])
