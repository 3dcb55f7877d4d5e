"""Counts the parameters and operations of every preset: ``tests/golden/counts`` and ``tests/benchmarks/flops.md``.

JAX_PLATFORMS=cpu python -m tests.reference.make_counts [preset …] [--without-operations]

Operations compile both programs of a preset. Without them, those that are on file stay.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from configs import openmoji
from configs.imagen import base_64, super_res_256, super_res_1024
from imagen_jax.cascade.experiment import read_experiment
from imagen_jax.cascade.stage import abstract_params, build_stage
from imagen_jax.forecast.parameter_count import count_parameters, total_of
from imagen_jax.forecast.stage_programs import forward_program, measure_operations, training_program

FOLDER = Path(__file__).parent.parent / "golden" / "counts"
TABLE = Path(__file__).parent.parent / "benchmarks" / "flops.md"

PRESETS: dict[str, tuple[Callable[[str], ConfigDict], str]] = {
    "imagen_base_64_2b": (base_64.get_config, "2b"),
    "imagen_base_64_1b": (base_64.get_config, "1b"),
    "imagen_base_64_500m": (base_64.get_config, "500m"),
    "imagen_base_64_300m": (base_64.get_config, "300m"),
    "imagen_super_res_256_as_printed": (super_res_256.get_config, "as_printed"),
    "imagen_super_res_256_size_matched": (super_res_256.get_config, "size_matched"),
    "imagen_super_res_1024_as_printed": (super_res_1024.get_config, "as_printed"),
    "imagen_super_res_1024_size_matched": (super_res_1024.get_config, "size_matched"),
    "openmoji_base": (openmoji.get_config, "base"),
    "openmoji_super_res_256": (openmoji.get_config, "super_res_256"),
    "openmoji_super_res_1024": (openmoji.get_config, "super_res_1024"),
}

HEADER = """# Operations of the presets

Floating-point operations an image, by `JAX_PLATFORMS=cpu python -m tests.reference.make_counts`: of a forward pass on
whole images, and of a training step (loss and gradient, without the optimizer; on crops where the stage trains on
them). Counted are matrix products and convolutions, two operations for each multiply-add; compiled is what XLA reports
of the whole program in float32 on the CPU, with jax {version}.

| preset | parameters | program | counted | compiled | ratio |
|---|---|---|---|---|---|
"""


def make_config(preset: str) -> ConfigDict:
    """The config of a preset."""
    get_config, variant = PRESETS[preset]
    return get_config(variant)


def make_operations(config: ConfigDict) -> dict:
    """Operations of both programs, in float32 as ``imagen_jax count`` has them."""
    config.network.dtype = "float32"
    stage = build_stage(config)
    operations = {}
    training = training_program(stage, read_experiment(config).training, config.stage.crop)
    for name, program in (("forward", forward_program(stage)), ("training", training)):
        found = measure_operations(program)
        operations[name] = {
            "resolution": program.resolution,
            "counted": found.counted,
            "compiled": found.compiled,
            "ratio": round(found.ratio, 4),
        }
    return operations


def read(preset: str) -> dict:
    """What is on file of a preset."""
    path = FOLDER / f"{preset}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write(preset: str, with_operations: bool) -> None:
    """Counts one preset again."""
    counts = count_parameters(abstract_params(build_stage(make_config(preset))))
    content = {"parameters": {"total": total_of(counts), "by_part": counts}}
    if with_operations:
        content["operations"] = make_operations(make_config(preset))
    elif "operations" in read(preset):
        content["operations"] = read(preset)["operations"]
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{preset}.json").write_text(json.dumps(content, indent=1) + "\n")


def write_table() -> None:
    """Writes the table of all presets whose operations are on file."""
    rows = []
    for preset in PRESETS:
        content = read(preset)
        for name, found in content.get("operations", {}).items():
            rows.append(
                f"| {preset} | {content['parameters']['total'] / 1e6:,.1f}M | {name}, {found['resolution']} px "
                f"| {found['counted'] / 1e9:,.1f}G | {found['compiled'] / 1e9:,.1f}G | {found['ratio']:.3f} |"
            )
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(HEADER.format(version=jax.__version__) + "\n".join(rows) + "\n")


if __name__ == "__main__":
    named = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    for preset in named or PRESETS:
        write(preset, with_operations="--without-operations" not in sys.argv)
        write_table()
        print(preset, flush=True)
