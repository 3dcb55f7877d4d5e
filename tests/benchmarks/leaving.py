"""How long it takes from SIGTERM to a checkpoint that is whole, and to the end of the process: the quickstart's base.

python -m tests.benchmarks.leaving [ROUNDS] [DATA_DIR]

The signal comes at another moment of a step each time; a training under way may have a step of some seconds to end.
"""

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from imagen_jax.runtime.exit_status import ExitStatus


def main() -> None:
    """Prints the seconds of each round and their medians."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        data = sys.argv[2] if len(sys.argv) > 2 else f"{folder}/data"
        taken = [leave(Path(folder) / f"run_{number}", data, 1.0 + 0.7 * number) for number in range(rounds)]
    for whole, ended in taken:
        print(f"checkpoint whole after {whole:.1f} s, process ended after {ended:.1f} s")
    print(
        f"median: whole {statistics.median(one for one, _ in taken):.1f} s, "
        f"ended {statistics.median(one for _, one in taken):.1f} s"
    )


def leave(workdir: Path, data: str, wait: float) -> tuple[float, float]:
    """Starts a training, tells it to leave some seconds after its first step; seconds to checkpoint and to the end."""
    command = [sys.executable, "-m", "imagen_jax.train", "--config=configs/quickstart.py:base", f"--workdir={workdir}"]
    command += [f"--config.data.data_dir={data}", "--config.training.log_every=1"]
    output_file = workdir.with_suffix(".txt")
    with output_file.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    while "1/" not in output_file.read_text().rpartition("Training")[2]:
        if process.poll() is not None:
            raise RuntimeError(output_file.read_text())
        time.sleep(0.05)
    time.sleep(wait)
    began = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    whole = None
    while process.poll() is None:
        if whole is None and any(path.name.isdecimal() for path in (workdir / "checkpoints").glob("*")):
            whole = time.perf_counter() - began
        time.sleep(0.01)
    if process.returncode != ExitStatus.PREEMPTED or whole is None:
        raise RuntimeError(output_file.read_text())
    return whole, time.perf_counter() - began


if __name__ == "__main__":
    main()
