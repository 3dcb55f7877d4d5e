"""Writes where each parameter of every preset lies: ``tests/golden/placements``.

JAX_PLATFORMS=cpu python -m tests.reference.make_placements

Paths with one placement stand in one list; an axis is cut over the mesh axes that its entry names, and whole at null.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from imagen_jax.cascade.stage import abstract_params, build_stage, parameter_axes
from imagen_jax.errors import UserError
from imagen_jax.sharding.mesh import MESH_AXES, fit_sizes
from imagen_jax.sharding.placement import describe_placements, path_of, place_state
from tests.reference.make_counts import PRESETS, make_config

FOLDER = Path(__file__).parent.parent / "golden" / "placements"
CHIPS = 256
TENSOR = 2
"""Size of the tensor axis in the second table of each preset."""


def mesh_of(config: ConfigDict, chips: int, **sizes: int) -> AbstractMesh:
    """The mesh that a config makes of so many chips."""
    fitted = fit_sizes(config.mesh.to_dict() | sizes, chips)
    return AbstractMesh(tuple(fitted[name] for name in MESH_AXES), MESH_AXES)


@cache
def trace(preset: str) -> tuple[ConfigDict, Any, Any]:
    """A preset's config, and the shapes and the names of the axes of its parameters."""
    config = make_config(preset)
    stage = build_stage(config)
    return config, abstract_params(stage), parameter_axes(stage)


def place_params(params: Any, axes: Any, mesh: AbstractMesh) -> dict[str, list[str]]:
    """The paths of the parameters under each placement, or the sentence that refuses the mesh."""
    try:
        described = describe_placements(place_state(params, axes, mesh))
    except UserError as error:
        return {"refused": [str(error)]}
    table: dict[str, list[str]] = {}
    for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = "/".join(path_of(path))
        table.setdefault(json.dumps(described.get(name, "whole")), []).append(name)
    return table


def make_placements(preset: str) -> dict:
    """Both tables of a preset: as its config says, and with a tensor axis."""
    config, params, axes = trace(preset)
    return {
        "as configured": place_params(params, axes, mesh_of(config, CHIPS)),
        f"with mesh.tensor={TENSOR}": place_params(params, axes, mesh_of(config, CHIPS, tensor=TENSOR)),
    }


if __name__ == "__main__":
    for preset in PRESETS:
        (FOLDER / f"{preset}.json").write_text(json.dumps(make_placements(preset), indent=1) + "\n")
