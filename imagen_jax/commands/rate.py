"""Serves a web page on which people compare the images of two models.

    imagen-jax rate --a=runs/ours/pictures --b=runs/if/pictures
    imagen-jax rate --a=runs/ours/pictures --b=runs/if/pictures --results

The protocol is that of Imagen's DrawBench (Saharia et al. 2022, section 4.3). The page shows two images side by side
and asks one question about the caption and one about image quality, each with the third answer "indifferent". The paper
shows sets of 8 images: ``--together=8``. ``web/pairs.py`` describes the folders, and ``web/ratings.py`` the database.

``--results`` prints win-rates (``evaluation/metrics/win_rates.py``) and writes ``results.json``, ``win_rates.png`` and
``win_rates.svg`` beside the database; it also works while the page is served. The page itself never shows results,
because raters who see which model leads would be biased. Without ``--a`` and ``--b``, ``--results`` reads the database
alone, so the images may have been deleted.

It needs the extra ``web``, and ``--results`` the extra ``train``: ``pip install ".[web,train]"`` in a checkout.
"""

import sys

from absl import flags

from imagen_jax.errors import UserError
from imagen_jax.errors.packages import require_packages
from imagen_jax.evaluation.metrics.win_rates import describe_win_rates, format_win_rates, measure_win_rates
from imagen_jax.evaluation.reports.report import write_report
from imagen_jax.runtime.main import run_main
from imagen_jax.runtime.preconditions import Precondition, check_flags
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.web.pairs import Comparison, make_comparison
from imagen_jax.web.ratings import RatingStore

A = flags.DEFINE_string("a", None, "Folder of one model's images.")
B = flags.DEFINE_string("b", None, "Folder of another model's images for the same prompts.")
OUT = flags.DEFINE_string("out", "ratings.sqlite", "Database of ratings; created if it does not exist.")
TOGETHER = flags.DEFINE_integer(
    "together", 1, "Number of images of a prompt that each side shows at once.", lower_bound=1
)
RESULTS = flags.DEFINE_bool("results", False, "Print and write the results, and do not serve the page.")
HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets the whole network in.")
ORIGINS = flags.DEFINE_list(
    "origins", [], "Public URLs of the page behind a proxy, such as https://hub.example, separated by commas."
)
PORT = flags.DEFINE_integer("port", 8001, "Port to listen on; 0 for any free port.", 0, 65535)

PRECONDITIONS = (
    *(
        Precondition(
            flag,
            lambda given: not given.results,
            f"--{flag} has no effect with --results, which serves no page: leave out one of them",
        )
        for flag in ("host", "port", "origins")
    ),
    Precondition(
        "together",
        lambda given: not given.results or given.a or given.b,
        "--together has no effect on the results of a database alone: give --a and --b, or leave out --together",
    ),
)


def main() -> None:
    """Serves the page until interrupted, or prints the results."""
    out = to_path(OUT.value)
    check_flags(PRECONDITIONS)
    # Before the images are read.
    if RESULTS.value:
        require_packages("matplotlib", what="--results")
    else:
        require_packages("starlette", "uvicorn", what="the page")
    if RESULTS.value and not A.value and not B.value:
        print_results(out, None)
        return
    if not A.value or not B.value:
        raise UserError("rate compares two folders: give the images of two models, as in --a=… --b=…")
    comparison = make_comparison(to_path(A.value), to_path(B.value), TOGETHER.value)
    (print_results if RESULTS.value else serve_page)(out, comparison)


def serve_page(out: Path, comparison: Comparison) -> None:
    """Serves the page until interrupted.

    Raises:
        UserError: the database can't be used, one of ``--origins`` is invalid, or the port can't be listened on.
    """
    # Here, for a base install lacks what they import.
    from imagen_jax.web.listening import keep_out, serve
    from imagen_jax.web.rating_app import make_rating_app

    print(*comparison.notes, sep="\n", end="\n" if comparison.notes else "", file=sys.stderr)
    with RatingStore(out, comparison) as store:
        prompts = len({pair.prompt for pair in comparison.pairs})
        print(f"{len(comparison.pairs)} pairs of {prompts} prompts; ratings go to {out}", flush=True)
        before = keep_out(HOST.value, ORIGINS.value)
        serve(make_rating_app(store, comparison.pairs, before), HOST.value, PORT.value)


def print_results(out: Path, comparison: Comparison | None) -> None:
    """Prints the win-rates and writes them beside the database.

    Raises:
        UserError: there are no ratings, or the database or a file can't be used.
    """
    from imagen_jax.evaluation.reports.win_rate_plot import plot_win_rates

    if not out.exists():
        raise UserError(f"{out} does not exist: rate first, without --results, or name the database with --out")
    with RatingStore(out, comparison) as store:
        ratings, names, pairs, left = store.ratings(), store.names, store.count_pairs(), store.share_of_left()
    if not ratings:
        raise UserError(f"{out} has no ratings yet: open the page and rate a few pairs first")
    measured = measure_win_rates(ratings)
    raters = len({rating.rater for rating in ratings})
    rated = len(ratings) // len({rating.question for rating in ratings})
    report = {
        "a": names[0],
        "b": names[1],
        "pairs": pairs,
        "raters": raters,
        "rated": rated,
        "share_of_left": left,
        "win_rates": describe_win_rates(measured),
    }
    write_report(out.with_name("results.json"), report)
    plot_win_rates(measured, names, [out.with_name("win_rates.png"), out.with_name("win_rates.svg")])
    print(f"a is {names[0]}, b is {names[1]}: {raters} raters rated {rated} times, of {pairs} pairs")
    print(*format_win_rates(measured), sep="\n")
    print(f"\nresults.json, win_rates.png and win_rates.svg are beside {out}")


if __name__ == "__main__":
    run_main(
        main,
        "name the folders as in --a=runs/ours/pictures --b=…",
        if_interrupted="the ratings are kept; run the same command to continue rating",
    )
