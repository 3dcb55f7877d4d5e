#!/usr/bin/env bash
# Sets up .venv, then builds the site of docs/ into build/docs. A warning, such as a broken link, is an error.
#
#     bash launch/docs.sh
#     bash launch/docs.sh --open     also opens it in a browser
#     OUT=/elsewhere bash launch/docs.sh
set -euo pipefail

open_it=false
for argument in "$@"; do
    case $argument in
        --open) open_it=true ;;
        -h | --help)
            sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit
            ;;
        *)
            printf 'error: %s is unknown: see bash launch/docs.sh --help\n' "$argument" >&2
            exit 2
            ;;
    esac
done
# Before the folder is changed, since it may be relative to the present one.
out=${OUT:+$(mkdir -p "$OUT" && cd "$OUT" && pwd)}
# shellcheck source=launch/set_up.sh
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
set_up
out=${out:-$checkout/build/docs}
say "Building the site"
JAX_PLATFORMS=cpu "$python" -m sphinx --builder html --fail-on-warning --quiet docs "$out" ||
    fail "the pages have mistakes, which are listed above: fix them and run this again."
say "The site:      $out/index.html"
if [[ $open_it == true ]]; then
    "$python" -m webbrowser "file://$out/index.html"
fi
