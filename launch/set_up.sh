# shellcheck shell=bash
# Sourced by quickstart.sh, test.sh, lock.sh and tpu_worker.sh. `set_up` fills .venv with exactly what requirements.lock names and with
# this checkout; it returns at once when that is already so.
#
# .venv/.installed   what the folder was filled for; there only when it was filled to the end
# .venv/.installing  the process that fills it, or filled it when it was cut off

set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$checkout/.venv/bin/python

# With a closed standard output, or after `| head -1`, the work continues.
{ : >&1; } 2>/dev/null || exec >/dev/null
trap '' PIPE
say() {
    printf '==> %s\n' "$*" 2>/dev/null || true
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# Prints the seconds since the script began as minutes.
minutes() {
    printf '%d.%d min' $((SECONDS / 60)) $((SECONDS % 60 / 6))
}

set_up() {
    cd "$checkout"
    if is_installed; then
        return
    fi
    make_environment
    # The installers come first, because one locked package is built from source by them.
    say "Installing pip and setuptools"
    lock_entries pip setuptools >.venv/installers.lock
    pip_install --requirement .venv/installers.lock ||
        fail "the package index did not respond: connect to the network, or set PIP_INDEX_URL to a mirror, and run" \
            "this again (pip's output is above)."
    say "Installing the $(grep -c '^[a-zA-Z]' requirements.lock) packages of requirements.lock: minutes the first time"
    pip_install --no-build-isolation --requirement requirements.lock ||
        fail "a package could not be installed: fix pip's error above (the whole log is .venv/install.log) and run" \
            "this again."
    pip_install --no-build-isolation --editable . ||
        fail "this checkout could not be installed: see .venv/install.log."
    fingerprint >.venv/.installed
    rm .venv/.installing
    say "Set up in .venv after $(minutes)"
}

is_installed() {
    [[ -x $python && -f .venv/.installed && ! -e .venv/.installing ]] &&
        [[ $(fingerprint) == "$(<.venv/.installed)" ]] && is_wanted_python
}

# Prints what .venv depends on: the lock, the metadata, Python and the folder itself (an environment cannot be moved).
fingerprint() {
    "$python" -IS - "$checkout" <<'PYTHON'
import hashlib, pathlib, sys

checkout = pathlib.Path(sys.argv[1])
contents = b"".join((checkout / name).read_bytes() for name in ("requirements.lock", "setup.py"))
print(hashlib.sha256(contents).hexdigest(), sys.version.split()[0], checkout)
PYTHON
}

# Whether .venv runs the version that PYTHON asks for, or, where PYTHON is not set, any that will do.
is_wanted_python() {
    if [[ -n ${PYTHON:-} ]]; then
        [[ $(python_version "$python") == "$(python_version "$PYTHON")" ]]
    else
        is_supported "$python"
    fi
}

python_version() {
    "$1" -IS -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null
}

# requirements.lock has been resolved for these versions.
is_supported() {
    "$1" -IS -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null
}

make_environment() {
    local base started_by
    base=$(find_python) # before anything is deleted
    mkdir -p .venv
    if [[ -e .venv/.installing ]]; then
        started_by=$(<.venv/.installing)
        refuse_if_running "$started_by"
        say "An earlier set-up was interrupted: starting again (pip still has its downloads)"
        empty_environment
    elif [[ -f .venv/pyvenv.cfg ]] && ! is_wanted_python; then
        say "The Python of .venv is missing or has another version: starting again"
        empty_environment
    fi
    echo $$ >.venv/.installing
    if [[ ! -x $python ]]; then
        check_disk 3
        say "Making .venv with $base ($(python_version "$base"))"
        "$base" -m venv .venv || fail "$base could not make .venv: see its output above."
    fi
}

# The mark stays to the end, so that a deletion that is cut off is not taken for an environment.
empty_environment() {
    echo $$ >.venv/.installing
    rm -rf .venv/* .venv/.installed .venv/.extra-*
}

refuse_if_running() {
    if [[ $1 != "$$" ]] && kill -0 "$1" 2>/dev/null; then
        fail "process $1 seems to be setting up .venv now: wait for it, or delete .venv if there is no such process."
    fi
}

# Usage: check_disk GIBIBYTES
check_disk() {
    local free
    free=$(df -Pk . | awk 'NR == 2 {print $4}')
    ((free >= $1 * 1024 * 1024)) ||
        fail "the installation needs about $1 GB of disk, and $checkout has $((free / 1024)) MB: make room and run this" \
            "again."
}

find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        is_supported "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11 to 3.14: set PYTHON to one."
        check_venv "$PYTHON"
        return
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if is_supported "$candidate"; then
            check_venv "$candidate"
            return
        fi
    done
    fail "no Python of version 3.11 to 3.14 was found: install one, or pass it, as in PYTHON=/path/to/python3 bash $0."
}

# Prints the Python's path when it can make environments.
check_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$1 cannot make virtual environments: install its venv module (on Debian and Ubuntu" \
            "apt-get install python3-venv)."
    command -v "$1"
}

# Usage: lock_entries NAME...   Prints these packages' lines of requirements.lock, hashes included.
lock_entries() {
    awk -v names=" $* " '
        /^[a-zA-Z]/ {split($0, entry, "=="); wanted = index(names, " " entry[1] " ")}
        wanted && !/^ *#/' requirements.lock
}

# Usage: install_extra EXTRA GIBIBYTES WHAT...   After `set_up`. Such packages come with needs of their own, so pip
# resolves them, held to the versions of the lock.
install_extra() {
    local extra=$1 mark=.venv/.extra-$1
    if [[ -f $mark ]] && cat setup.py requirements.lock | cmp -s - "$mark"; then
        return
    fi
    check_disk "$2"
    say "Installing ${*:3}"
    # With the markers, for a package may have one version for each Python.
    sed -n 's/^\([a-zA-Z][^ ]*==.*[^ \\]\) *\\$/\1/p' requirements.lock >.venv/locked_versions.txt
    PYTHONWARNINGS=ignore "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-build-isolation \
        --constraint .venv/locked_versions.txt --editable ".[$extra]" ||
        fail "the packages of the extra '$extra' could not be installed: fix pip's error above and run this again."
    cat setup.py requirements.lock >"$mark"
}

# Runs pip without resolving, since the lock is complete, and shows every tenth package of the many lines it prints.
pip_install() {
    "$python" -m pip install --disable-pip-version-check --no-input --progress-bar off --no-deps "$@" 2>&1 |
        tee -a .venv/install.log |
        { awk '/^Collecting/ && ++count % 10 == 0 {print "    " count " packages"; fflush()}
               /^ *(ERROR|error)/ {print "    " $0; fflush()}' 2>/dev/null || cat >/dev/null; }
}
