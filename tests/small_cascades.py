"""Two stages with random weights, an 8-px base and a stage to 16 px, as workdirs that commands take."""

import json

import jax
import numpy as np

from configs import own_images
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.training.checkpoints.store import CheckpointStore
from tests.small_networks import ATTENDING

STAGES = ("base", "super_resolution")


def draw_params(stage, seed):
    """Random parameters, those too that begin as zeros: so the network's answer depends on all that it is told."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        values = generator.standard_normal(leaf.shape).astype(np.float32)
        if len(leaf.shape) > 1:
            return 0.4 * values / np.sqrt(np.prod(leaf.shape[:-1]))
        return 0.05 * values + float("scale" in jax.tree_util.keystr(path))

    return jax.tree_util.tree_map_with_path(draw, abstract_params(stage))


def write_cascade(folder):
    """Writes both stages, and returns their workdirs."""
    for number, name in enumerate(STAGES):
        config = own_images.get_config(f"{name},smoke")
        # So that a picture with little noise is left about as it is, by whatever network.
        config.stage.prediction = "v"
        config.network.update(ATTENDING)
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config.to_dict()))
        with CheckpointStore(folder / name / "checkpoints") as checkpoints:
            checkpoints.save_weights(0, draw_params(build_stage(config), number))
    return [folder / name for name in STAGES]
