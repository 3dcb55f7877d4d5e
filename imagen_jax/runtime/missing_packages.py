"""The message about a package that is not installed, where a command's module can't even be imported.

``runtime.main`` handles the errors of a command that runs. Before that, ``python -m imagen_jax.train`` imports packages
of the extra ``train``, and only Python's hook for uncaught errors sees that one is missing.
"""

import sys
from types import TracebackType

from imagen_jax.errors.packages import explain_missing_package
from imagen_jax.runtime.exit_status import ExitStatus


def explain_at_exit() -> None:
    """Makes an uncaught ``ImportError`` about a package of ours one message and status 2."""
    before = sys.excepthook

    def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        missing = explain_missing_package(error)
        if missing is None:
            before(kind, error, trace)
            return
        print(f"error: {missing}", file=sys.stderr)
        sys.stderr.flush()
        # Python exits with the status of a SystemExit that its hook raises.
        raise SystemExit(int(ExitStatus.USER_ERROR))

    sys.excepthook = explain
