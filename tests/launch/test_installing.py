"""uv installs the lock with pip's settings, and pip does where uv can't."""

import os
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

PYTHON = """#!/bin/sh
case "$*" in
"-m pip config list") cat "$FOLDER/settings" ;;
"-m uv pip install"*) echo "uv ${SSL_CERT_FILE:-} $*" >>"$FOLDER/record" && exit "$UV_STATUS" ;;
"-m pip install"*) echo "pip" >>"$FOLDER/record" ;;
esac
"""


@pytest.fixture
def install(tmp_path):
    """Installs with these settings of pip; returns what was started: uv with its arguments, and pip."""
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def run(settings, uv_status=0):
        (tmp_path / "settings").write_text(settings)
        (tmp_path / "record").unlink(missing_ok=True)
        command = f"source launch/set_up.sh; environment={tmp_path}; python={python}; install_locked --requirement list"
        variables = os.environ | {"FOLDER": str(tmp_path), "UV_STATUS": str(uv_status)}
        done = subprocess.run(["bash", "-c", command], cwd=CHECKOUT, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return (tmp_path / "record").read_text().splitlines()

    return run


def test_uv_gets_pips_settings(install):
    (plain,) = install("")
    assert plain.startswith("uv ") and "--require-hashes" in plain
    assert "--index-strategy unsafe-best-match --requirement list" in plain, "and nothing between them"
    settings = [
        "global.cert='/etc/a root.pem'",
        "global.index-url='https://file/simple'",
        "install.extra-index-url='https://one/?a=b\\nfile:///two'",
        "download.proxy='http://proxy:3128'",
        ":env:.cache-dir='/cache'",
        ":env:.find-links='/wheels'",
        ":env:.index-url='https://mirror/simple'",
        ":env:.timeout='180'",
    ]
    (line,) = install("\n".join(settings) + "\n")
    assert line.startswith("uv /etc/a root.pem ")
    wanted = (
        "--default-index https://mirror/simple --cache-dir /cache/uv --index https://one/?a=b --index file:///two "
        "--find-links /wheels"
    )
    assert f" {wanted} --requirement list" in line


@pytest.mark.parametrize("setting", ["global.proxy='http://proxy:3128'", ":env:.no-index='1'"])
def test_pip_installs_where_uv_has_no_such_setting(install, setting):
    assert install(f"{setting}\n") == ["pip"]


def test_pip_installs_what_uv_could_not(install):
    first, second = install("", uv_status=2)
    assert first.startswith("uv ") and second == "pip"
