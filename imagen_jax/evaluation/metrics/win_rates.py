"""How often people prefer one model's pictures to another's, as Imagen's DrawBench asks them.

A rater sees what two models drew for a prompt, side by side, and says of each question "a", "b" or "indifferent"
(Saharia et al. 2022, section 4.3). The win-rate of a is the share of answers for it and half of the indifferent ones;
that of b is 1 less it, so 0.5 means that nobody is ahead. Shares of all three answers are given too.

The interval is Wilson's (1927), which stays in [0, 1] and is right near both ends. Answers about one prompt are alike,
though, whoever gives them, and its formula takes all for independent: with 25 raters of 20 prompts that differ, what it
calls 95% held the truth in 46 to 72 of 100 simulations. So the number of answers in it is the effective one (Kish
1965): as many independent answers as would scatter like the ones at hand, with prompts as clusters,

    n_eff = p (1 - p) / v,    v = m / (m - 1) · Σ (s_i - n_i p)² / n²,

for prompt i of m with n_i answers and the sum s_i of their scores (1, 1/2 or 0), at least m and at most n. With one
answer a prompt that is plain Wilson. In the same simulations it holds the truth in 93 to 95 of 100, with 10 prompts in
91 to 93. That raters differ from each other is not in it: with few raters it speaks of them, not of all people.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

QUESTIONS = {"alignment": "Which fits the caption better?", "fidelity": "Which looks better, more photorealistic?"}
INDIFFERENT = "indifferent"
SCORES = {"a": 1.0, INDIFFERENT: 0.5, "b": 0.0}
OVERALL = "overall"

QUANTILE_95 = 1.959963984540054
"""Of the normal distribution, on both sides of which 2.5% lie."""

MIN_PROMPTS = 6
"""With fewer, how much they scatter is a guess, and a prompt's answers count as one."""


class Rating(NamedTuple):
    """One answer.

    Attributes:
        rater: who gave it.
        prompt: of the pictures.
        category: of the prompt.
        question: one of ``QUESTIONS``.
        answer: one of ``SCORES``: whose pictures are preferred.
    """

    rater: str
    prompt: str
    category: str
    question: str
    answer: str


class WinRate(NamedTuple):
    """The answers to one question in one category.

    Attributes:
        category: its name, or ``OVERALL``.
        question: one of ``QUESTIONS``.
        answers: how many of each of ``SCORES``.
        prompts: that they are about.
        raters: who gave them.
        rate: the win-rate of a.
        low: end of its 95% interval.
        high: the other end.
        effective: number of independent answers that would be as certain.
    """

    category: str
    question: str
    answers: dict[str, int]
    prompts: int
    raters: int
    rate: float
    low: float
    high: float
    effective: float

    @property
    def total(self) -> int:
        """Number of all answers."""
        return sum(self.answers.values())


def measure_win_rates(ratings: Iterable[Rating]) -> list[WinRate]:
    """Win-rates of every question, overall first and then in each category, by name.

    Where all is of one category, it is not told apart.
    """
    ratings = list(ratings)
    categories = sorted({rating.category for rating in ratings})
    parts = {OVERALL: ratings}
    if len(categories) > 1:
        parts |= {name: [rating for rating in ratings if rating.category == name] for name in categories}
    measured = []
    for question in QUESTIONS:
        for category, part in parts.items():
            if answers := [rating for rating in part if rating.question == question]:
                measured.append(measure_win_rate(category, question, answers))
    return measured


def measure_win_rate(category: str, question: str, ratings: Sequence[Rating]) -> WinRate:
    """The win-rate of the answers to one question, at least one."""
    by_prompt: dict[str, list[float]] = {}
    for rating in ratings:
        by_prompt.setdefault(rating.prompt, []).append(SCORES[rating.answer])
    rate = math.fsum(map(math.fsum, by_prompt.values())) / len(ratings)
    effective = count_effective(list(by_prompt.values()))
    low, high = wilson_interval(rate, effective)
    answers = {name: sum(rating.answer == name for rating in ratings) for name in SCORES}
    raters = len({rating.rater for rating in ratings})
    return WinRate(category, question, answers, len(by_prompt), raters, rate, low, high, effective)


def count_effective(scores: Sequence[Sequence[float]]) -> float:
    """The number of independent answers that would be as certain as these, see above.

    Args:
        scores: of each prompt's answers, 0 to 1.
    """
    prompts, count = len(scores), sum(map(len, scores))
    rate = sum(map(sum, scores)) / count
    scatter = math.fsum((sum(one) - len(one) * rate) ** 2 for one in scores)
    if prompts < MIN_PROMPTS or scatter == 0.0:
        return float(prompts)
    variance = prompts / (prompts - 1) * scatter / count**2
    return min(max(rate * (1 - rate) / variance, float(prompts)), float(count))


def wilson_interval(rate: float, count: float, quantile: float = QUANTILE_95) -> tuple[float, float]:
    """Where a share may lie that was seen as ``rate`` in ``count`` independent trials.

    Both ends are the shares p that are ``quantile`` standard deviations √(p (1 - p) / count) from ``rate``.
    """
    square = quantile**2 / count
    centre = (rate + square / 2) / (1 + square)
    half = math.sqrt(square * (rate * (1 - rate) + square / 4)) / (1 + square)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def describe_win_rates(measured: Sequence[WinRate]) -> list[dict[str, Any]]:
    """Win-rates as JSON can hold them."""
    return [
        {
            "category": one.category,
            "question": one.question,
            "answers": one.answers,
            "prompts": one.prompts,
            "raters": one.raters,
            "win_rate_of_a": one.rate,
            "interval_95": [one.low, one.high],
            "effective_answers": one.effective,
        }
        for one in measured
    ]


def format_win_rates(measured: Sequence[WinRate]) -> list[str]:
    """Win-rates as lines for a terminal, a table for each question."""
    width = max(len("category"), *(len(one.category) for one in measured))
    lines = []
    for question, words in QUESTIONS.items():
        rows = [one for one in measured if one.question == question]
        if not rows:
            continue
        lines += ["", words, f"{'category':{width}}  answers  prompts      a  indifferent      b  win-rate of a, 95%"]
        for one in rows:
            a, indifferent, b = (one.answers[name] / one.total for name in SCORES)
            lines.append(
                f"{one.category:{width}}  {one.total:7}  {one.prompts:7}  {a:5.1%}  {indifferent:11.1%}  {b:5.1%}  "
                f"{one.rate:5.1%}  [{one.low:.1%}, {one.high:.1%}]"
            )
    return lines
