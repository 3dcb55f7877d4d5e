"""Flags of the commands that several hosts can run together, with one process per host."""

from absl import flags

from imagen_jax.errors import UserError
from imagen_jax.runtime import processes
from imagen_jax.runtime.preconditions import Precondition, check_flags

DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Several hosts run this command together and find each other, as on a TPU pod."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several hosts run this command together: the address of process 0, HOST:PORT."
)
PROCESS_COUNT = flags.DEFINE_integer("process_count", None, "With --coordinator: the number of processes.")
PROCESS_INDEX = flags.DEFINE_integer("process_index", None, "With --coordinator: the index of this process, from 0.")
HEARTBEAT_SECONDS = flags.DEFINE_float(
    "heartbeat_seconds", 100.0, "Max seconds without a heartbeat of a process before the others exit.", lower_bound=1.0
)

PRECONDITIONS = (
    Precondition(
        "heartbeat_seconds",
        lambda given: given.distributed or given.coordinator is not None,
        "--heartbeat_seconds has no effect on a single process: give --distributed or --coordinator with it",
    ),
)


def join_as_flagged() -> None:
    """Joins the other processes of the run, if the flags request it. Call it before any use of a device.

    Raises:
        UserError: the flags are incomplete or contradict each other, or JAX finds no other processes.
    """
    check_flags(PRECONDITIONS)
    coordinator, count, index = COORDINATOR.value, PROCESS_COUNT.value, PROCESS_INDEX.value
    named = {"coordinator": coordinator, "process_count": count, "process_index": index}
    given = [name for name, value in named.items() if value is not None]
    if DISTRIBUTED.value:
        if given:
            raise UserError(f"--distributed detects what --{given[0]} sets: give only one of them")
        processes.join(None, None, None, HEARTBEAT_SECONDS.value)
    elif given:
        check_named(coordinator, count, index)
        processes.join(coordinator, count, index, HEARTBEAT_SECONDS.value)


def check_named(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Checks ``--coordinator``, ``--process_count`` and ``--process_index``.

    Raises:
        UserError: a flag is missing or invalid.
    """
    if coordinator is None or count is None or index is None:
        raise UserError("--coordinator=HOST:PORT, --process_count and --process_index go together: give all three")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator={coordinator} has no port: write it as HOST:PORT, such as 10.0.0.2:8476")
    if not 0 <= index < count:
        raise UserError(
            f"--process_index={index} is out of range: choose 0 to {count - 1}, for --process_count={count}"
        )
