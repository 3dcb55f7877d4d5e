"""Win-rates of what raters prefer: counts by hand, Wilson's ends as roots, and intervals that hold the truth."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.win_rates import (
    QUANTILE_95,
    Rating,
    count_effective,
    describe_win_rates,
    format_win_rates,
    measure_win_rates,
    wilson_interval,
)
from imagen_jax.evaluation.reports.win_rate_plot import plot_question, plot_win_rates


def ratings_of(answers, question="alignment", category="Colors", rater="Ann"):
    """A prompt for each letter: a, b, or i."""
    words = {"a": "a", "b": "b", "i": "indifferent"}
    return [
        Rating(rater, f"{category} {number}", category, question, words[letter])
        for number, letter in enumerate(answers)
    ]


def test_shares_and_win_rates_by_hand():
    ratings = ratings_of("aaib") + ratings_of("bbbbii", category="Counting") + ratings_of("aa", "fidelity")
    rates = {(one.category, one.question): one for one in measure_win_rates(ratings)}
    assert list(rates) == [
        ("overall", "alignment"),
        ("Colors", "alignment"),
        ("Counting", "alignment"),
        ("overall", "fidelity"),
        ("Colors", "fidelity"),
    ]
    overall = rates["overall", "alignment"]
    assert overall.answers == {"a": 2, "indifferent": 3, "b": 5} and overall.total == 10 and overall.prompts == 10
    assert overall.rate == pytest.approx(3.5 / 10) and overall.raters == 1
    assert rates["Colors", "alignment"].rate == pytest.approx(2.5 / 4)
    assert rates["Counting", "alignment"].rate == pytest.approx(1 / 6)
    assert rates["Colors", "fidelity"].rate == 1.0
    assert measure_win_rates([]) == []
    assert [one.category for one in measure_win_rates(ratings_of("ab"))] == ["overall"]


def test_win_rates_of_both_models_mirror_each_other():
    answers = "aaaibbaiaaab"
    mirrored = answers.translate(str.maketrans("ab", "ba"))
    (ours,), (theirs,) = (measure_win_rates(ratings_of(one)) for one in (answers, mirrored))
    np.testing.assert_allclose([ours.rate, ours.low, ours.high], [1 - theirs.rate, 1 - theirs.high, 1 - theirs.low])


@pytest.mark.parametrize(("rate", "count"), [(0.5, 10), (0.0, 7), (1.0, 30), (0.83, 200), (0.02, 41.5)])
def test_both_ends_lie_as_many_standard_deviations_away(rate, count):
    """(rate - p)² = z² p (1 - p) / count has the ends as its roots."""
    z = QUANTILE_95**2 / count
    roots = sorted(np.roots([1 + z, -(2 * rate + z), rate**2]).real)
    np.testing.assert_allclose(wilson_interval(rate, float(count)), roots, atol=1e-7)


def test_ends_as_published():
    """Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29, by the score method."""
    table = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (wins, count), ends in table.items():
        np.testing.assert_allclose(wilson_interval(wins / count, float(count)), ends, atol=5e-5)


def test_one_answer_a_prompt_is_plain_wilson():
    (rate,) = measure_win_rates(ratings_of("aaaaaaabbb"))
    assert rate.effective == 10
    np.testing.assert_allclose([rate.low, rate.high], wilson_interval(0.7, 10.0))


def test_answers_that_repeat_each_other_count_once():
    once = [[1.0]] * 8 + [[0.0]] * 4
    many = [one * 25 for one in once]
    assert count_effective(once) == 12
    # Their scatter says 11 of 12 prompts, m - 1 of m, and no fewer than the prompts are counted.
    assert count_effective(many) == 12
    assert count_effective([[1.0] * 25] * 8) == 8, "without scatter it can't be known better"
    assert count_effective([[0.0, 1.0] * 5] * 3) == 3, "three prompts say little of how prompts scatter"


def test_answers_that_scatter_by_chance_alone_all_count():
    generator = np.random.default_rng(0)
    found = [count_effective(generator.integers(0, 2, (50, 10)).astype(float).tolist()) for _ in range(100)]
    assert 430 < np.mean(found) <= 500


@pytest.mark.parametrize(
    ("prompts", "raters", "min_share"), [(10, 25, 0.89), (20, 5, 0.92), (20, 25, 0.92), (20, 1, 0.94)]
)
def test_the_interval_holds_the_truth(prompts, raters, min_share):
    """Prompts differ, with a mean of 0.5 of preferring a; raters of a prompt throw the same coin, and a tenth ties."""
    generator = np.random.default_rng(prompts * raters)
    held = naive = 0
    trials = 600
    for _ in range(trials):
        chance = generator.beta(0.5, 0.5, (prompts, 1))
        scores = (generator.random((prompts, raters)) < chance).astype(float)
        scores[generator.random((prompts, raters)) < 0.1] = 0.5
        low, high = wilson_interval(scores.mean(), count_effective(scores.tolist()))
        held += low <= 0.5 <= high
        low, high = wilson_interval(scores.mean(), float(scores.size))
        naive += low <= 0.5 <= high
    assert held / trials > min_share
    assert raters == 1 or naive / trials < 0.85, "answers about one prompt are not independent"


@pytest.fixture
def measured():
    ratings = ratings_of("aaaaiibb") + ratings_of("bbbbbia", category="$\\alpha$ & <b>Text</b>")
    return measure_win_rates(ratings + ratings_of("aai", "fidelity"))


def test_a_table_for_each_question(measured):
    lines = format_win_rates(measured)
    text = "\n".join(lines)
    assert "Which fits the caption better?" in lines and "Which looks better, more photorealistic?" in lines
    (row,) = [line for line in lines if line.startswith("Colors") and " 8 " in line]
    assert re.search(r"8\s+8\s+50\.0%\s+25\.0%\s+25\.0%\s+62\.5%\s+\[30\.6%, 86\.3%\]", row), text
    assert len(lines) == 2 * 3 + 3 + 2, "a category without answers has no row"


def test_json_holds_all_of_it(measured):
    rates = json.loads(json.dumps(describe_win_rates(measured)))
    assert rates[0]["answers"] == {"a": 5, "indifferent": 3, "b": 7}
    assert rates[0]["win_rate_of_a"] == pytest.approx(6.5 / 15)
    assert rates[0]["interval_95"][0] < 6.5 / 15 < rates[0]["interval_95"][1]


def test_the_plot_shows_shares_and_intervals(measured):
    figure, axis = plt.subplots()
    rates = [one for one in measured if one.question == "alignment"]
    plot_question(axis, rates)
    widths = [[bar.get_width() for bar in bars] for bars in axis.containers[:3]]
    np.testing.assert_allclose(np.sum(widths, axis=0), 1.0)
    np.testing.assert_allclose(widths[0], [one.answers["a"] / one.total for one in rates])
    points, _, (bars,) = axis.containers[3]
    np.testing.assert_allclose(points.get_xdata(), [one.rate for one in rates])
    ends = np.asarray(bars.get_segments())[:, :, 0]
    np.testing.assert_allclose(ends, [[one.low, one.high] for one in rates])
    plt.close(figure)


def test_plots_are_written_and_the_same_each_time(measured, tmp_path):
    files = [tmp_path / "win_rates.png", tmp_path / "win_rates.svg"]
    again = [tmp_path / "again.png", tmp_path / "again.svg"]
    for paths in (files, again):
        plot_win_rates(measured, ("runs/$ours", "DeepFloyd"), paths)
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    with Image.open(files[0]) as image:
        assert image.format == "PNG" and image.width > 1000
    assert files[1].read_text().startswith("<?xml") and plt.get_fignums() == []
    with pytest.raises(UserError):
        plot_win_rates(measured, ("a", "b"), [tmp_path / "none" / "x.png"])
    assert plt.get_fignums() == []


def test_one_question_alone_is_plotted(tmp_path):
    plot_win_rates(measure_win_rates(ratings_of("ab")), ("x", "y"), [tmp_path / "one.png"])
    assert (tmp_path / "one.png").exists()
