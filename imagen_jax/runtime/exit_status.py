"""Exit statuses of every command; ``launch/supervise.sh`` and job schedulers act on them."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """Why a process ended.

    Attributes:
        DONE: the command did its work.
        DEFECT: a bug of ours; the traceback says where.
        USER_ERROR: something that the user can fix; one sentence says how.
        PEER_LOST: another process of the run ended or never came; the same command on all hosts resumes.
        TRY_LATER: a disk, network or bucket rejects for now, or another process has the folder; the same command
            resumes.
        PREEMPTED: SIGTERM came and everything is saved; the same command resumes.
        INTERRUPTED: Ctrl-C was pressed, here or on another host; nothing restarts the command by itself.
    """

    DONE = 0
    DEFECT = 1
    USER_ERROR = 2
    PEER_LOST = 3
    TRY_LATER = 74
    PREEMPTED = 75
    INTERRUPTED = 130
