"""What processes tell each other, through a store that is a dict. tests/distributed has real ones."""

import re
import subprocess
import sys
import threading
import time

import jax
import pytest

from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.runtime.exit_status import ExitStatus
from imagen_jax.runtime.process_group import ProcessGroup


class Store(dict):
    """The key-value store of JAX's coordination service."""

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self
        self[key] = value

    def blocking_key_value_get(self, key, timeout_in_ms):
        return self[key]

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.items() if key.startswith(folder)]

    def wait_at_barrier(self, name, timeout_in_ms):
        pass


@pytest.fixture
def be(monkeypatch):
    """``be(index)`` makes this process that of two."""
    store = Store()

    def become(index, heartbeat_seconds=100.0):
        process_group = ProcessGroup(store, index, 2, "127.0.0.1:1", heartbeat_seconds)
        monkeypatch.setattr(processes, "_group", process_group)
        return process_group

    return become


@pytest.fixture
def endings(monkeypatch):
    """Sentences and statuses that processes ended with, instead of ending this one."""
    ended = []

    def end(self, sentence, status=ExitStatus.PEER_LOST):
        ended.append((sentence, status))
        raise SystemExit

    monkeypatch.setattr(ProcessGroup, "end", end)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    return ended


def wait_for(seen):
    began = time.monotonic()
    while not seen() and time.monotonic() - began < 20:
        time.sleep(0.02)
    assert seen()


def test_a_single_process_waits_for_no_other(tmp_path):
    assert processes.is_process_zero() and not processes.is_multi_process() and processes.last_steps() == {}
    processes.check_agreement({"seed": 0})
    processes.barrier("nothing")
    processes.check_shared(tmp_path)
    processes.note_step(1)
    processes.leave()
    assert processes.run_on_process_zero_first(lambda: 7) == 7 and list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), processes.exiting_at_once(), processes.announcing_exit():
        raise KeyError("a mistake of ours")


def test_who_differs_is_named(be):
    be(0)
    processes.check_agreement({"config.seed": 0, "config.network.channels": (8, 16)})
    be(1)
    processes.check_agreement({"config.seed": 0, "config.network.channels": (8, 16)})
    be(1)
    with pytest.raises(UserError, match=r"process 1 has config.seed=3 and process 0 has 0"):
        processes.check_agreement({"config.seed": 3, "config.network.channels": (8, 16)})


def test_a_folder_that_only_one_host_sees_is_named_with_the_fix(be, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "SECONDS_TO_SEE_A_FILE", 0.0)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir(), theirs.mkdir()
    looked = []

    def look(name, timeout_in_ms):
        first = processes._group
        monkeypatch.setattr(first.client, "wait_at_barrier", lambda *_: None)
        be(1)
        looked.append(processes.check_shared(ours))
        be(1)
        with pytest.raises(UserError, match=r"process 1 .*theirs.* a disk that all hosts share, or into a bucket"):
            processes.check_shared(theirs)

    be(0).client.wait_at_barrier = look
    processes.check_shared(ours)
    assert looked == [None] and list(ours.iterdir()) == [], "the token is removed when all have looked"


def test_the_first_acts_before_the_others(be):
    order = []
    for index in (0, 1):
        be(index).client.wait_at_barrier = lambda *_, index=index: order.append(f"{index} meets")
        processes.run_on_process_zero_first(lambda index=index: order.append(f"{index} acts"))
    assert order == ["0 acts", "0 meets", "1 meets", "1 acts"]


def test_a_silent_process_ends_the_others(be, endings):
    other, here = be(1, heartbeat_seconds=0.5), be(0, heartbeat_seconds=0.5)
    other.step, here.step = 6, 7
    other.start()
    here.start()
    wait_for(lambda: here.steps[1] == 6)
    time.sleep(1.0)
    assert endings == [], "both live"
    other.stop()
    wait_for(lambda: endings)
    assert re.match(r"process 1 .*\b0\.5 s\b.*\bstep 6\b", endings[0][0])
    here.stop()


def test_an_error_of_one_ends_the_others(be, endings):
    be(1)
    with pytest.raises(UserError), processes.announcing_exit():
        raise UserError("the disk is full: make room")
    here = be(0, heartbeat_seconds=5.0)
    here.start()
    wait_for(lambda: endings)
    assert endings == [("process 1 has ended: the disk is full: make room", ExitStatus.PEER_LOST)]
    here.stop()


def test_ctrl_c_on_one_host_is_the_end_of_the_others_and_no_loss(be, endings):
    """So that no supervisor runs them again."""
    be(1)
    with pytest.raises(KeyboardInterrupt), processes.announcing_exit():
        raise KeyboardInterrupt
    here = be(0, heartbeat_seconds=5.0)
    here.start()
    wait_for(lambda: endings)
    ((message, status),) = endings
    assert re.match("process 1 .*Ctrl-C", message) and status == ExitStatus.INTERRUPTED
    here.stop()


def test_a_store_that_never_answers_is_a_lost_process_0(be, endings):
    """As that of a process that is stopped: what asks it waits for ever."""
    be(0)
    here = be(1, heartbeat_seconds=0.5)
    answer = threading.Event()

    def answer_late(folder):
        answer.wait()
        return []

    here.client.key_value_dir_get = answer_late
    here.start()
    wait_for(lambda: endings)
    assert re.match(r"process 0 .*\b0\.5 s\b", endings[0][0]) and endings[0][1] == ExitStatus.PEER_LOST
    answer.set()
    here.stop()


def test_a_version_of_jax_without_the_service_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax._src.distributed", None)
    with pytest.raises(UserError) as raised:
        processes.join("127.0.0.1:9", 2, 1, 10.0)
    assert jax.__version__ in str(raised.value)


@pytest.mark.thorough
def test_others_that_never_come_are_a_sentence():
    """JAX aborts the process then."""
    program = "\n".join(
        [
            "from imagen_jax.runtime import processes",
            "processes.JOIN_SECONDS = 1",
            "processes.join('127.0.0.1:9', 2, 1, 10.0)",
        ]
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == ExitStatus.PEER_LOST
    assert "error: not all processes came to 127.0.0.1:9 within 1 s: start all" in ended.stderr.splitlines()[-1]
