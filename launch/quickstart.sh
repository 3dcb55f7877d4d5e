#!/usr/bin/env bash
# Sets up .venv, samples eight captions from the bundled cascade, then trains a small cascade on the same OpenMoji
# images and samples the captions from that.
#
#     bash launch/quickstart.sh
#     RUN_DIR=/elsewhere bash launch/quickstart.sh     in another folder than runs/quickstart
#     PYTHON=/path/to/python3 bash launch/quickstart.sh
#
# Interrupted at any moment and run again, it continues.
set -euo pipefail
# shellcheck source=launch/set_up.sh
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
take_no_arguments "$@"
# Before any folder is changed, since it may be relative to the present one.
run_dir=${RUN_DIR:+$(mkdir -p "$RUN_DIR" && cd "$RUN_DIR" && pwd)}
run_dir=${run_dir:-$checkout/runs/quickstart}

prompts=(
    "red apple"
    "panda"
    "sunflower"
    "pizza"
    "rocket"
    "snowman"
    "rainbow"
    "red heart"
)

trap 'say "Stopped. Run the same command again to continue."; exit 130' INT TERM

# Usage: run_step TITLE COMMAND ARGUMENT...
run_step() {
    local title=$1 status=0
    shift
    say "$title (started after $(minutes))"
    "$python" -m imagen_jax "$@" || status=$?
    if ((status != 0)); then
        say "This step failed with status $status: fix the error above, and run the same command again to continue."
        exit "$status"
    fi
}

set_up
mkdir -p "$run_dir"
base=$run_dir/base
super_resolution=$run_dir/super_resolution
stages=$base,$super_resolution

run_step "Sampling ${#prompts[@]} captions from the bundled cascade" sample \
    "${prompts[@]/#/--prompt=}" --out="$run_dir/pretrained"
cp "$run_dir/pretrained/grid.png" "$run_dir/pretrained.png"
say "The images:    $run_dir/pretrained.png"
run_step "Training the base" train \
    --config=configs/quickstart.py:base --workdir="$base"
run_step "Training the super-resolution stage" train \
    --config=configs/quickstart.py:super_resolution --workdir="$super_resolution"
run_step "Sampling ${#prompts[@]} captions" sample \
    --stages="$stages" "${prompts[@]/#/--prompt=}" --out="$run_dir/samples"
cp "$run_dir/samples/grid.png" "$run_dir/samples.png"
run_step "Measuring whether the images follow their captions" evaluate \
    --stages="$stages" --out="$run_dir/evaluation"

say "Done after $(minutes)"
say "The images:    $run_dir/samples.png; the bundled cascade's: $run_dir/pretrained.png"
say "The report:    $run_dir/evaluation/report.html"
