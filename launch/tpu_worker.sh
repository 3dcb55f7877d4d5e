#!/usr/bin/env bash
# What runs on each worker of a TPU pod; tpu_vm.sh calls it there, in the checkout that it has copied.
#
#     bash launch/tpu_worker.sh install
#     bash launch/tpu_worker.sh start ARGUMENT...    trains under supervise.sh; the arguments go to imagen_jax.train
#     bash launch/tpu_worker.sh status | stop
#
# runs/launch/train.log         the output of the supervisor and the training
# runs/launch/supervisor.pid    the supervisor, while it runs or after the machine was rebooted under it
# runs/launch/ended             its status, once it has ended
#
# Each command closes with a line "imagen-jax: WORD on HOST", by which tpu_vm.sh counts who has answered.
set -euo pipefail
# shellcheck source=launch/set_up.sh
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"

folder=$checkout/runs/launch
log=$folder/train.log

# Usage: answer WORD...
answer() {
    printf 'imagen-jax: %s on %s\n' "$*" "$(hostname)"
}

is_running() {
    [[ -f $folder/supervisor.pid ]] &&
        tr '\0' ' ' 2>/dev/null <"/proc/$(<"$folder/supervisor.pid")/cmdline" | grep -q supervise.sh
}

# The image's own Python where it will do; else one that uv brings, since the images of v4 to v6e come with 3.10.
choose_python() {
    if (find_python) >/dev/null 2>&1; then
        return
    fi
    say "No Python of version 3.11 to 3.14 here: installing 3.13 with uv"
    python3 -m pip install --quiet --user --disable-pip-version-check uv==0.13.9 ||
        fail "uv could not be installed: see pip's output above. A worker without an external address needs Cloud NAT."
    python3 -m uv python install --quiet 3.13 ||
        fail "uv could not fetch Python 3.13: see its output above, or make an image with Python 3.11 to 3.14."
    PYTHON=$(python3 -m uv python find --managed-python 3.13)
    export PYTHON
}

install() {
    cd "$checkout"
    ! is_running || fail "a training is running on $(hostname): stop it first."
    if ! is_installed; then
        choose_python
        set_up
    fi
    install_extra tpu 2 "libtpu"
    answer installed
}

start() {
    cd "$checkout"
    ! is_running || fail "a training is already running on $(hostname): stop it first."
    [[ -x $python ]] || fail "$(hostname) is not set up: install first."
    mkdir -p "$folder"
    rm -f "$folder/ended"
    # shellcheck source=launch/tpu_environment.sh
    source launch/tpu_environment.sh
    # A session of its own, which the end of the ssh connection does not touch.
    setsid nohup bash launch/supervise.sh --status_file="$folder/ended" \
        "$python" -m imagen_jax.train --distributed "$@" </dev/null >>"$log" 2>&1 &
    echo $! >"$folder/supervisor.pid"
    answer started
}

status() {
    if is_running; then
        answer running
    elif [[ -f $folder/ended ]]; then
        answer ended "$(<"$folder/ended")"
    elif [[ -f $folder/supervisor.pid ]]; then
        answer lost
    else
        answer idle
    fi
}

# Signals the supervisor, which signals the training, which may save before it ends.
stop() {
    local seconds
    if is_running; then
        kill "$(<"$folder/supervisor.pid")"
        for ((seconds = 0; seconds < ${STOP_SECONDS:-120}; seconds++)); do
            is_running || break
            sleep 1
        done
        ! is_running || fail "the training on $(hostname) did not stop in ${STOP_SECONDS:-120} s: stop again, or delete the pod."
    fi
    rm -f "$folder/supervisor.pid" "$folder/ended"
    answer stopped
}

command=${1:-}
case $command in
    install | start | status | stop) shift && "$command" "$@" ;;
    -h | --help | help) print_help ;;
    *) fail "there is no command '$command': use install, start, status or stop." ;;
esac
