"""Random command lines of valid flags in odd combinations, for every command: a result, or a sentence before loading.

    python -m tests.torture.command_lines --count=1000 --seed=0 [--command=sample] [--run_share=0.3]

A command line is drawn from the flags of its command and values that are valid by themselves. It must end in a result
(status 0, and the file that the command writes is there) or in one sentence, and the sentence must come before
anything is loaded: weights, encoders, data sets, compiled programs. A traceback is a finding, a sentence that comes
after loading has begun is another. Of the lines that are to be loaded, ``--run_share`` are run to their end; the
others stop where loading begins.

Each line is numbered, so that ``--first=N --count=1`` runs one again. Findings are printed with their command lines.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("IMAGEN_JAX_AS_WRITTEN", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import imagen_jax
from imagen_jax.__main__ import COMMANDS as MODULES
from imagen_jax.array_types import Text
from imagen_jax.cascade import checkpoint_export
from imagen_jax.data.preparation import builder, preparation
from imagen_jax.encoders import feature_networks
from imagen_jax.encoders.batched_encoder import BatchedEncoder
from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.runtime.main import parse_flags
from imagen_jax.training.checkpoints.store import CheckpointStore
from imagen_jax.web import listening
from tests.torture.command_tables import COMMANDS, Command
from tests.torture.command_trees import write_all

WORK = ("convert_all",)
"""What begins a command's work itself, of which a sentence may come: that filters leave nothing, say."""


class StoppedError(BaseException):
    """Loading begins, and this line is not run to its end."""


class Outcome(NamedTuple):
    """What came of a command line.

    Attributes:
        kind: ``result``, ``loading`` (stopped where loading begins), ``sentence``, ``late`` (a sentence after loading
            had begun), ``missing`` (status 0 without the file) or ``traceback``.
        said: the sentence or the traceback.
        seconds: that it took.
    """

    kind: str
    said: str
    seconds: float

    @property
    def is_finding(self) -> bool:
        """Whether it must not be."""
        return self.kind in ("late", "missing", "traceback")


def encode_quickly(encoder: BatchedEncoder, captions: Sequence[str], length: int | None = None) -> Text:
    """Embeddings of captions that depend on all their words and are made in no time."""
    size = length or 8
    seeds = [int.from_bytes(hashlib.sha256(caption.encode()).digest()[:4], "little") for caption in captions]
    embeddings = [np.random.default_rng(seed).standard_normal((size, encoder.width), np.float32) for seed in seeds]
    return Text(jnp.asarray(np.stack(embeddings)), jnp.ones((len(seeds), size), bool))


class Loaders:
    """Notices when loading begins, and stops there where a line is not run to its end."""

    def __init__(self) -> None:
        self.began: str = ""
        self.run_on = True

    def record_start(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.began = self.began or name
            if not self.run_on:
                raise StoppedError
            return function(*args, **kwargs)

        return wrapped

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Puts what loads under watch."""
        watched: list[tuple[Any, str]] = [
            (CheckpointStore, "restore_ema"),
            (CheckpointStore, "restore"),
            (checkpoint_export, "read_params"),
            (BatchedEncoder, "encode"),
            (jax.stages.Lowered, "compile"),
            (builder, "build"),
            (preparation, "convert_all"),
            (feature_networks, "extract_features"),
        ]
        before = [(owner, name, getattr(owner, name)) for owner, name in watched if hasattr(owner, name)]
        for owner, name, function in before:
            setattr(owner, name, self.record_start(name, function))
        # A quick encoder: MiniLM would be most of the time.
        BatchedEncoder.encode = self.record_start("encode", encode_quickly)  # type: ignore[method-assign]
        served, joined, left = listening.serve, processes.join, processes.exit_now
        listening.serve = lambda *_: None  # type: ignore[assignment]
        processes.join = lambda *_: None  # type: ignore[assignment]
        # This process has the other lines to run.
        processes.exit_now = sys.exit  # type: ignore[assignment]
        try:
            yield
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)
            listening.serve, processes.join, processes.exit_now = served, joined, left


def make_line(seed: int, number: int, only: Sequence[str]) -> tuple[str, list[str]]:
    """The command and the flags of one number."""
    generator = np.random.default_rng([seed, number])
    names = [name for name in COMMANDS if not only or name in only]
    weights = np.asarray([COMMANDS[name].weight for name in names], float)
    name = str(generator.choice(names, p=weights / weights.sum()))
    return name, COMMANDS[name].draw(generator)


def load_fresh(name: str) -> Any:
    """Imports a command again, so that its flags are those of its first start."""
    modules = [
        *MODULES.values(),
        "imagen_jax.runtime.distributed_flags",
        "imagen_jax.cascade.sampling_flags",
        "imagen_jax.cascade.stage_flags",
        "imagen_jax.evaluation.clip_flags",
    ]
    for flag in [*flags.FLAGS]:
        if flag.partition(".")[0] == "config" or flags.FLAGS.find_module_defining_flag(flag) in modules:
            delattr(flags.FLAGS, flag)
    for module in modules:
        sys.modules.pop(module, None)
        room, _, name_in_room = module.rpartition(".")
        vars(sys.modules.get(room, imagen_jax)).pop(name_in_room, None)
    module = importlib.import_module(MODULES[name])
    flags.FLAGS.unparse_flags()
    return module


def run_line(command: Command, name: str, arguments: Sequence[str], loaders: Loaders) -> Outcome:
    """Runs one command line in this process, in the present folder."""
    began = time.perf_counter()
    loaders.began = ""
    printed = io.StringIO()
    kind, said = "result", ""
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            module = load_fresh(name)
            # There the values of config keys are looked for.
            sys.argv = [name, *arguments]
            parse_flags([name, *arguments])
            try:
                module.main()
            except SystemExit as error:
                if error.code:
                    raise
            if not command.has_result():
                kind = "missing"
        except StoppedError:
            kind = "loading"
        except UserError as error:
            late = loaders.began and loaders.began not in WORK
            kind, said = "late" if late else "sentence", str(error)
        except SystemExit as error:
            kind, said = "sentence" if error.code == 2 else "traceback", printed.getvalue()[-400:]
        except BaseException:
            kind, said = "traceback", traceback.format_exc()
    said = f"({loaders.began}) {said}" if kind == "late" else said
    return Outcome(kind, said, time.perf_counter() - began)


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs all lines, and prints what came of each finding."""
    loaders = Loaders()
    lines = []
    for number in range(options.first, options.first + options.count):
        name, arguments = make_line(options.seed, number, options.command)
        loaders.run_on = bool(np.random.default_rng([options.seed, number, 1]).random() < options.run_share)
        # The bundled cascade takes minutes, and other tests sample from it.
        loaders.run_on &= name not in ("sample", "evaluate") or any("--stages" in flag for flag in arguments)
        with loaders.watching():
            outcome = run_line(COMMANDS[name], name, arguments, loaders)
        for path in ("out", "out.sqlite"):
            shutil.rmtree(path, ignore_errors=True)
            Path(path).unlink(missing_ok=True)
        line = {"number": number, "command": name, "arguments": arguments, **outcome._asdict()}
        lines.append(line)
        if outcome.is_finding or options.show:
            print(json.dumps(line), flush=True)
    return lines


def count(lines: Sequence[dict[str, Any]]) -> str:
    """A table of what came of the lines, by command."""
    kinds = ("result", "loading", "sentence", "late", "missing", "traceback")
    rows = [f"| command | {' | '.join(kinds)} |", f"|{'---|' * (len(kinds) + 1)}"]
    for name in [*COMMANDS, "all"]:
        found = Counter(line["kind"] for line in lines if name in (line["command"], "all"))
        rows.append(f"| {name} | {' | '.join(str(found[kind]) for kind in kinds)} |")
    return "\n".join(rows)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--count", type=int, default=100)
    arguments.add_argument("--first", type=int, default=0)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--command", choices=COMMANDS, action="append", default=[])
    arguments.add_argument("--run_share", type=float, default=0.3)
    arguments.add_argument("--show", action="store_true", help="Print every line, not findings alone.")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_all(Path(folder))
        before = Path.cwd()
        os.chdir(folder)
        try:
            lines = run_all(options)
        finally:
            os.chdir(before)
    print(count(lines))
    sys.exit(1 if any(line["kind"] in ("late", "missing", "traceback") for line in lines) else 0)


if __name__ == "__main__":
    main()
