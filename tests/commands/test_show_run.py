"""``show_run`` without its flag says what to write."""

import pytest

from imagen_jax.runtime.exit_status import ExitStatus
from tests.forked_programs import run_forked


@pytest.mark.parametrize(("arguments", "named"), [([], ()), (["runs/own/base2"], ("runs/own/base2",))])
def test_a_run_without_the_flag_is_an_error_that_names_it(arguments, named):
    done = run_forked("imagen_jax.commands.show_run", *arguments)
    assert done.returncode == ExitStatus.USER_ERROR
    assert all(fact in done.stderr for fact in (*named, "--workdir="))
