"""Our side of ``tests.benchmarks.peers``: the train step and the cascade as the commands make them.

python -m tests.benchmarks.peers_ours FOLDER {deepfloyd_unet, efficient_unet, unet} {prepare, train, sample} BEGAN

Prepared after the peer has been, are the imported network, checked against what the peer's answers, and networks whose
operations are those of the peer's.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import quickstart
from imagen_jax.array_types import Text
from imagen_jax.cascade.cascade import Cascade, load_cascade
from imagen_jax.cascade.checkpoint_export import ImportChoices
from imagen_jax.cascade.experiment import read_model
from imagen_jax.cascade.loading import load_stage
from imagen_jax.cascade.stage import abstract_params, build_stage, initial_params
from imagen_jax.cascade.stage_task import make_stage_task
from imagen_jax.diffusion.conditions import Conditions
from imagen_jax.forecast.flops import count_operations
from imagen_jax.forecast.stage_programs import forward_program
from imagen_jax.runtime.main import enable_compilation_cache
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.training.compiled_training import make_training
from imagen_jax.training.workdir import keep_config, read_config
from imagen_jax.weight_formats import deepfloyd_if
from imagen_jax.weight_formats.formats import import_stage
from tests.benchmarks.peers_work import Work, note, read_facts, read_work, repeat, report

LEARNING_RATE = 1e-4
IF_GUIDANCE = 7.0
README_GUIDANCE = 3.0
MAX_ATTEMPTS = 6
CLOSE = 1e-3
"""Of a network's answers to the peer's, whose size is about one."""


def common_config(work: Work) -> ConfigDict:
    """The quickstart's config, with the noise predicted and Adam, as the peers do."""
    config = quickstart.get_config("base")
    config.stage.update({"resolution": work.resolution, "prediction": "eps"})
    config.training.batch_size = work.batch_size
    config.training.time_exponent = 1.0
    config.optimizer = ConfigDict(
        {"name": "adam", "learning_rate": LEARNING_RATE, "warm_up_steps": 1, "decay_steps": 1000, "clip_norm": 1.0}
    )
    return config


def imported_config(folder: Path, work: Work) -> ConfigDict:
    """Of training the network that the peer wrote."""
    read = deepfloyd_if.read_config(folder / "pipeline", ImportChoices(text_encoder=folder / "t5"))
    config = common_config(work)
    config.network = ConfigDict(read.network.to_dict())
    # The pipeline's network learns its variance, and is the same otherwise.
    config.network.out_channels = 3
    config.stage.update(read.stage.to_dict())
    config.text = ConfigDict(read.text.to_dict())
    config.text.null = "zeros"
    return config


def efficient_unet(width: int) -> dict[str, Any]:
    """Half of Imagen's blocks, at the peer's resolutions and with attention where the peer has it."""
    return {
        "name": "efficient_unet",
        "channels": (width, 2 * width, 4 * width, 8 * width),
        "blocks": (1, 2, 4, 4),
        "strides": (1, 2, 2, 2),
        "self_attention": (False, True, True, True),
        "cross_attention": (False,) * 4,
        "heads": 8,
        "text_heads": 8,
        "dtype": "float32",
    }


def unet(width: int) -> dict[str, Any]:
    """Imagen's base, narrower."""
    return {
        "name": "unet",
        "channels": width,
        "channel_multipliers": (1, 2, 3, 4),
        "blocks_per_level": 3,
        "attention_resolutions": (32, 16, 8),
        "head_channels": width // 2,
        "text_heads": 8,
        "dtype": "float32",
    }


SIZED: dict[str, Callable[[int], dict[str, Any]]] = {"efficient_unet": efficient_unet, "unet": unet}


def sized_config(name: str, width: int, work: Work) -> ConfigDict:
    """Of a network of ours, and sampling as the peer's: ancestral, dynamic thresholds, the same guidance."""
    config = common_config(work)
    config.network = ConfigDict(SIZED[name](width))
    config.text.update({"length": work.text_length, "width": work.text_width})
    config.sampling.update(
        {
            "sampler": "ancestral",
            "steps": work.sample_steps,
            "guidance": README_GUIDANCE,
            "thresholding": "dynamic",
            "percentile": 95.0,
        }
    )
    return config


def operations_of(config: ConfigDict) -> int:
    """Of one image through the network."""
    program = forward_program(build_stage(config))
    return count_operations(program.function, *program.arguments)


def find_width(name: str, work: Work, operations: int) -> int:
    """The width, a multiple of 8, at which a network's operations come nearest to so many.

    They grow about as its square.
    """
    tried: dict[int, int] = {}
    width = 64
    for _ in range(MAX_ATTEMPTS):
        if width in tried:
            break
        tried[width] = operations_of(sized_config(name, width, work))
        width = max(8, 8 * round(width * (operations / tried[width]) ** 0.5 / 8))
    return min(tried, key=lambda one: abs(np.log(tried[one] / operations)))


def describe(folder: Path, name: str, config: ConfigDict) -> None:
    """Notes a network's size."""
    sizes = jax.tree.leaves(abstract_params(build_stage(config)))
    parameters = sum(int(np.prod(leaf.shape)) for leaf in sizes)
    network = {key: value for key, value in config.network.to_dict().items() if key not in ("name", "dtype")}
    note(folder, name, operations=operations_of(config), parameters=parameters, network=network)


def prepare(folder: Path, name: str, work: Work) -> None:
    """Imports the peer's network, or makes one as large as the peer's.

    Raises:
        ValueError: the imported network answers otherwise than the peer's.
    """
    if name == "deepfloyd_unet":
        config = imported_config(folder, work)
        difference = compare_answers(folder, config)
        if not difference < CLOSE:
            raise ValueError(f"the imported network's answer differs from the peer's by {difference}")
        describe(folder, name, config)
        note(folder, name, difference=difference)
        import_stage("deepfloyd_if", folder / "pipeline", folder / name, ImportChoices(text_encoder=folder / "t5"))
        return
    config = sized_config(name, find_width(name, work, read_facts(folder)["imagen_pytorch"]["operations"]), work)
    describe(folder, name, config)
    params = jax.jit(lambda: initial_params(build_stage(config), jax.random.key(0)))()
    with CheckpointStore(folder / name / "checkpoints") as checkpoints:
        checkpoints.save_weights(0, params)
    keep_config(folder / name, config)


def compare_answers(folder: Path, config: ConfigDict) -> float:
    """The largest difference between what the imported network and the peer's say of one noisy image."""
    stage = build_stage(config)
    params = deepfloyd_if.read_params(folder / "training", read_model(config))
    with np.load(folder / "training" / "answer.npz") as answer:
        noisy, text, theirs = (answer[name] for name in ("noisy", "text", "answer"))
    text = Text(jnp.asarray(text), jnp.ones(text.shape[:2], bool))
    # The network alone, which is told the step's number.
    ours = jax.jit(stage.network.apply)(
        {"params": params}, jnp.asarray(noisy.transpose(0, 2, 3, 1)), jnp.full((1,), 500.0), Conditions(text=text)
    )
    return float(np.abs(np.asarray(ours).transpose(0, 3, 1, 2) - theirs).max())


def train(folder: Path, name: str, work: Work) -> Callable[[], Any]:
    """The step of ``imagen_jax.train``: Adam, gradients clipped, an average kept, numbers checked."""
    imported = name == "deepfloyd_unet"
    config = imported_config(folder, work) if imported else ConfigDict(read_config(folder / name))
    training = make_training(make_stage_task(config))
    state = training.make_state()
    if imported:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, training.state.params)
        params = jax.device_put(deepfloyd_if.read_params(folder / "training", read_model(config)), shardings)
        state = state._replace(params=params, ema_params=jax.tree.map(jnp.copy, params))
    step = training.compile()
    generator = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        numbers = generator.uniform(-1.0, 1.0, leaf.shape).astype(np.float32)
        values = np.ones(leaf.shape, bool) if leaf.dtype == bool else numbers.astype(leaf.dtype)
        return jax.device_put(values, leaf.sharding)

    batch = jax.tree.map(fill, training.batch)

    def act() -> float:
        nonlocal state
        state, metrics = step(state, batch)
        return float(metrics["loss"])

    return act


class GivenText:
    """A text encoder that has its embeddings already."""

    name = "given"
    max_tokens = 1000

    def __init__(self, width: int) -> None:
        self.width = width

    def encode(self, captions: Sequence[str], length: int | None = None) -> Text:
        """Random ones, of tokens that all count."""
        shape = (len(captions), length or 1, self.width)
        numbers = np.random.default_rng(0).standard_normal(shape, np.float32)
        return Text(jnp.asarray(numbers), jnp.ones(shape[:2], bool))


def sample(folder: Path, name: str, work: Work) -> Callable[[], Any]:
    """Pictures as ``imagen_jax.sample`` draws them."""
    if name == "deepfloyd_unet":
        cascade = load_cascade([folder / name], {"steps": work.sample_steps, "guidance": IF_GUIDANCE}, work.pictures)
    else:
        cascade = Cascade([load_stage(folder / name)], GivenText(work.text_width), {}, work.pictures)
    return lambda: next(cascade.draw(work.prompts))


def run(folder: Path, contender: str, task: str, work: Work, began: float) -> str:
    """Does a task and returns the line about it."""
    if task == "train":
        return report(contender, task, work.batch_size, repeat(train(folder, contender, work), work.train_steps, began))
    return report(contender, task, work.pictures, repeat(sample(folder, contender, work), 1 + work.draws, began))


def main() -> None:
    """Does what the command line says."""
    began = time.time() if len(sys.argv) < 5 else float(sys.argv[4])
    folder, contender, task = Path(sys.argv[1]).absolute(), sys.argv[2], sys.argv[3]
    enable_compilation_cache()
    work = read_work(folder)
    if task == "prepare":
        prepare(folder, contender, work)
    else:
        print(run(folder, contender, task, work, began))


if __name__ == "__main__":
    main()
