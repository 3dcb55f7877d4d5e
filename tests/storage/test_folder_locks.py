"""One writer in a folder: on a disk, on a disk that can lock nothing, and in a bucket."""

import errno
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest

from imagen_jax.errors import ForNowError, UserError
from imagen_jax.storage import folder_locks, leases
from imagen_jax.storage.folder_locks import locked
from imagen_jax.storage.holders import LOCK
from tests.tiers import thorough_except

PROGRAM = """
import sys, time
from imagen_jax.storage import leases
from imagen_jax.storage.folder_locks import locked
from imagen_jax.storage.paths import to_path

folder, kind = sys.argv[1:]
leases.RENEWED, leases.EXPIRED = 0.2, 2.0
if kind == "disk without flock":
    import errno, fcntl
    def flock(*_): raise OSError(errno.ENOLCK, "no locks available")
    fcntl.flock = flock
if kind == "bucket":
    from gcsfs.extended_gcsfs import BucketType, ExtendedGcsFileSystem
    async def ordinary(file_system, bucket): return BucketType.NON_HIERARCHICAL
    ExtendedGcsFileSystem._get_bucket_type = ordinary
with locked(to_path(folder), "--out") as lock:
    print("held", flush=True)
    while True:
        lock.check()
        time.sleep(0.05)
"""


@pytest.fixture(params=["disk", "disk without flock", "bucket"])
def target(request, tmp_path, monkeypatch):
    """A folder of each kind, what deletes it, and a way to have another process hold it."""
    monkeypatch.setattr(leases, "RENEWED", 0.2)
    monkeypatch.setattr(leases, "EXPIRED", 2.0)
    monkeypatch.setattr(leases, "SETTLED", 0.3)
    monkeypatch.setattr(folder_locks, "SECONDS_TO_HAND_OVER", 0.5)
    if request.param == "bucket":
        bucket = request.getfixturevalue("bucket")
        objects = request.getfixturevalue("fake_buckets").buckets[bucket.parts[2]]
        folder, delete = bucket / "run", objects.clear
    else:
        folder, delete = tmp_path / "run", partial(shutil.rmtree, tmp_path / "run")
        folder.mkdir()
    if request.param == "disk without flock":
        monkeypatch.setattr(fcntl, "flock", refuse_to_lock)
    held = []

    def hold():
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), request.param],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
        )  # fmt: skip
        held.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield SimpleNamespace(kind=request.param, folder=folder, delete=delete, hold=hold)
    for process in held:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def refuse_to_lock(*arguments):
    raise OSError(errno.ENOLCK, "no locks available")


def wait_for(seen):
    deadline = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def raised_by(check):
    try:
        check()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "target", thorough_except(["disk", "bucket"], ["disk", "disk without flock", "bucket"]), indirect=True
)
def test_the_error_names_the_holder_and_a_killed_one_leaves_nothing_behind(target):
    holder = target.hold()
    who = rf"\b{holder.pid}\b.*{re.escape(socket.gethostname())}.*\d{{4}}-.* UTC.*--out"
    for _ in range(2):
        with pytest.raises(ForNowError, match=who), locked(target.folder, "--out"):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    with locked(target.folder, "--out"):
        assert time.monotonic() - began < (1.0 if target.kind == "disk" else 10.0)
    began = time.monotonic()
    with locked(target.folder, "--out"):
        assert time.monotonic() - began < 1.5, "an orderly end leaves nothing to wait for"
    assert not (target.folder / LOCK).exists()


@pytest.mark.thorough
def test_waiting_for_a_lease_is_printed(target, capsys):
    holder = target.hold()
    holder.kill()
    holder.wait()
    with locked(target.folder, "--out"):
        pass
    assert (f"{target.folder / LOCK}" in capsys.readouterr().err) == (target.kind != "disk")


def test_of_many_that_come_at_once_one_gets_it(target):
    got, refused, over = [], [], threading.Event()

    def come():
        try:
            with locked(target.folder, "--out"):
                got.append(1)
                over.wait()
        except ForNowError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=come, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(refused) == 4)
    over.set()
    for thread in threads:
        thread.join()
    assert len(got) == 1


@pytest.mark.parametrize("change", thorough_except(["replaced"], ["deleted", "moved", "replaced"]))
def test_who_has_it_sees_that_it_is_gone(target, change):
    if target.kind == "bucket" and change == "moved":
        pytest.skip("a bucket can't move a folder at once")

    def write(lock):
        lock.check()
        if change == "moved":
            target.folder.rename(target.folder.with_name("moved"))
        else:
            target.delete()
        if change == "replaced" and target.kind != "bucket":
            target.folder.mkdir()
        wait_for(lambda: raised_by(lock.check))
        raise OSError(errno.ENOENT, "a failed write is not the reason")

    with pytest.raises(UserError, match=str(target.folder)), locked(target.folder, "--out") as lock:
        write(lock)
    assert target.kind == "bucket" or change != "replaced" or list(target.folder.iterdir()) == []


def test_that_it_is_gone_is_seen_at_the_end_too(target):
    with pytest.raises(UserError, match=str(target.folder)), locked(target.folder, "--out"):
        delete_and_wait(target)


def delete_and_wait(target):
    target.delete()
    time.sleep(0.6)


@pytest.mark.thorough
def test_who_was_held_up_for_too_long_has_lost_it(target):
    """Stopped, or without its network, while another one took over."""
    if target.kind == "disk":
        pytest.skip("the system keeps the lock of a process that is stopped")
    holder = target.hold()
    holder.send_signal(signal.SIGSTOP)
    with locked(target.folder, "--out") as lock:
        holder.send_signal(signal.SIGCONT)
        printed = holder.communicate(timeout=20)[1]
        assert re.search(rf"\b{os.getpid()}\b", printed.splitlines()[-1])
        time.sleep(1.0)
        lock.check()


@pytest.mark.thorough
def test_a_disks_lock_file_that_is_removed_alone_is_made_again(tmp_path):
    with locked(tmp_path, "--out") as lock:
        (tmp_path / LOCK).unlink()
        lock.check()
        with pytest.raises(ForNowError), locked(tmp_path, "--out"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_refuses_for_a_while_costs_no_lease(bucket, fake_buckets, monkeypatch):
    monkeypatch.setattr(leases, "RENEWED", 0.1)
    with locked(bucket / "run", "--out") as lock:
        fake_buckets.denied.add(LOCK)
        time.sleep(0.5)
        lock.check()
        fake_buckets.denied.clear()
        time.sleep(0.5)
        lock.check()
    assert fake_buckets.buckets[bucket.parts[2]] == {}


def test_an_error_is_its_own_where_the_folder_is_still_there(target):
    with pytest.raises(OSError, match="no space left"), locked(target.folder, "--out"):
        raise OSError(errno.ENOSPC, "no space left")
    assert not (target.folder / LOCK).exists()
