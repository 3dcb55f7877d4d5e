#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster, as a JobSet.
#
#     bash launch/gke/train.sh COMMAND --name=NAME [FLAG...] [-- ARGUMENT...]
#
# nodes      makes the node pools, one a slice (NAME-0, NAME-1, …)
# render     prints the manifest
# apply      gives it to the cluster; a JobSet of this name that has ended must be deleted before
# status     prints the state of the JobSet and its pods
# logs       follows the log of one host
# delete     deletes the JobSet; the node pools stay, and cost, until they are deleted or scaled to nothing
#
# --accelerator=v4-512         also v5p-512, v5litepod-256, v6e-256: generation and size of one slice
# --topology=4x8x8             of the slice, as its node pool was made
# --slices=1
# --image=IMAGE                made from launch/gke/Dockerfile
# --workdir=gs://BUCKET/RUN    where checkpoints go
# --config=FILE[:VARIANT]      the experiment; its file must be in the last commit, of which the image is made
# --spot                       nodes of Spot VMs; --reservation=NAME: of a reservation
# --service_account=NAME       of the cluster, with rights on the bucket
# --max_restarts=100           how often the training may be restarted, preemptions included
# --slice=0 --host=0           whose log
# --cluster=CLUSTER --location=ZONE, --project=   where the node pools are made
# --context=, --namespace=     of kubectl, if not the present ones
# --dry_run                    prints the commands, ready to be pasted, and runs none
#
# What follows -- goes to imagen-jax train.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

name='' accelerator='' topology='' slices=1 image='' workdir='' config='' spot=false reservation='' service_account=''
max_restarts=100 slice=0 host=0 cluster='' location='' project='' context=''
namespace='' dry_run=false
arguments=()

# shellcheck source=launch/commands.sh
source launch/commands.sh
# shellcheck source=launch/accelerators.sh
source launch/accelerators.sh
# shellcheck source=launch/tpu_environment.sh
source launch/tpu_environment.sh

read_flags() {
    while (($# > 0)); do
        case $1 in
            --name=* | --accelerator=* | --topology=* | --slices=* | --image=* | --workdir=* | --config=* | \
                --reservation=* | --service_account=* | --max_restarts=* | --slice=* | --host=* | --cluster=* | \
                --location=* | --project=* | --context=* | --namespace=*)
                printf -v "$(sed 's/^--//; s/=.*//' <<<"$1")" %s "${1#*=}"
                ;;
            --spot) spot=true ;;
            --dry_run) dry_run=true ;;
            --) shift && arguments=("$@") && break ;;
            *) fail "there is no flag $1: bash $0 --help lists them, and flags of the training follow after --." ;;
        esac
        shift
    done
}

check_flags() {
    local number
    need "$command" name
    check_name "$name"
    for number in slices max_restarts slice host; do
        [[ ${!number} =~ ^[0-9]+$ ]] || fail "--$number=${!number} is not a number: give one, as in --$number=1."
    done
    if [[ $command == render || $command == apply ]]; then
        need "$command" accelerator topology image workdir config
        [[ ${workdir%%/*} == gs: ]] ||
            fail "--workdir=$workdir is in the pods: each sees only its own, and a restart deletes all. Give a bucket," \
                "as in --workdir=gs://BUCKET/RUN."
    fi
    if [[ $command == nodes ]]; then
        need "$command" accelerator topology cluster location
    fi
    case $command in
        nodes | render | apply) [[ -z $config ]] || check_config "$config" ;;
    esac
    if [[ -n $accelerator ]]; then
        need "$command" topology
        [[ $spot == false || -z $reservation ]] || fail "--spot and --reservation exclude each other: give only one."
        parse_accelerator "$accelerator"
        check_topology
        ((slices >= 1)) || fail "--slices=$slices is below 1: give 1 or more."
        ((slices == 1 || hosts > 1)) ||
            fail "--slices=$slices of $accelerator: GKE joins only slices of several hosts, and this one has one host." \
                "Set --slices=1."
    fi
}

# The topology must have the chips that the accelerator's name says.
check_topology() {
    local dimensions=3 product=1 side
    [[ $generation == v4 || $generation == v5p ]] || dimensions=2
    [[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*)*$ && $(tr -cd x <<<"$topology" | wc -c) == $((dimensions - 1)) ]] ||
        fail "--topology=$topology: $generation needs $dimensions dimensions, as in" \
            "$([[ $dimensions == 3 ]] && echo 4x8x8 || echo 16x16)."
    for side in ${topology//x/ }; do
        product=$((product * side))
    done
    ((product == chips)) ||
        fail "--topology=$topology has $product chips and --accelerator=$accelerator has $chips: make them equal."
}

# Makes a node pool for each slice.
nodes() {
    local number tier=()
    [[ $spot == false ]] || tier=(--spot)
    [[ -z $reservation ]] || tier=(--reservation-affinity=specific --reservation="$reservation")
    for ((number = 0; number < slices; number++)); do
        run gcloud container node-pools create "$name-$number" --cluster="$cluster" --location="$location" \
            ${project:+--project="$project"} --machine-type="$(gke_machine_type)" --tpu-topology="$topology" \
            --num-nodes="$hosts" ${tier[@]+"${tier[@]}"} ||
            fail "the node pool $name-$number could not be made: fix gcloud's error above (quota and zone are the" \
                "usual causes). The pools before it exist and cost money."
    done
}

# Prints a string of YAML, which takes those of JSON.
string() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    printf '"%s"' "${text//$'\n'/\\n}"
}

# Usage: list_command INDENTATION WORD...   Prints the words as items of YAML. Kubernetes would put a variable for $(…).
list_command() {
    local word dollar='$'
    for word in "${@:2}"; do
        word=${word//"$dollar("/"$dollar$dollar("}
        printf '%*s- %s\n' "$1" '' "$(string "$word")"
    done
}

# Prints the pods' environment: the one place of advice is launch/tpu_environment.sh.
environment() {
    local variable
    for variable in "${environment_names[@]}"; do
        printf '%*s- name: %s\n%*svalue: %s\n' 20 '' "$variable" 22 '' "$(string "${!variable}")"
    done
}

# Prints what nodes the pods ask for.
node_selector() {
    printf '%*scloud.google.com/gke-tpu-accelerator: %s\n' 16 '' "$(gke_accelerator)"
    printf '%*scloud.google.com/gke-tpu-topology: %s\n' 16 '' "$(string "$topology")"
    [[ $spot == false ]] || printf '%*scloud.google.com/gke-spot: "true"\n' 16 ''
    [[ -z $reservation ]] || printf '%*scloud.google.com/reservation-name: %s\n' 16 '' "$(string "$reservation")"
}

render() {
    local training=(.venv/bin/python -m imagen_jax.train --distributed --config="$config" --workdir="$workdir"
        ${arguments[@]+"${arguments[@]}"})
    # What is left out leaves an empty line.
    sed '/^$/d' <<MANIFEST
# Made by launch/gke/train.sh: $slices × $accelerator, each $hosts hosts with $chips_per_host chips ($(gke_machine_type)).
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    # One slice, one node pool.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  # A training is one program on all hosts, so when one host is lost all begin again, from the newest checkpoint. There
  # is no supervise.sh in the pods: a host that it restarted alone would wait for the others in vain.
  failurePolicy:
    maxRestarts: $max_restarts
    rules:
      # Set below for status 2, an error that a restart does not fix; and for 130, because the training was
      # interrupted.
      - name: mistake
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: $slices
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          # Restarts are the JobSet's, never those of a single pod.
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: train
                  operator: In
                  values: [2, 130]
          template:
            spec:
              restartPolicy: Never
$([[ -z $service_account ]] || printf '%*sserviceAccountName: %s\n' 14 '' "$service_account")
              # Time to save after SIGTERM; GKE gives nodes of Spot VMs less.
              terminationGracePeriodSeconds: 300
              # Between slices the data center's network is the bottleneck: not through the pods' network too.
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              nodeSelector:
$(node_selector)
$([[ $spot == false ]] || printf '%*stolerations:\n%*s- {key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}\n' 14 '' 16 '')
              containers:
                - name: train
                  image: $(string "$image")
                  # The driver maps more memory than an ordinary container may lock.
                  securityContext:
                    privileged: true
                  ports:
                    - containerPort: 8471 # between the hosts of a slice
                  command:
$(list_command 20 "${training[@]}")
                  env:
$(environment)
                  resources:
                    limits:
                      google.com/tpu: $chips_per_host
                  volumeMounts:
                    - {name: shared-memory, mountPath: /dev/shm}
              volumes:
                # The processes that read the data hand batches over through it; the default is 64 MiB.
                - name: shared-memory
                  emptyDir: {medium: Memory}
MANIFEST
}

apply() {
    local manifest output ended
    manifest=$(render)
    if [[ $dry_run == true ]]; then
        printf "%s <<'MANIFEST'\n%s\nMANIFEST\n" "$(show "${kubectl[@]}" apply --filename=-)" "$manifest"
        return
    fi
    output=$("${kubectl[@]}" apply --filename=- <<<"$manifest") ||
        fail "the cluster rejected the JobSet: see kubectl's output above. 'no matches for kind \"JobSet\"' means" \
            "that JobSet is not installed (see launch/gke/README.md), and 'field is immutable' that a JobSet $name" \
            "exists: run delete, then apply."
    printf '%s\n' "$output"
    if [[ $output == *unchanged* ]]; then
        # What has ended stays so, until it is deleted.
        ended=$("${kubectl[@]}" get jobset "$name" --output='jsonpath={.status.terminalState}') || ended=
        [[ -z $ended ]] || fail "the JobSet $name is $ended and does not start again: run delete, then apply."
    fi
    say "Applied. Follow it with: bash launch/gke/train.sh logs --name=$name"
}

status() {
    run "${kubectl[@]}" get jobset "$name" || fail "there is no JobSet $name here: see kubectl's output above."
    run "${kubectl[@]}" get pods --selector=jobset.sigs.k8s.io/jobset-name="$name" --output=wide
}

logs() {
    local labels=jobset.sigs.k8s.io/jobset-name=$name,jobset.sigs.k8s.io/job-index=$slice
    run "${kubectl[@]}" logs --follow --tail=100 --container=train \
        --selector="$labels,batch.kubernetes.io/job-completion-index=$host"
}

delete() {
    run "${kubectl[@]}" delete jobset "$name" --ignore-not-found
}

command=${1:-}
case $command in
    nodes | render | apply | status | logs | delete) shift ;;
    '' | -h | --help | help) sed -n '2,/^set -/s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) fail "there is no command '$command': use nodes, render, apply, status, logs or delete." ;;
esac
read_flags "$@"
check_flags
kubectl=(kubectl)
[[ -z $context ]] || kubectl+=(--context="$context")
[[ -z $namespace ]] || kubectl+=(--namespace="$namespace")
"$command"
