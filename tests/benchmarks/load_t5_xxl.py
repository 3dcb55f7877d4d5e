"""How much memory and time the encoder of T5 v1.1 XXL takes to load: 4.76B bfloat16 parameters, 9.5 GB.

From the repository's root, with 10 GB free in FOLDER::

    python -m tests.benchmarks.load_t5_xxl write FOLDER
    JAX_PLATFORMS=cpu python -m tests.benchmarks.load_t5_xxl load FOLDER

The weights are random, and laid out as Hugging Face lays out large models: an index, and shards of a layer each.
The second is a process of its own, so that its peak is that of loading alone; ``load FOLDER --devices 8`` cuts the
parameters over as many CPU devices.
"""

import argparse
import json
import resource
import time
from dataclasses import asdict
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from imagen_jax.encoders.pretrained_t5 import load_t5
from imagen_jax.encoders.t5 import SIZES
from imagen_jax.weights.places import place_sharded, place_whole
from tests.reference.t5_folders import SETTINGS, write_tokenizer

BUCKETS = 32


def write(folder: Path) -> None:
    """Writes the model, one shard in memory at a time."""
    config = SIZES["xxl"]
    width, inner, hidden = config.d_model, config.num_heads * config.d_kv, config.d_ff
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        # One row, repeated: what the numbers are does not matter, and 4.76B of them take minutes to draw.
        row = (0.02 * generator.normal(size=shape[-1])).astype(ml_dtypes.bfloat16)
        return np.broadcast_to(row, shape).copy()

    def layer(block: int) -> dict[str, np.ndarray]:
        attention, perceptron = "layer.0.SelfAttention.{}.weight", "layer.1.DenseReluDense.{}.weight"
        tensors = {attention.format(kind): normal(inner, width) for kind in "qkv"}
        tensors |= {attention.format("o"): normal(width, inner), perceptron.format("wo"): normal(width, hidden)}
        tensors |= {perceptron.format(kind): normal(hidden, width) for kind in ("wi_0", "wi_1")}
        tensors |= {f"layer.{number}.layer_norm.weight": normal(width) for number in (0, 1)}
        return {f"encoder.block.{block}.{name}": tensor for name, tensor in tensors.items()}

    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    shards = [lambda block=block: layer(block) for block in range(config.num_layers)]
    shards.append(
        lambda: {
            "shared.weight": normal(config.vocab_size, width),
            "encoder.final_layer_norm.weight": normal(width),
            bias: normal(BUCKETS, config.num_heads),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    shards_by_tensor = {}
    for number, make in enumerate(shards, start=1):
        shard, tensors = f"model-{number:05d}-of-{len(shards):05d}.safetensors", make()
        save_file(tensors, folder / shard, metadata={"format": "pt"})
        shards_by_tensor |= dict.fromkeys(tensors, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards_by_tensor}))
    (folder / "config.json").write_text(json.dumps(SETTINGS | asdict(config)))
    write_tokenizer(folder / "spiece.model")


def load(folder: Path, devices: int) -> None:
    """Loads it, and prints a row of the table in ``load_t5_xxl.md``."""
    jax.config.update("jax_num_cpu_devices", devices)
    place = place_whole if devices == 1 else place_sharded(jax.make_mesh((devices,), ("devices",)))
    before = peak()
    start = time.perf_counter()
    encoder = load_t5(folder, dtype="bfloat16", place=place)
    parameters = jax.block_until_ready(encoder.parts.parameters)
    seconds = time.perf_counter() - start
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(parameters))
    print("| devices | parameters (GiB) | peak before (GiB) | peak (GiB) | seconds |")
    print(f"| {devices} | {size / 2**30:.2f} | {before:.2f} | {peak():.2f} | {seconds:.0f} |")


def peak() -> float:
    """The most memory that this process had so far, in GiB; mapped files count."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["write", "load"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--devices", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.action == "write":
        write(arguments.folder)
    else:
        load(arguments.folder, arguments.devices)


if __name__ == "__main__":
    main()
