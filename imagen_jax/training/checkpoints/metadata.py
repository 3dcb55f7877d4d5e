"""The metadata of a checkpoint: format, data position, and shape and fingerprint of each array.

    {"format": 2, "data_state": {…}, "arrays": {"ema_params": {"layer/bias": ["float32", [256], "0123…cdef"]}, …},
     "digest": sha256 of all that}

| format | written by | differs |
|---|---|---|
| 1 | versions before this table | no format, arrays or digest: its content can't be checked |
| 2 | this version | |
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path
from imagen_jax.training.checkpoints.checksums import fingerprints_of, numbers_of
from imagen_jax.training.checkpoints.folder import DamageError, names_in_a_sentence

FORMAT = 2
"""The newest format, which this version writes."""


class ArrayType(NamedTuple):
    """The type and shape of an array.

    Attributes:
        dtype: name of the type; for a random key, that of its key data.
        shape: shape of the array; for a random key, that of its key data.
    """

    dtype: str
    shape: tuple[int, ...]


class Record(NamedTuple):
    """The metadata of a checkpoint, parsed.

    Attributes:
        data_state: position in the data.
        arrays: type of each array, by part and name; empty for format 1.
        fingerprints: fingerprint of each array, by part and name; empty for format 1.
    """

    data_state: dict[str, Any]
    arrays: dict[str, dict[str, ArrayType]]
    fingerprints: dict[str, dict[str, str]]


def arrays_by_name(tree: Any) -> dict[str, Any]:
    """Returns the arrays of a tree, by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def types_by_name(tree: Any) -> dict[str, ArrayType]:
    """Returns the type of each array, or of each abstract array, of a tree, by its path."""
    types = {}
    for name, leaf in arrays_by_name(tree).items():
        numbers = jax.eval_shape(numbers_of, leaf) if is_key(leaf) else leaf
        types[name] = ArrayType(jnp.dtype(numbers.dtype).name, tuple(numbers.shape))
    return types


def is_key(leaf: Any) -> bool:
    """Returns whether an array contains random keys."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def write_record(data_state: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the JSON-serialisable record of a checkpoint; all processes that write it must call this.

    Args:
        data_state: JSON-serialisable position in the data.
        parts: trees of the arrays to write, by name.
    """
    arrays = {}
    for part, tree in parts.items():
        marks = fingerprints_of(arrays_by_name(tree))
        arrays[part] = {name: [*kind, marks[name]] for name, kind in types_by_name(tree).items()}
    written = {"format": FORMAT, "data_state": data_state, "arrays": arrays}
    return {**written, "digest": digest_of(written)}


def read_record(written: Any, checkpoint: Path) -> Record:
    """Parses the record of a checkpoint of any format.

    Raises:
        DamageError: it is no such record, or it has changed since it was written.
        UserError: its format is newer than this version supports.
    """
    if not isinstance(written, dict):
        raise DamageError("its record is missing")
    number = written.get("format", 1)
    if isinstance(number, int) and number > FORMAT:
        raise UserError(
            f"the checkpoint {checkpoint} has format {number} and was made by a newer version of imagen-jax. This "
            f"version reads formats up to {FORMAT}: update imagen-jax"
        )
    while number != FORMAT:
        if number not in MIGRATIONS:
            raise DamageError(f"its format {number} is unknown")
        written = MIGRATIONS[number](written)
        number = written["format"]
    body = {name: value for name, value in written.items() if name != "digest"}
    if written.get("digest") != digest_of(body):
        raise DamageError("its record has changed since it was written")
    arrays = written["arrays"]
    return Record(
        written["data_state"],
        {part: {name: ArrayType(one[0], tuple(one[1])) for name, one in of.items()} for part, of in arrays.items()},
        {part: {name: one[2] for name, one in of.items()} for part, of in arrays.items()},
    )


def from_format_1(written: dict[str, Any]) -> dict[str, Any]:
    """Migrates a record from format 1, which contains only the position in the data, to format 2.

    Raises:
        DamageError: the record contains something else.
    """
    if written.keys() != {"data_state"}:
        raise DamageError("its format is missing")
    body = {"format": 2, "data_state": written["data_state"], "arrays": {}}
    return {**body, "digest": digest_of(body)}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: from_format_1}
"""Functions that migrate a record from each older format to a newer one."""


def digest_of(body: dict[str, Any]) -> str:
    """Returns the SHA-256 of a JSON-serialisable dict, the same before it is written and after it is read."""
    # A JSON round trip makes keys strings and tuples lists, as reading does.
    body = parse_json(json.dumps(body))
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def check_fits(checkpoint: Path, stored: Mapping[str, ArrayType], expected: Any) -> None:
    """Checks the shapes in a checkpoint against those of a config.

    Raises:
        UserError: they differ; the message names the first difference, with both shapes.
    """
    here = types_by_name(expected)
    for name in sorted({*stored, *here}):
        shapes = [of[name].shape if name in of else "none" for of in (stored, here)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"the checkpoint {checkpoint} does not fit the config: {name} has the shape {shapes[0]} "
                f"in the checkpoint and {shapes[1]} in the config. Use the config it was trained with, or another "
                "--workdir"
            )


def check_numbers(read: Any, fingerprints: Mapping[str, str]) -> None:
    """Checks arrays against their fingerprints; all processes that hold the arrays must call this.

    Raises:
        DamageError: some fingerprints differ.
    """
    found = fingerprints_of(arrays_by_name(read))
    changed = [name for name in fingerprints if found[name] != fingerprints[name]]
    if changed:
        raise DamageError(f"values of {names_in_a_sentence(changed)} have changed since they were written")
