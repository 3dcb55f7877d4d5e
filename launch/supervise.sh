#!/usr/bin/env bash
# Runs a command, and runs it again after a preemption or a crash.
#
#     bash launch/supervise.sh [--give_up_after=10] [--progress_seconds=600] [--first_wait=5] [--longest_wait=300] \
#         [--status_file=FILE] COMMAND...
#
# Status 0 (done), 2 (something to fix) and 130 (Ctrl-C, maybe on another host) end it. Status 75 means that the
# command received SIGTERM and saved its state, so it runs again at once. After any other status it waits, twice as long
# each time, up to the longest wait. A run of at least progress_seconds counts as progress, and resets the wait and the
# count. After give_up_after failures in a row without progress it ends with the command's status.
#
# SIGTERM, SIGINT and SIGHUP are forwarded to the command; once it has ended, this ends with its status and starts nothing.
# The status with which this ends is also written to the status file.
set -euo pipefail

done_status=0
fixable=2
interrupted=130
restart_at_once=75

give_up_after=10
progress_seconds=600
first_wait=5
longest_wait=300
status_file=
child=
stop_signal=

# With a closed standard output, or after `| head -1`, the work continues.
{ : >&1; } 2>/dev/null || exec >/dev/null
trap '' PIPE

say() {
    printf '==> %s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" 2>/dev/null || true
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit "$fixable"
}

read_flags() {
    local name value
    case ${1:-} in
        -h | --help) sed -n '2,/^set -/s/^# \{0,1\}//p' "$0" && exit 0 ;;
    esac
    while (($# > 0)) && [[ $1 == --* ]]; do
        [[ $1 == -- ]] && shift && break
        name=${1%%=*} name=${name#--} value=${1#*=}
        case $name in
            give_up_after | progress_seconds | first_wait | longest_wait)
                [[ $value =~ ^[0-9]+$ ]] || fail "--$name must be a whole number, as in --$name=10, not $1."
                ;;
            status_file) ;;
            *)
                fail "there is no flag --$name: use --give_up_after, --progress_seconds, --first_wait, --longest_wait" \
                    "or --status_file."
                ;;
        esac
        printf -v "$name" %s "$value"
        shift
    done
    command=("$@")
    ((${#command[@]} > 0)) || fail "there is nothing to run: give a command, as in bash $0 imagen-jax train …"
}

# Usage: forward SIGNAL
forward() {
    stop_signal=$1
    say "Received SIG$1: waiting for the command to end"
    [[ -z $child ]] || kill -s "$1" "$child" 2>/dev/null || true
}

# Runs the command; leaves its status in `status`. A trapped signal cuts `wait` short while the command still runs.
run_once() {
    status=0
    # With job control, for else a command in the background is deaf to SIGINT.
    set -m
    "${command[@]}" &
    child=$!
    set +m
    # A signal may have come while the child's number was not known yet.
    [[ -z $stop_signal ]] || kill -s "$stop_signal" "$child" 2>/dev/null || true
    while :; do
        wait "$child" && status=0 || status=$?
        kill -0 "$child" 2>/dev/null || break
    done
    child=
}

# Sleeps in a way that a signal ends.
rest() {
    (($1 == 0)) && return
    sleep "$1" &
    local sleeper=$!
    wait "$sleeper" || true
    kill "$sleeper" 2>/dev/null || true
}

# Ends where nothing is to be run again.
end_if_finished() {
    if [[ -n $stop_signal ]]; then
        say "The command ended with status $status after SIG$stop_signal"
        exit "$status"
    fi
    case $status in
        "$done_status") say "Done" && exit "$done_status" ;;
        "$fixable") say "The command ended with status $fixable: fix the error above" && exit "$fixable" ;;
        "$interrupted") say "The command was interrupted: run it again to continue" && exit "$interrupted" ;;
    esac
}

read_flags "$@"
[[ -z $status_file ]] || trap 'echo $? >"$status_file"' EXIT
for signal in TERM INT HUP; do
    # shellcheck disable=SC2064 # the name is wanted as it is now
    trap "forward $signal" "$signal"
done

failures=0 restarts=0 pause=$first_wait
while :; do
    began=$SECONDS
    run_once
    end_if_finished
    ran=$((SECONDS - began))
    if ((ran >= progress_seconds)); then
        failures=0 pause=$first_wait
    fi
    if ((status == restart_at_once)); then
        now=0
        # Not in a rush where it left at once, time after time.
        ((ran >= first_wait)) || now=$first_wait
    else
        failures=$((failures + 1)) now=$pause
        if ((failures >= give_up_after)); then
            say "Status $status after $ran s: giving up after $failures failures in a row, none of which ran for" \
                "$progress_seconds s"
            exit "$status"
        fi
        pause=$((pause * 2 < longest_wait ? pause * 2 : longest_wait))
    fi
    restarts=$((restarts + 1))
    say "Status $status after $ran s: restart $restarts in $now s ($failures of $give_up_after failures in a row)"
    rest "$now"
    [[ -z $stop_signal ]] || end_if_finished
done
