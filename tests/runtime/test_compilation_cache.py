"""Compiled programs are kept between runs; what is damaged or can't be kept is told once and ends nothing."""

import errno
import os
import subprocess
import sys
import warnings

import pytest

from imagen_jax.runtime.compilation_cache import CacheWarnings

PROGRAM = """
import jax, jax.monitoring
from imagen_jax.runtime.main import run_main

def main():
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    found = []
    jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
    print(float(jax.jit(lambda x: x * 3 + 1)(2.0)), "/jax/compilation_cache/cache_hits" in found)

if __name__ == "__main__":
    run_main(main)
"""


class Runs:
    """Runs of a program that compiles another, and the cache between them."""

    def __init__(self, folder):
        self.folder, self.cache = folder, folder / "cache"
        (folder / "program.py").write_text(PROGRAM)

    def run(self, prefix=(), **variables):
        """Whether the compiled program was found, and what was told."""
        environment = {**os.environ, "PYTHONPATH": os.getcwd(), "IMAGEN_JAX_CACHE": str(self.cache), **variables}
        # Those of this session, which another user may not read.
        environment.pop("JAX_COMPILATION_CACHE_DIR")
        command = [*prefix, sys.executable, str(self.folder / "program.py")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0 and done.stdout.startswith("7.0 "), done.stderr
        return done.stdout.strip() == "7.0 True", done.stderr

    def entries(self):
        return sorted(self.cache.rglob("*-cache"))


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)


DAMAGES = {
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:100]),
    "empty": lambda file: file.write_bytes(b""),
    "of an earlier version, with a checksum first": lambda file: file.write_bytes(bytes(32) + file.read_bytes()),
    "a bit of the program": lambda file: flip(file, -40),
}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damage, id=name, marks=[] if name == "cut short" else pytest.mark.thorough)
        for name, damage in DAMAGES.items()
    ],
)
def test_a_damaged_entry_is_told_once_and_replaced(runs, damage):
    """As JAX itself does not: it would warn of the entry at each start."""
    assert runs.run() == (False, "")
    (entry,) = runs.entries()
    damage(entry)
    found, told = runs.run()
    assert not found and len(told.splitlines()) == 1 and "was damaged" in told
    assert runs.run() == (True, "")


@pytest.fixture
def warn(tmp_path, monkeypatch):
    """Warns of an entry of the folder as JAX does. Returns nothing; other warnings go to ``warn.others``."""
    others = []
    handler = CacheWarnings(tmp_path, lambda message, *_: others.append(str(message)))

    def warn_of(operation, program, error):
        text = f"Error {operation} persistent compilation cache entry for '{program}': {type(error).__name__}: {error}"
        warnings.warn(text, stacklevel=1)

    warn_of.others = others
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", handler)
        yield warn_of


def test_only_the_entries_of_the_program_are_removed_and_the_folder_is_told_once(warn, tmp_path, caplog):
    for name in ("jit_step-1-cache", "jit_step-2-cache", "jit_step_2-3-cache", "jit_sample-4-cache"):
        (tmp_path / name).write_bytes(b"program")
    warn("reading", "jit_step", ValueError("incomplete or truncated stream"))
    warn("reading", "jit_sample", ValueError("incomplete or truncated stream"))
    assert [path.name for path in tmp_path.iterdir()] == ["jit_step_2-3-cache"]
    (record,) = caplog.records
    assert str(tmp_path) in record.getMessage() and warn.others == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_refuses_is_told_once_and_leaves_no_half(warn, tmp_path, number, caplog):
    for program in ("one", "two"):
        (tmp_path / f"{program}-1-cache").write_bytes(b"half")
        warn("writing", program, OSError(number, os.strerror(number)))
    assert not list(tmp_path.iterdir())
    (record,) = caplog.records
    assert os.strerror(number) in record.getMessage() and "IMAGEN_JAX_CACHE" in record.getMessage()


def test_other_warnings_are_shown_as_before(warn, caplog):
    warnings.warn("the sky is green", stacklevel=1)
    assert warn.others == ["the sky is green"] and not caplog.records


def make_file(runs):
    runs.cache.write_text("a file is where the folder should be")
    return {}


def as_user(number):
    """What runs a command as another user; skips the test where that user can't even start this Python."""
    prefix = ["setpriv", f"--reuid={number}", "--clear-groups"]
    tried = subprocess.run([*prefix, sys.executable, "-c", ""], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"user {number} can't run {sys.executable}: {tried.stderr.strip()}")
    return prefix


def make_belong_to_another(runs):
    runs.run()
    for entry in runs.entries():
        entry.unlink()
    return {"prefix": as_user(65534)}


AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can run a program as another user")


@pytest.mark.parametrize(
    "refuse", [make_file, pytest.param(make_belong_to_another, marks=[AS_ROOT, pytest.mark.thorough])]
)
def test_a_cache_that_can_not_be_used_is_told_once(runs, refuse):
    options = refuse(runs)
    if "setpriv" in options.get("prefix", ()):
        for folder in (runs.folder, *runs.folder.parents):
            if not folder.stat().st_mode & 1:
                folder.chmod(folder.stat().st_mode | 0o11)
    found, told = runs.run(**options)
    assert not found and len(told.splitlines()) == 1
    assert "compiled programs can't be kept in" in told and "IMAGEN_JAX_CACHE" in told


@AS_ROOT
def test_a_user_without_a_home_has_no_cache_and_is_told(runs):
    for folder in (runs.folder, *runs.folder.parents):
        if not folder.stat().st_mode & 1:
            folder.chmod(folder.stat().st_mode | 0o11)
    found, told = runs.run(["env", "-u", "HOME", *as_user(54321)], IMAGEN_JAX_CACHE="")
    assert not found and len(told.splitlines()) == 1 and "IMAGEN_JAX_CACHE" in told
