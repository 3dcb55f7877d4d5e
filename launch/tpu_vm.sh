#!/usr/bin/env bash
# Trains on a Cloud TPU pod, or on several (multislice), through queued resources.
#
#     bash launch/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [FLAG...] [-- ARGUMENT...]
#
# create     asks for the pod and waits until it is there
# install    copies the last commit of this checkout to all workers and sets it up there
# start      starts the training on all workers, each under supervise.sh: it survives this connection, and restarts
# watch      all of it: creates what is not there, installs and starts what does not run, recreates what was
#            preempted, until the training is done; training continues from its newest checkpoint
# logs       follows the log of one worker
# status     prints the state of the pod and its workers; docs/pods.md lists the states
# stop       ends the training on all workers
# delete     deletes the pod, which ends its costs
#
# --project=PROJECT                 if not the one of `gcloud config`
# --accelerator=v4-512              also v5p-512, v5litepod-256, v6e-256: generation and size of one slice
# --node_count=1                    slices
# --spot | --reserved               if neither, on demand
# --runtime_version=VERSION         if not the one that Google names for this generation
# --workdir=gs://BUCKET/RUN         where checkpoints go; a folder of the workers is lost with them
# --config=FILE[:VARIANT]           the experiment; its file must be in the last commit
# --node=0 --worker=0               whose log
# --poll_seconds=60                 between two looks at the state
# --create_flag=FLAG                one more flag of gcloud's queued-resources create, as in --create_flag=--network=NET
# --ssh_flag=FLAG                   one more of its ssh and scp, as in --ssh_flag=--tunnel-through-iap
# --dry_run                         prints the commands, ready to be pasted, and runs none
#
# What follows -- goes to imagen-jax train.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name='' zone='' project='' accelerator='' node_count=1 tier='' runtime_version='' workdir='' config='' node=0 worker=0
poll_seconds=60 dry_run=false
create_flags=() ssh_flags=() arguments=()
max_failures=10 # looks in a row at which gcloud may fail

# shellcheck source=launch/commands.sh
source launch/commands.sh
# shellcheck source=launch/accelerators.sh
source launch/accelerators.sh

read_flags() {
    while (($# > 0)); do
        case $1 in
            --name=* | --zone=* | --project=* | --accelerator=* | --node_count=* | --runtime_version=* | --workdir=* | \
                --config=* | --node=* | --worker=* | --poll_seconds=*)
                printf -v "$(sed 's/^--//; s/=.*//' <<<"$1")" %s "${1#*=}"
                ;;
            --spot | --reserved)
                [[ -z $tier || $tier == "$1" ]] || fail "--spot and --reserved exclude each other: give only one."
                tier=$1
                ;;
            --create_flag=*) create_flags+=("${1#*=}") ;;
            --ssh_flag=*) ssh_flags+=("${1#*=}") ;;
            --dry_run) dry_run=true ;;
            --) shift && arguments=("$@") && break ;;
            *) fail "there is no flag $1: bash $0 --help lists them, and flags of the training follow after --." ;;
        esac
        shift
    done
}

check_flags() {
    need "$command" name zone
    check_name "$name"
    [[ $node_count =~ ^[1-9][0-9]*$ ]] || fail "--node_count=$node_count is not a number of slices: give 1 or more."
    [[ $poll_seconds =~ ^[0-9]+$ ]] || fail "--poll_seconds=$poll_seconds is not a whole number of seconds."
    case $command in
        create | install | status | stop) need "$command" accelerator ;;
        start | watch)
            need "$command" accelerator workdir config
            [[ ${workdir%%/*} == gs: ]] ||
                fail "--workdir=$workdir is on the workers: each sees only its own, and a preemption deletes all." \
                    "Give a bucket, as in --workdir=gs://BUCKET/RUN."
            ;;
    esac
    case $command in
        create | install | start | watch) [[ -z $config ]] || check_config "$config" ;;
    esac
    if [[ -n $accelerator ]]; then
        parse_accelerator "$accelerator"
        workers=$((hosts * node_count))
    fi
    location=(--zone="$zone")
    [[ -z $project ]] || location+=(--project="$project")
}

# Looks at the queued resource: sets `state` to what Google calls it, to NONE where there is none, or to UNKNOWN where
# gcloud fails, whose words are then in `words`.
look() {
    local output errors
    if [[ $dry_run == true ]]; then
        show gcloud compute tpus queued-resources describe "$name" "${location[@]}" --format='value(state.state)'
        return
    fi
    errors=$(mktemp)
    if output=$(gcloud compute tpus queued-resources describe "$name" "${location[@]}" --format='value(state.state)' \
        2>"$errors"); then
        state=${output:-UNKNOWN} words="gcloud returned no state"
    else
        words=$(<"$errors")
        state=UNKNOWN
        [[ $words != *NOT_FOUND* ]] || state=NONE
    fi
    rm -f "$errors"
}

# Asks for the pod.
request() {
    local nodes=(--node-id="$name")
    ((node_count == 1)) || nodes=(--node-count="$node_count" --node-prefix="$name")
    [[ -n $runtime_version ]] || runtime_version=$(runtime_version)
    say "Requesting $node_count × $accelerator ($workers workers) in $zone"
    run gcloud compute tpus queued-resources create "$name" "${location[@]}" --accelerator-type="$accelerator" \
        --runtime-version="$runtime_version" "${nodes[@]}" ${tier:+"$tier"} ${create_flags[@]+"${create_flags[@]}"} ||
        fail "$name could not be requested: fix gcloud's error above (quota, zone and permissions are the usual" \
            "causes)."
}

# Waits until the pod is there, and says each new state.
wait_until_active() {
    local last='' silence=0
    while :; do
        look
        [[ $dry_run == false ]] || return 0
        [[ $state == "$last" ]] || say "$name is $state"
        last=$state
        case $state in
            ACTIVE) return 0 ;;
            FAILED | SUSPENDING | SUSPENDED | DELETING)
                fail "$name is $state and will not become a pod: delete it and create it again, or run" \
                    "bash launch/tpu_vm.sh watch."
                ;;
            NONE) fail "$name was deleted: create it again." ;;
            UNKNOWN)
                silence=$((silence + 1))
                ((silence < max_failures)) || fail "gcloud has failed $silence times in a row: $words"
                ;;
            *) silence=0 ;;
        esac
        sleep "$poll_seconds"
    done
}

create() {
    look
    if [[ $dry_run == true || $state == NONE ]]; then
        request
    elif [[ $state == UNKNOWN ]]; then
        fail "gcloud can't find out whether $name exists: $words"
    else
        say "$name exists already and is $state"
    fi
    wait_until_active
}

# Usage: on_workers WORD COMMAND   Runs a command on all workers, and makes sure that each has answered WORD: gcloud
# passes over a node that it can't prepare, with a warning and status 0.
on_workers() {
    local answers
    ask_workers "$2" || fail "$name: the command failed on a worker: see its output above."
    [[ $dry_run == false ]] || return 0
    answers=$(grep -c "^imagen-jax: $1 on " <<<"$output" || true)
    ((answers == workers)) ||
        fail "$answers of the $workers workers answered '$1': see the output above, and run the same command again" \
            "(before a start, stop)."
}

# Usage: ask_workers COMMAND   Leaves what all workers say in `output`.
ask_workers() {
    local log status=0
    output=
    if [[ $dry_run == true ]]; then
        show "${ssh[@]}" --node=all --worker=all --command="$1"
        return
    fi
    log=$(mktemp)
    "${ssh[@]}" --node=all --worker=all --command="$1" | tee "$log" || status=$?
    output=$(<"$log")
    rm -f "$log"
    return "$status"
}

pack() {
    [[ $dry_run == true ]] || git rev-parse --verify --quiet HEAD >/dev/null ||
        fail "$(pwd) is not a git checkout, and its last commit is copied to the workers: clone it with git."
    if [[ $dry_run == false && -n $(git status --porcelain --untracked-files=no) ]]; then
        say "warning: this checkout has uncommitted changes, which are not copied"
    fi
    run mkdir -p runs/launch
    run git archive --format=tar.gz --output=runs/launch/imagen-jax.tar.gz HEAD ||
        fail "the last commit could not be packed: see git's output above."
}

install() {
    # What an older commit left is removed; the environment and the logs stay.
    local unpack="mkdir -p imagen-jax && find imagen-jax -mindepth 1 -maxdepth 1 ! -name .venv ! -name runs"
    unpack+=" -exec rm -rf {} + && tar -xzf imagen-jax.tar.gz -C imagen-jax"
    pack
    say "Copying the last commit to $workers workers"
    run gcloud compute tpus queued-resources scp runs/launch/imagen-jax.tar.gz "$name:imagen-jax.tar.gz" \
        "${location[@]}" ${ssh_flags[@]+"${ssh_flags[@]}"} --node=all --worker=all ||
        fail "the checkout could not be copied to all workers: see gcloud's output above. With several workers it" \
            "needs your key in an agent: ssh-add ~/.ssh/google_compute_engine."
    say "Setting up $workers workers: minutes the first time"
    on_workers installed "$unpack && bash imagen-jax/launch/tpu_worker.sh install"
}

start() {
    local word line="bash imagen-jax/launch/tpu_worker.sh start"
    for word in --config="$config" --workdir="$workdir" ${arguments[@]+"${arguments[@]}"}; do
        line+=" $(quote "$word")"
    done
    say "Starting the training on $workers workers"
    on_workers started "$line"
    say "Started. Follow it with: bash launch/tpu_vm.sh logs --name=$name --zone=$zone${project:+ --project=$project}"
}

stop() {
    on_workers stopped "bash imagen-jax/launch/tpu_worker.sh stop"
}

logs() {
    run "${ssh[@]}" --node="$node" --worker="$worker" --command="tail -n 100 -F imagen-jax/runs/launch/train.log"
}

# What a worker without our checkout answers, too.
ask_status="if [ -e imagen-jax/launch/tpu_worker.sh ]; then bash imagen-jax/launch/tpu_worker.sh status;"
ask_status+=" else echo imagen-jax: absent on \$(hostname); fi"

status() {
    look
    [[ $dry_run == true ]] || say "$name is $state"
    [[ $dry_run == true || $state != UNKNOWN ]] || fail "gcloud can't find out the state of $name: $words"
    if [[ $dry_run == true || $state == ACTIVE ]]; then
        ask_workers "$ask_status" || fail "not all workers could be reached: see gcloud's output above."
    fi
}

delete() {
    look
    if [[ $dry_run == false && $state == NONE ]]; then
        say "There is no $name: nothing to delete"
        return
    fi
    say "Deleting $name"
    run gcloud compute tpus queued-resources delete "$name" "${location[@]}" --force --quiet ||
        fail "$name could not be deleted and costs money until it is: see gcloud's output above."
}

# Usage: count_answers PATTERN
count_answers() {
    grep -cE "^imagen-jax: $1 on " <<<"$output" || true
}

# Checks the workers of an active pod once, and restarts what does not run. Ends the watch where the training has ended;
# where it was asked to exit (75, or 143 before its first step), as by a maintenance, it is started again.
tend_workers() {
    local ended gone='(lost|idle|ended 75|ended 143)'
    if ! ask_workers "$ask_status" >/dev/null 2>&1 || (($(count_answers '.*') != workers)); then
        say "Not all workers answer: trying again in $poll_seconds s"
        return 1
    fi
    ended=$(grep -oE '^imagen-jax: ended [0-9]+' <<<"$output" | grep -vE ' (0|75|143)$' | head -n 1 || true)
    if [[ -n $ended ]]; then
        fail "the training ended with status ${ended##* } on a worker and does not restart by itself: read the log" \
            "(bash launch/tpu_vm.sh logs), fix the error, stop, and watch again. The pod still exists and costs money."
    elif (($(count_answers 'ended 0') == workers)); then
        say "The training is done. Now delete the pod: bash launch/tpu_vm.sh delete"
        exit 0
    elif (($(count_answers absent) > 0)); then
        (install) && (start)
    elif (($(count_answers "$gone") > 0)); then
        say "The training is not running on $(count_answers "$gone") of $workers workers: starting it on all"
        (stop) && (start)
    fi
}

# Looks time and again, and does what the state asks for.
watch() {
    local failures=0 last='' may_create=true
    if [[ $dry_run == true ]]; then
        create && install && start
        return
    fi
    while :; do
        look
        [[ $state == "$last" ]] || say "$name is $state"
        last=$state
        case $state in
            ACTIVE) tend_workers && failures=0 || failures=$((failures + 1)) ;;
            NONE)
                # Who deletes a pod wants no more costs.
                [[ $may_create == true ]] || fail "$name was deleted: the watch ends."
                (request) && failures=0 may_create=false || failures=$((failures + 1))
                ;;
            FAILED | SUSPENDED)
                say "$name was preempted or is not available: creating it again"
                (delete) && failures=0 may_create=true || failures=$((failures + 1))
                ;;
            UNKNOWN) failures=$((failures + 1)) ;;
            *) failures=0 may_create=false ;;
        esac
        [[ $state != ACTIVE ]] || may_create=false
        ((failures < max_failures)) || fail "$failures checks in a row have failed: see above. ${words:-}"
        sleep "$poll_seconds"
    done
}

command=${1:-}
case $command in
    create | install | start | watch | logs | status | stop | delete) shift ;;
    '' | -h | --help | help) sed -n '2,/^set -/s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) fail "there is no command '$command': use create, install, start, watch, logs, status, stop or delete." ;;
esac
read_flags "$@"
check_flags
ssh=(gcloud compute tpus queued-resources ssh "$name" "${location[@]}" ${ssh_flags[@]+"${ssh_flags[@]}"})
"$command"
