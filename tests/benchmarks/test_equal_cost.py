"""What both sides of the comparison at equal cost are judged by."""

from tests.benchmarks.equal_cost import write_table
from tests.benchmarks.equal_cost_work import Progress


def test_steps_and_seconds_count_over_calls_and_what_was_not_kept_is_lost_with_its_steps(tmp_path):
    first = Progress(tmp_path / "progress.json")
    first.add(10.0, 0.5)
    first.add(19.0, 0.4)
    first.keep()
    first.add(28.0, 0.3)
    second = Progress(tmp_path / "progress.json")
    assert (second.steps, second.seconds) == (2, 19.0)
    second.add(11.0, 0.2)
    assert (second.steps, second.seconds) == (3, 30.0)
    assert second.describe() == "3 steps, 0.5 minutes, loss 0.2000"


def test_the_table_says_who_is_better_by_the_measure():
    def side(recall, distance):
        return {split: {"recall": recall, "chance": 0.01, "distance": distance} for split in ("train", "validation")}

    results = {
        "ours_parameters": 2_000,
        "ours_seconds": 3600.0,
        "ours_steps": 10,
        "peer": {"width": 64, "parameters": 1_900},
        "peer_seconds": 3601.0,
        "peer_steps": 5,
        "samples": {"train": 256, "validation": 104},
        "measured": {"ours": side(0.5, 90.0), "peer": side(0.25, 80.0)},
    }
    rows = [line for line in write_table(results).splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[-1] for row in rows if "recall" in row] == ["imagen-jax |"] * 2
    assert [row.split(" | ")[-1] for row in rows if "Fréchet" in row] == ["imagen-pytorch |"] * 2
    results["measured"]["ours"] = side(0.25, 80.0)
    assert [row.split(" | ")[-1] for row in write_table(results).splitlines() if "recall" in row] == ["neither |"] * 2
