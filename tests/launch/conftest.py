"""Programs that stand in for gcloud and kubectl, and a way to run the scripts of `launch/` with them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent


class Cloud:
    """What a script under test sees of Google's cloud, and what it did there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for program in ("gcloud", "kubectl"):
            file = self.bin / program
            file.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{HERE}/fake_{program}.py" "$@"\n')
            file.chmod(0o755)
        self.environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(folder),
            "FAKE_CLOUD": str(folder / "cloud.json"),
            "FAKE_RECORD": str(folder / "record.jsonl"),
        }
        self.set()

    def set(self, **settings: Any) -> None:
        """Describes the cloud; ``fake_gcloud.py`` says with which keys."""
        (self.folder / "cloud.json").write_text(json.dumps(settings))

    def get(self) -> dict[str, Any]:
        return json.loads((self.folder / "cloud.json").read_text())

    def calls(self) -> list[list[str]]:
        """The command lines that were given to the programs, each with its program's name."""
        record = self.folder / "record.jsonl"
        return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []

    def run(self, script: str, *arguments: str, checkout: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(checkout / script), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script of the checkout with what it needs of the environment and nothing else."""

    def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(CHECKOUT / script), *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture(scope="session")
def tools(tmp_path_factory):
    """All programs of this machine except Pythons, and what finds Pythons."""
    folder = tmp_path_factory.mktemp("tools")
    for place in os.environ["PATH"].split(":"):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            if not program.name.startswith(("python", "pyenv", "uv")) and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return folder
