# shellcheck shell=bash
# Sourced by the scripts that run Python. `set_up` fills .venv with exactly what requirements.lock names and with this
# checkout; it returns at once when that is already so.
#
# .venv/.installed   what the folder was filled for; there only when it was filled to the end
# .venv/.installing  the process that fills it, or filled it when it was cut off

set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# Usage: use_environment FOLDER   Another folder of the checkout than .venv.
use_environment() {
    environment=$1
    python=$checkout/$environment/bin/python
}
use_environment .venv

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

# Prints the comment at the top of the script that runs.
print_help() {
    sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"
}

# Usage: help_if_asked ARGUMENT...   With -h or --help among the arguments of the script, prints its help and ends it.
help_if_asked() {
    local argument
    for argument in "$@"; do
        if [[ $argument == -h || $argument == --help ]]; then
            print_help
            exit 0
        fi
    done
}

# Usage: take_no_arguments ARGUMENT...   For a script without arguments: prints its help if asked, else refuses them.
take_no_arguments() {
    help_if_asked "$@"
    (($# == 0)) || fail "$0 has no argument $1: leave it out, or see bash $0 --help."
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
    say "Installing pip, setuptools and uv"
    lock_entries pip setuptools uv >"$environment/installers.lock"
    pip_install --requirement "$environment/installers.lock" ||
        fail "the package index did not respond: connect to the network, or set PIP_INDEX_URL to a mirror, and run" \
            "this again (pip's output is above)."
    say "Installing the $(grep -c '^[a-zA-Z]' requirements.lock) packages of requirements.lock: minutes the first time"
    install_locked --requirement requirements.lock ||
        fail "a package could not be installed: fix pip's error above (the whole log is $environment/install.log)" \
            "and run this again."
    pip_install --no-build-isolation --editable . ||
        fail "this checkout could not be installed: see $environment/install.log."
    fingerprint >"$environment/.installed"
    rm "$environment/.installing"
    say "Set up in $environment after $(minutes)"
}

is_installed() {
    [[ -x $python && -f "$environment/.installed" && ! -e "$environment/.installing" ]] &&
        [[ $(fingerprint) == "$(<"$environment/.installed")" ]] && is_wanted_python
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

# requirements.lock has been resolved for these versions; free-threaded builds and PyPy need other wheels.
is_supported() {
    "$1" -IS -c 'import sys
version = sys.version_info[:2]
sys.exit(not (3, 11) <= version < (3, 15) or sys.implementation.name != "cpython" or "t" in sys.abiflags)' 2>/dev/null
}

make_environment() {
    local base started_by
    base=$(find_python) # before anything is deleted
    mkdir -p "$environment"
    if [[ -e "$environment/.installing" ]]; then
        started_by=$(<"$environment/.installing")
        refuse_if_running "$started_by"
        say "An earlier set-up was interrupted: starting again (downloads are kept)"
        empty_environment
    elif [[ -f "$environment/pyvenv.cfg" ]] && ! is_wanted_python; then
        say "The Python of $environment is missing or has another version: starting again"
        empty_environment
    fi
    echo $$ >"$environment/.installing"
    if [[ ! -x $python ]]; then
        check_disk 3
        say "Making $environment with $base ($(python_version "$base"))"
        "$base" -m venv "$environment" || fail "$base could not make $environment: see its output above."
    fi
}

# The mark stays to the end, so that a deletion that is cut off is not taken for an environment.
empty_environment() {
    echo $$ >"$environment/.installing"
    rm -rf "${environment:?}"/* "$environment/.installed" "$environment/.extra-"*
}

refuse_if_running() {
    if [[ $1 != "$$" ]] && kill -0 "$1" 2>/dev/null; then
        fail "process $1 seems to be setting up $environment now: wait for it, or delete $environment if there is" \
            "no such process."
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

# Prints the path of the Python to make the environment with: PYTHON, or the best of this machine.
find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        is_supported "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11 to 3.14: set PYTHON to one."
        "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || fail_without_venv "$PYTHON"
        command -v "$PYTHON"
        return
    fi
    candidate=$(best_python 1)
    if [[ -n $candidate ]]; then
        printf '%s\n' "$candidate"
        return
    fi
    while read -r candidate; do
        ! is_supported "$candidate" </dev/null || fail_without_venv "$candidate"
    done < <(list_pythons)
    fail "no Python of version 3.11 to 3.14 was found: install one, or pass it, as in PYTHON=/path/to/python3 bash $0."
}

fail_without_venv() {
    fail "$1 cannot make virtual environments, or lacks a standard module: install it whole (on Debian and Ubuntu" \
        "apt-get install python3-venv)."
}

# Usage: best_python CONDITION   Prints the path of the best Python whose rank and version meet a condition of awk, as in
# 'version == "3.11"'; nothing if there is none.
best_python() {
    rank_pythons | awk "{rank = \$1; version = \$2} ($1) && !found++"' {sub(/^[^ ]+ [^ ]+ /, ""); print}'
}

# Prints the Pythons that can make an environment, best first: rank, version and path, as in "4 3.13 /bin/python3.13".
rank_pythons() {
    local candidate ranked
    list_pythons | while read -r candidate; do
        if is_supported "$candidate" </dev/null && ranked=$(rank_python "$candidate" </dev/null); then
            printf '%s %s\n' "$ranked" "$candidate"
        fi
    done | sort -s -k 1,1nr
}

# Prints rank and version. The newest is the best, except that 3.14 is untested, and that 3.12.1 crashes in a garbage
# collection when it holds many compiled programs. A Python that was built without a system library lacks its module.
rank_python() {
    "$1" -IS -c 'import sys, bz2, ctypes, ensurepip, lzma, ssl, venv
version = sys.version_info[:2]
early = version == (3, 12) and sys.version_info[2] < 4
print(1 if early else {11: 2, 12: 3, 13: 4, 14: 0}[version[1]], "%d.%d" % version)' 2>/dev/null
}

# Prints the paths of all Pythons: those of the PATH, pyenv's and uv's.
list_pythons() {
    local pyenv uv
    pyenv=${PYENV_ROOT:-$(pyenv root 2>/dev/null || printf '%s/.pyenv' "${HOME:-}")}
    uv=${UV_PYTHON_INSTALL_DIR:-$(uv python dir 2>/dev/null ||
        printf '%s/uv/python' "${XDG_DATA_HOME:-${HOME:-}/.local/share}")}
    {
        type -aP python3 python3.14 python3.13 python3.12 python3.11 python || true
        compgen -G "$pyenv/versions/*/bin/python3" || true
        compgen -G "$uv/*/bin/python3" || true
    } | grep -vF "$checkout/.venv" || true
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
    local extra=$1 mark=$environment/.extra-$1
    if [[ -f $mark ]] && cat setup.py requirements.lock | cmp -s - "$mark"; then
        return
    fi
    check_disk "$2"
    say "Installing ${*:3}"
    # With the markers, for a package may have one version for each Python.
    sed -n 's/^\([a-zA-Z][^ ]*==.*[^ \\]\) *\\$/\1/p' requirements.lock >"$environment/locked_versions.txt"
    PYTHONWARNINGS=ignore "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-build-isolation \
        --constraint "$environment/locked_versions.txt" --editable ".[$extra]" ||
        fail "the packages of the extra '$extra' could not be installed: fix pip's error above and run this again."
    cat setup.py requirements.lock >"$mark"
}

# Usage: install_locked --requirement FILE   Installs what the file names; uv does, or else pip.
install_locked() {
    uv_install "$@" || {
        say "uv can't install them here (see $environment/install.log): pip does"
        pip_install --no-build-isolation "$@"
    }
}

# Runs uv as `pip_install` runs pip, in less than half of its time: it downloads several packages at once, and all cores
# unpack and compile. It reads none of pip's settings, so those of packages' sources are handed to it. Returns a failure
# where one of them has no counterpart, or where uv fails.
uv_install() {
    local name value one extra='' links='' index='' cache='' options=()
    # The stronger settings come later, as in global.extra-index-url='https://one\nhttps://two'.
    while IFS='=' read -r name value; do
        value=${value#[\'\"]} value=${value%[\'\"]}
        case $name in
            global.* | install.* | :env:.*) ;;
            *) continue ;;
        esac
        case ${name##*.} in
            index-url) index=$value ;;
            extra-index-url) extra=$value ;;
            find-links) links=$value ;;
            cache-dir) cache=$value ;;
            no-cache-dir) options+=(--no-cache) ;;
            cert) local -x SSL_CERT_FILE=$value ;;
            client-cert | no-binary | no-index | only-binary | proxy | trusted-host) return 1 ;;
        esac
    done < <("$python" -m pip config list)
    [[ -z $index ]] || options+=(--default-index "$index")
    [[ -z $cache ]] || options+=(--cache-dir "$cache/uv")
    for one in ${extra//\\n/ }; do options+=(--index "$one"); done
    for one in ${links//\\n/ }; do options+=(--find-links "$one"); done
    # To pip all indexes are alike. The hashes say what may come from any of them.
    "$python" -m uv pip install --python "$python" --no-deps --no-build-isolation --require-hashes --compile-bytecode \
        --index-strategy unsafe-best-match ${options[@]+"${options[@]}"} "$@" 2>&1 |
        tee -a "$environment/install.log" | show '/^Downloading/ {print "    " $0; fflush()}'
}

# Runs pip without resolving, since the lock is complete, and shows every tenth package of the many lines it prints.
pip_install() {
    "$python" -m pip install --disable-pip-version-check --no-input --progress-bar off --no-deps "$@" 2>&1 |
        tee -a "$environment/install.log" |
        show '/^Collecting/ && ++count % 10 == 0 {print "    " count " packages"; fflush()}
            /^ *(ERROR|error)/ {print "    " $0; fflush()}'
}

# Usage: show PROGRAM   What a program of awk prints of an installer's lines; nothing where nobody reads.
show() {
    awk "$1" 2>/dev/null || cat >/dev/null
}
