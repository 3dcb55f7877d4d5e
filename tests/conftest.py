"""Eight devices on the CPU, and every shape that the package declares checked at every call."""

import functools
import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

# For programs that a test starts too. The tests compile much and compute little: the second halves their time.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Saves another tenth of it.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_opt_preset=FAST_COMPILE")
# So do networks as they are written, for our ways on CPUs are longer programs; tests of those ask for
# ``as_users_have_it``.
os.environ["IMAGEN_JAX_AS_WRITTEN"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# Set to its default, so that no training that a test starts is restarted with another value.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")

os.environ["IMAGEN_JAX_CACHE"] = tempfile.mkdtemp(prefix="imagen-jax-tests-")
# Compiled programs of all workers and of what their tests start. With JAX_COMPILATION_CACHE_MAX_SIZE, JAX would lock
# the folder and look at each file at each write. Without, a worker may read what another has written in part: then JAX
# warns, and compiles.
os.environ["JAX_COMPILATION_CACHE_DIR"] = (
    os.environ["JAX_COMPILATION_CACHE_DIR"]
    if "PYTEST_XDIST_WORKER" in os.environ
    else tempfile.mkdtemp(prefix="imagen-jax-programs-")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# A shell starts what runs in the background with Ctrl-C ignored, and so would be all that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REFERENCE_PACKAGES = Path(sys.prefix) / "reference_packages"
if REFERENCE_PACKAGES.is_dir():
    # What launch/test.sh installs without its needs; last, so that it hides nothing.
    sys.path.append(str(REFERENCE_PACKAGES))

# Before any test imports the package: what is imported already is not checked.
jaxtyping.install_import_hook("imagen_jax", "beartype.beartype")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--thorough``."""
    parser.addoption("--thorough", action="store_true", help="run the tests marked thorough too")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Names bytes by their place: compressed ones hold the time, and two workers must give a test the same name."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves thorough tests out without ``--thorough``, and puts slow tests last: small mistakes show early.

    Of the slow ones, those with ``slow(seconds=...)`` come first, the longest before the others: begun last, it would
    run alone for as long.
    """
    if not config.getoption("thorough"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("thorough")])
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    items.sort(key=place_in_order)


def place_in_order(item: pytest.Item) -> tuple[bool, float]:
    """Returns whether a test is slow or thorough, and minus its seconds."""
    slow = item.get_closest_marker("slow")
    return bool(slow or item.get_closest_marker("thorough")), -slow.kwargs.get("seconds", 0) if slow else 0


def pytest_sessionfinish() -> None:
    """Removes the compiled programs, and undoes ``gc.freeze``, for Hypothesis looks for references."""
    shutil.rmtree(os.environ["IMAGEN_JAX_CACHE"], ignore_errors=True)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def keep_collection_cheap():
    """Garbage collection visits neither what is imported nor what the tests of a file leave in JAX's caches.

    With the thousands of programs of a session, each collection would take a second. Python 3.12.1 crashes in a
    collection after ``gc.freeze``, so there the programs go.
    """
    can_freeze = not (3, 12) <= sys.version_info < (3, 12, 4)
    if can_freeze:
        gc.freeze()
    yield
    if not can_freeze:
        jax.clear_caches()
    gc.collect()
    if can_freeze:
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def load_minilm_once():
    """All tests of a worker share one MiniLM, so that its weights are read and its programs compiled once."""
    from imagen_jax.encoders import encoder

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoder.TEXT_ENCODERS, "minilm", functools.cache(encoder.load_minilm))
        yield


@pytest.fixture
def config_flag(monkeypatch):
    """A fresh set of flags with ``--config``."""
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "The experiment.", flag_values=values)
    monkeypatch.setattr(flags, "FLAGS", values)
    return values


@pytest.fixture
def as_users_have_it():
    """Networks are computed in a CPU's own ways, and not as they are written, as all else here."""
    from imagen_jax.runtime.backend import plain_implementations

    with plain_implementations(False):
        yield


@pytest.fixture(scope="session")
def fake_buckets():
    """The server of the buckets of a whole session, since the libraries ask once where buckets are."""
    import fsspec
    from gcsfs.extended_gcsfs import BucketType, ExtendedGcsFileSystem

    from tests.storage.fake_buckets import FakeBuckets

    async def ordinary(file_system, bucket):
        return BucketType.NON_HIERARCHICAL

    with FakeBuckets() as fake, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", fake.url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "nobody")
        # What kind of bucket it is gcsfs would ask by gRPC, which the fake does not speak.
        patch.setattr(ExtendedGcsFileSystem, "_get_bucket_type", ordinary)
        # For programs that a test starts, and for this one.
        patch.setenv("FSSPEC_GCS_TOKEN", "anon")
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        yield fake


@pytest.fixture
def bucket(fake_buckets, tmp_path_factory, monkeypatch, request):
    """The path of a new bucket, and a cache folder of its own; no request may have been beyond the fake."""
    from imagen_jax.storage.paths import to_path

    name = f"bucket-{len(fake_buckets.buckets)}"
    fake_buckets.buckets[name] = {}
    monkeypatch.setenv("IMAGEN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield to_path("gs:" + f"//{name}")
    fake_buckets.denied.clear()
    assert fake_buckets.unexpected == []
