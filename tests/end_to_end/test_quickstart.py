"""The quickstart's smoke size trains, is cut and resumed, samples, and is evaluated."""

import pytest

from configs import quickstart
from tests.end_to_end.smoke_runs import check_cascade_of_two

pytestmark = pytest.mark.slow


def test_quickstart_trains_resumes_bit_for_bit_and_samples(tmp_path, data_dir, own_images, caplog):
    check_cascade_of_two(quickstart.get_config, tmp_path, data_dir, own_images, caplog)
