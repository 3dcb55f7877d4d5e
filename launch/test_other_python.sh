#!/usr/bin/env bash
# Runs a small part of the tests in .venv-other, on the newest Python that `launch/test.sh --with-references` does not use,
# and so with another JAX. Without such a Python it prints so and does nothing.
#
#     bash launch/test_other_python.sh
#     PYTHON=/path/to/python3.12 bash launch/test_other_python.sh
set -euo pipefail
# shellcheck source=launch/set_up.sh
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
take_no_arguments "$@"

# Prints that Python: one that all other tests have passed on, which ranks 0 and 1 have not.
find_other_python() {
    local main
    main=$(best_python 'version == "3.11"')
    main=$(python_version "${main:-$python}" || true)
    best_python "rank >= 2 && version != \"$main\""
}

# A part of the science, what JAX's arrays are stored and imported with, and the quickstart's base from its data to images.
checkpoints=tests/training/checkpoints/test_damaged_checkpoints.py
quickstart=tests/end_to_end/test_quickstart.py
tests=(
    tests/config tests/diffusion/test_{loss,process,schedules}.py tests/models/test_{attending,convolutions,networks}.py
    tests/sampling/test_samplers.py tests/sharding/test_sharding.py tests/training/test_step_and_loop.py
    tests/encoders/test_t5.py tests/storage/test_bucket_files.py
    "$checkpoints::test_a_checkpoint_of_format_1_is_read_and_continued"
    "$quickstart::test_quickstart_trains_resumes_bit_for_bit_and_samples"
)

PYTHON=${PYTHON:-$(find_other_python)}
if [[ -z $PYTHON ]]; then
    say "No other Python of version 3.12.4 to 3.13: the tests with another JAX are left out"
    exit 0
fi
use_environment .venv-other
set_up
say "pytest, on Python $(python_version "$python")"
"$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10 "${tests[@]}"
say "All passed after $(minutes)"
