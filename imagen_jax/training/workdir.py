"""The folder of one run: ``config.json``, ``metrics.jsonl``, ``checkpoints/`` and ``previews/``.

The resolved config lies in it, so that sampling needs nothing but the folder, and a resume can tell whether it would
continue the same run.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict

from imagen_jax.errors import UserError
from imagen_jax.storage.json_text import parse_json, read_json
from imagen_jax.storage.paths import Path, create_folder, write_whole
from imagen_jax.storage.refusals import raise_if_denied
from imagen_jax.storage.settings import first_difference

FREE_TO_CHANGE = ("training.log_every", "training.checkpoint_every", "training.preview_every", "training.steps",
                  "training.evaluate_every", "training.keep_checkpoints", "training.keep_every",
                  "training.skips_in_a_row", "training.when_not_finite", "training.most_rewinds",
                  "training.tensorboard", "sampling.", "preview.", "mesh.", "network.remat", "data.data_dir",
                  "data.num_workers", "data.largest_bad_share")  # fmt: skip
"""Keys that a resumed run may have another value of than it began with."""


ADDED_LATER: dict[str, dict[str, Any]] = {
    "data": {"crop": "centre", "mirror": False, "weights": (), "largest_bad_share": 0.01},
    "text": {"options": {}, "null": "zeros", "embeddings": "stored"},
    "stage": {"enlarge_before_noise": "none", "noise_measure": "log_snr"},
    "training": {
        "accumulate": 1,
        "evaluate_every": 0,
        "keep_every": 0,
        "skips_in_a_row": 10,
        "when_not_finite": "stop",
        "most_rewinds": 3,
    },
    "preview": {"samples": 64, "compared": 2000, "features": "efficientnet_lite0"},
    "sampling": {
        "largest_bound": 1e9,
        "spacing": "uniform",
        "gamma": 0.0,
        "eta": 0.0,
        "guidance_interval": (),
        "guide_at_once": False,
    },
}
"""Keys that a run of version 0.1.0 has not, and what they say of it."""


def config_path(workdir: Path) -> Path:
    """Where a run's config lies."""
    return workdir / "config.json"


def read_config(workdir: Path) -> ConfigDict:
    """The config of the run in ``workdir``; keys that were added since it began get their value.

    Raises:
        UserError: there is none, or it can't be read.
    """
    path = config_path(workdir)
    try:
        return ConfigDict(with_later_keys(read_json(path)))
    except FileNotFoundError:
        raise UserError(
            f"{workdir} holds no {path.name}, so it is no training workdir: train one with "
            f"python -m imagen_jax.train --config=… --workdir={workdir}"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise_if_denied(error, path)
        raise UserError(f"{path} can't be read ({error}): restore it, or train into another --workdir") from None


def with_later_keys(config: dict[str, Any]) -> dict[str, Any]:
    """A config with the keys that were added since its run began."""
    return config | {section: ADDED_LATER[section] | config[section] for section in ADDED_LATER.keys() & config.keys()}


def require_sections(config: ConfigDict, sections: Iterable[str], where: Path, purpose: str) -> None:
    """Checks that a config that was read has what is wanted of it.

    Raises:
        UserError: a section is missing, as in a ``config.json`` of another program.
    """
    missing = [section for section in sections if not isinstance(config.get(section), ConfigDict)]
    if missing:
        raise UserError(f"the config in {where} has no {', '.join(missing)}, so it can't be used for {purpose}")


def keep_config(workdir: Path, config: ConfigDict) -> None:
    """Writes the resolved config into ``workdir``, after checking it against the one already there.

    Raises:
        UserError: the run there was started with another config (names the first key that differs), or the folder can't
            be written to.
    """
    text = json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
    path = config_path(workdir)
    if path.exists():
        check_same_run(read_config(workdir).to_dict(), with_later_keys(parse_json(text)), workdir)
    try:
        create_folder(workdir)
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(
            f"the workdir {workdir} can't be written to ({error.strerror or error}): choose another --workdir"
        ) from None


def check_same_run(old: dict[str, Any], new: dict[str, Any], workdir: Path) -> None:
    """Checks that a config continues the run that another one started.

    Raises:
        UserError: a key differs that a run can't change midway.
    """
    before, after = (
        {key: value for key, value in sorted(flatten(config)) if not key.startswith(FREE_TO_CHANGE)}
        for config in (old, new)
    )
    different = first_difference(before, after)
    if different is not None:
        raise UserError(
            f"{workdir} was trained with config.{different.name}={different.before!r}, not {different.now!r}: "
            "use the value it began with, or another --workdir"
        )


def flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts, with dotted names."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
