"""A few of the inputs of ``fuzz.py`` for each reader, the same ones each time."""

import time

import pytest

from imagen_jax.errors import UserError
from tests.torture.fuzz import feed, input_of
from tests.torture.parsers import PARSERS
from tests.torture.readers import Parser
from tests.torture.stored_parsers import STORED_PARSERS

pytestmark = pytest.mark.thorough

SEED, INPUTS = 1, 120
INPUTS_OF_STORED = 300


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.filterwarnings("ignore")
def test_what_comes_of_an_input_is_a_result_or_a_sentence(name, tmp_path):
    parser = PARSERS[name](tmp_path)
    inputs = INPUTS_OF_STORED if name in STORED_PARSERS else INPUTS
    crashes = [feed(parser, input_of(parser, name, SEED, number), number) for number in range(inputs)]
    parser.close()
    assert [crash for crash in crashes if crash is not None] == []


def test_what_is_a_crash_is_noticed():
    def fail(content):
        raise RecursionError

    def refuse(content):
        raise UserError("mend it")

    def dawdle(content):
        end = time.process_time() + 1.1
        while time.process_time() < end:
            pass

    crashes = [feed(Parser(lambda rng: b"", read), b"") for read in (fail, dawdle, refuse)]
    assert "RecursionError" in crashes[0].what and "seconds" in crashes[1].what and crashes[2] is None
