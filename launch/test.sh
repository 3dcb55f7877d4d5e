#!/usr/bin/env bash
# Sets up .venv, then runs ruff, mypy and the tests. What is not listed here is handed to pytest.
#
#     bash launch/test.sh
#     bash launch/test.sh tests/sampling -k ddim
#     bash launch/test.sh --thorough           also the tests that kill, damage, fuzz, wait or take long
#     bash launch/test.sh --with-references    also compares with torch, transformers and diffusers, and compiles for TPUs
#                                             with libtpu; all of them are installed into .venv,
#                                             and on Debian, as root, the stamps of Tux Paint, Noto's emoji and Chromium;
#                                             with Python 3.11 if there is one: if .venv has another, .venv-references
#                                             takes its place; with --thorough too, all of those comparisons
set -euo pipefail
# shellcheck source=launch/set_up.sh
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
help_if_asked "$@"

with_references=false thorough=
for argument in "$@"; do
    shift
    case $argument in
        --with-references) with_references=true ;;
        --thorough) thorough=$argument && set -- "$@" "$argument" ;;
        *) set -- "$@" "$argument" ;;
    esac
done

# CI has a build of torch for CPUs on Python 3.11 alone. An environment of another Python stays as it is.
choose_references_python() {
    [[ -z ${PYTHON:-} ]] || return 0
    PYTHON=$(best_python 'version == "3.11"')
    [[ -z $PYTHON || ! -x $python ]] || is_wanted_python || use_environment .venv-references
}

# Real images for the data sources, 210 MB, and a browser for the pages, 400 MB. Without them their tests are skipped.
install_debian_packages() {
    local packages=(tuxpaint-stamps-default fonts-noto-color-emoji chromium chromium-driver)
    if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]] || dpkg -s "${packages[@]}" >/dev/null 2>&1; then
        return
    fi
    say "Installing ${packages[*]}"
    { apt-get -qq update && apt-get -qq install --no-install-recommends "${packages[@]}"; } \
        >"$environment/debian.log" 2>&1 ||
        say "They can't be installed (see $environment/debian.log): their tests are skipped"
}

install_reference_packages() {
    local list=tests/reference/packages.txt folder=$environment/reference_packages
    if cmp -s "$list" "$folder/installed.txt"; then
        return
    fi
    say "Installing $(grep -c '^[a-z]' "$list") packages for comparing metrics"
    rm -rf "$folder"
    pip_install --target "$folder" --requirement "$list" ||
        fail "they could not be installed: see $environment/install.log."
    # One of them brings a package of that name, which would hide ours.
    rm -rf "$folder/tests"
    cp "$list" "$folder/installed.txt"
}

if [[ $with_references == true ]]; then
    choose_references_python
fi
set_up
if [[ $with_references == true ]]; then
    install_extra tpu 2 "the TPU compiler"
fi
say "ruff"
"$python" -m ruff check
"$python" -m ruff format --check
# It needs half a minute of one core, so the tests begin meanwhile.
say "mypy, beside the first tests"
"$python" -m mypy >"$environment/mypy.log" 2>&1 &
mypy=$! status=0
trap 'kill "$mypy" 2>/dev/null || true' EXIT
say "pytest"
# A file stays in one worker, so that what it compiled serves its next test. `-n 0` runs without workers.
"$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10 "$@" || status=$?
if ! wait "$mypy"; then
    say "mypy found mistakes"
    cat "$environment/mypy.log"
    ((status != 0)) || status=1
fi
((status == 0)) || exit "$status"
if [[ $with_references == true ]]; then
    install_extra parity 8 "torch, transformers and diffusers: minutes, and gigabytes where torch brings CUDA"
    install_extra browser 1 "selenium"
    install_reference_packages
    install_debian_packages
    say "pytest, against the reference libraries, on real images and in a browser"
    "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m references -rs --durations 10 ${thorough:+"$thorough"}
fi
say "All passed after $(minutes)"
