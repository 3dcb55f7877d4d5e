"""The folder of one run: ``config.json``, ``metrics.jsonl``, ``checkpoints/`` and ``previews/``.

It contains the resolved config. So sampling needs only the folder, and a resumed run can check that it continues the
same run.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from imagen_jax.config.clip_sections import CLIP_SECTIONS
from imagen_jax.config.codes_sections import CODES_SECTIONS
from imagen_jax.config.reading import Given, to_plain, with_defaults
from imagen_jax.config.sections import SECTIONS
from imagen_jax.errors import UserError
from imagen_jax.runtime.renamed import rename_saved_keys
from imagen_jax.storage.json_text import parse_json, read_json
from imagen_jax.storage.paths import Path, create_folder, same_place, write_whole
from imagen_jax.storage.refusals import raise_if_denied
from imagen_jax.storage.settings import Difference, differences
from imagen_jax.training.checkpoints.folder import list_damaged, list_steps
from imagen_jax.training.monitoring.append_file import print_line

FREE_TO_CHANGE = (
    "sampling.",
    "preview.",
    "mesh.",
    *(
        f"{name}.{key}"
        for name, section in (*SECTIONS.items(), *CLIP_SECTIONS.items(), *CODES_SECTIONS.items())
        for key in section.free_to_change
    ),
)
"""Prefixes of config keys whose values may change when a run resumes."""

FREE_WITH_NOTICE = ("optimizer.",)
"""Prefixes of config keys that may change with a printed notice, because later steps train differently.

The keys that ``changes_optimizer_state`` names may not change.
"""

PATHS = (
    "data.data_dir",
    "data.options.folder",
    "data.options.fluent",
    "data.options.noto",
    "text.options.folder",
    "text.options.tokenizer",
    "text.tokenizer",
    "clip.tokenizer",
    "codes.clip",
)
"""Config keys that name a path. It may change and differ between hosts; ``FINGERPRINTS`` identify its content."""

FINGERPRINTS = "fingerprints"
"""Section of ``config.json`` that identifies the training data (``data_set``) and the ``text_encoder``."""


def config_path(workdir: Path) -> Path:
    """Returns the path of a run's config."""
    return workdir / "config.json"


def read_config(workdir: Path, if_missing: str = "check the path") -> dict[str, Any]:
    """Reads the config of the run in ``workdir``, and adds the defaults of missing keys.

    Args:
        workdir: the run's folder.
        if_missing: what to do if there is no such folder, for the message.

    Raises:
        UserError: the folder or the config is missing or can't be read.
    """
    path = config_path(workdir)
    try:
        return with_defaults(rename_saved_keys(read_json(path)))
    except FileNotFoundError:
        if not workdir.exists():
            raise UserError(f"there is no folder {workdir}: {if_missing}") from None
        raise UserError(
            f"{workdir} has no {path.name}, so it is not a training workdir: train one with "
            f"python -m imagen_jax.train --config=… --workdir={workdir}"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise_if_denied(error, path)
        raise UserError(f"{path} can't be read ({error}): restore it, or train into another --workdir") from None


def require_sections(config: Mapping[str, Any], sections: Iterable[str], where: Path, purpose: str) -> None:
    """Checks that a config has the required sections.

    Raises:
        UserError: a section is missing, as in a ``config.json`` of another program.
    """
    missing = [section for section in sections if not isinstance(config.get(section), Mapping)]
    if missing:
        raise UserError(f"the config in {where} has no {', '.join(missing)}, so it can't be used for {purpose}")


def keep_config(workdir: Path, config: Given, fingerprints: Mapping[str, str] | None = None) -> None:
    """Writes the resolved config into ``workdir``, after checking it against the one already there.

    Call it after all other checks at the start of a run.

    Args:
        workdir: folder of the run.
        config: config of the run.
        fingerprints: fingerprints of data and text encoder, see ``FINGERPRINTS``.

    Raises:
        UserError: ``check_continues`` raises it, or the folder can't be written to.
    """
    changed = check_continues(workdir, config, fingerprints)
    content = to_plain(config) | ({FINGERPRINTS: dict(fingerprints)} if fingerprints else {})
    make_workdir(workdir)
    with writing_to(workdir):
        write_whole(config_path(workdir), (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    if changed:
        told = ", ".join(f"config.{one.name} from {one.before!r} to {one.now!r}" for one in changed)
        print_line(f"{workdir} continues with changed settings: {told}.")


def explain_unused(workdir: Path, config: Given) -> str:
    """Returns how to train a finished run longer, and which changed settings have no effect on it."""
    advice = " To train longer, raise config.training.steps and config.optimizer.decay_steps."
    changed = ", ".join(f"config.{one.name}" for one in check_continues(workdir, config))
    return f"{advice} Changed, without effect: {changed}." if changed else advice


def make_workdir(workdir: Path) -> None:
    """Creates the folder of a run.

    Raises:
        UserError: the folder can't be created.
    """
    with writing_to(workdir):
        create_folder(workdir)


@contextmanager
def writing_to(workdir: Path) -> Iterator[None]:
    """Turns an ``OSError`` while writing to a workdir into a ``UserError``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the workdir {workdir} can't be written to ({error.strerror or error}): choose another --workdir"
        ) from None


def check_continues(workdir: Path, config: Given, fingerprints: Mapping[str, str] | None = None) -> list[Difference]:
    """Checks that a config continues the run in ``workdir``. Before its first checkpoint every config does.

    Args:
        workdir: folder of the run.
        config: config with which the run is to continue.
        fingerprints: current fingerprints of data and text encoder; None while they are unknown.

    Returns:
        Changed settings that should be printed.

    Raises:
        UserError: the run started with another config or trained on other data; the message names the difference.
    """
    if not config_path(workdir).exists() or not has_begun(workdir):
        return []
    old, new = read_config(workdir), with_defaults(parse_json(json.dumps(to_plain(config))))
    noted, _ = old.pop(FINGERPRINTS, {}), new.pop(FINGERPRINTS, {})
    found = check_same_run(old, new, workdir, bool(noted))
    for name, now in (fingerprints or {}).items():
        if noted.get(name, now) != now:
            raise UserError(
                f"{workdir} was trained with another {name.replace('_', ' ')} ({noted[name]}, and now it is {now}): "
                f"give the original one, or choose another --workdir"
            )
    return found


def has_begun(workdir: Path) -> bool:
    """Returns whether a run has checkpoints to continue from, damaged ones included."""
    folder = workdir / "checkpoints"
    return bool(list_steps(folder) or list_damaged(folder))


def check_same_run(old: dict[str, Any], new: dict[str, Any], workdir: Path, noted: bool = True) -> list[Difference]:
    """Checks that a config continues the run that another config started.

    Args:
        old: config with which the run started.
        new: current config.
        workdir: folder of the run.
        noted: whether the run stored fingerprints. If not, ``PATHS`` may not change, unless something else identifies
            their content.

    Returns:
        Changed settings that should be printed.

    Raises:
        UserError: a key differs that a run can't change midway.
    """
    told = []
    before, after = (dict(sorted(flatten(config))) for config in (old, new))
    for one in differences(before, after):
        if one.name.startswith(FREE_TO_CHANGE):
            continue
        if one.name.startswith(FREE_WITH_NOTICE) and not changes_optimizer_state(one):
            told.append(one)
            continue
        if one.name in PATHS:
            # A checkpoint's position in prepared data has always included the data's fingerprint.
            prepared = one.name.startswith("data.") and after.get("data.source") == "prepared"
            if noted or prepared or same_place(one.before, one.now):
                continue
        raise UserError(
            f"{workdir} was trained with config.{one.name}={one.before!r}, not {one.now!r}: "
            "use the original value, or another --workdir"
        )
    return told


def changes_optimizer_state(changed: Difference) -> bool:
    """Returns whether a changed optimizer key changes the arrays of its state, so that no checkpoint fits."""
    return changed.name == "optimizer.name" or (
        changed.name == "optimizer.clip_norm" and (changed.before is None) != (changed.now is None)
    )


def flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested dicts, with dotted names."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
