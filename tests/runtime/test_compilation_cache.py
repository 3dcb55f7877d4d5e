"""Compiled programs are kept between runs; what is damaged or can't be kept is told once and ends nothing."""

import errno
import os
import subprocess
import sys
import zlib

import pytest
from jax._src.lru_cache import LRUCache

from imagen_jax.runtime.compilation_cache import CheckedCache

PROGRAM = """
import jax, jax.monitoring
from imagen_jax.runtime.main import run_main

def main(arguments):
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
    "something else": lambda file: file.write_bytes(b"something else"),
    "a bit of the checksum": lambda file: flip(file, 5),
    "a bit of the program": lambda file: flip(file, -40),
}


@pytest.fixture
def cache(tmp_path):
    return CheckedCache(LRUCache(str(tmp_path), max_size=-1))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_told_and_gone(cache, tmp_path, damage, caplog):
    cache.put("key", b"program" * 50)
    (entry,) = tmp_path.iterdir()
    assert cache.get("key") == b"program" * 50 and not caplog.records
    damage(entry)
    assert cache.get("key") is None and not entry.exists()
    assert [record.getMessage().count("was damaged") for record in caplog.records] == [1]
    assert cache.get("key") is None and len(caplog.records) == 1
    cache.put("key", b"program anew")
    assert cache.get("key") == b"program anew"


@pytest.mark.parametrize("compress", [zlib.compress, lambda content: b"\x28\xb5\x2f\xfd" + content])
def test_an_entry_of_an_earlier_version_is_replaced_without_a_word(cache, tmp_path, compress, caplog):
    (tmp_path / "key-cache").write_bytes(compress(b"program" * 50))
    assert cache.get("key") is None and not list(tmp_path.iterdir()) and not caplog.records


def test_what_could_not_be_used_is_replaced(cache):
    """JAX asks for an entry, can't load it, and compiles: what it then puts is a better one."""
    cache.put("key", b"of another library")
    cache.put("key", b"program")
    assert cache.get("key") == b"program"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_refuses_is_told_once_and_leaves_no_half(cache, tmp_path, number, monkeypatch, caplog):
    def refuse(key, content):
        (tmp_path / f"{key}-cache").write_bytes(content[:10])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache._inner, "put", refuse)
    cache.put("one", b"program")
    cache.put("two", b"program")
    assert not list(tmp_path.iterdir()) and cache.get("one") is None
    (record,) = caplog.records
    assert os.strerror(number) in record.getMessage() and "IMAGEN_JAX_CACHE" in record.getMessage()


def test_after_half_an_entry_the_next_start_but_one_is_quiet(runs):
    assert runs.run() == (False, "")
    (entry,) = runs.entries()
    entry.write_bytes(entry.read_bytes()[:100])
    found, told = runs.run()
    assert not found and len(told.splitlines()) == 1 and "was damaged" in told
    assert runs.run() == (True, "")


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


@pytest.mark.parametrize("refuse", [make_file, pytest.param(make_belong_to_another, marks=AS_ROOT)])
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
