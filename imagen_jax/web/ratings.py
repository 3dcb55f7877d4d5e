"""Stores the ratings in one SQLite file. Each answer is on disk before the next pair is shown.

| table | holds |
|---|---|
| about | the secret for blinding, the names of the folders, the fingerprints of their images |
| pairs | key, prompt and category of each pair |
| ratings | for each rater and pair: the model on the left, the two answers as given, the time |

The database uses a write-ahead log with full synchronisation (https://sqlite.org/wal.html), so a killed server or a
power cut loses no stored answer. Several raters, threads and servers of one machine may use the file at once. A second
rating of a pair by the same rater replaces the first, so raters can correct slips and a repeated request counts once.
"""

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from imagen_jax.errors import UserError
from imagen_jax.evaluation.metrics.win_rates import INDIFFERENT, QUESTIONS, Rating
from imagen_jax.storage.paths import Path, in_bucket
from imagen_jax.web.pairs import Comparison

ANSWERS = ("left", INDIFFERENT, "right")
OURS = 0x696D7261
"""SQLite's ``application_id`` of a database of ratings."""

SECONDS_TO_WAIT = 20.0
"""Time limit in seconds for waiting while another server writes."""

TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE pairs (pair TEXT PRIMARY KEY, prompt TEXT NOT NULL, category TEXT NOT NULL);
CREATE TABLE ratings (
    rater TEXT NOT NULL, pair TEXT NOT NULL REFERENCES pairs, "left" TEXT NOT NULL CHECK ("left" IN ('a', 'b')),
    alignment TEXT NOT NULL CHECK (alignment IN ('left', 'indifferent', 'right')),
    fidelity TEXT NOT NULL CHECK (fidelity IN ('left', 'indifferent', 'right')),
    answered TEXT NOT NULL, PRIMARY KEY (rater, pair)
);
"""


class RatingStore:
    """The open database; a context manager that closes it.

    Args:
        path: the database file, not in a bucket.
        comparison: the pairs to rate; None opens an existing database of any pairs.

    Attributes:
        secret: secret for blinding.
        names: names of the two compared folders.

    Raises:
        UserError: the file is damaged, is no database of ratings, belongs to other images, can't be written, or lies
            in a bucket.
    """

    def __init__(self, path: Path, comparison: Comparison | None = None):
        if in_bucket(path):
            raise UserError(f"{path} is in a bucket, but ratings need a local file: choose another --out")
        if path.is_dir():
            raise UserError(f"{path} is a folder: name a file, as in --out={path}/ratings.sqlite")
        self.path, self._lock = path, threading.Lock()
        if comparison is not None:
            # SQLite creates files without group write permission, but gives its log the permissions of an existing
            # database. So create the file first; if that fails, SQLite reports the reason below.
            with suppress(OSError):
                path.touch()
        with self._explaining("opened"):
            self._connection = sqlite3.connect(
                str(path), timeout=SECONDS_TO_WAIT, isolation_level=None, check_same_thread=False
            )
        try:
            self._check(may_be_empty=comparison is not None)
            if comparison is not None:
                self._begin(comparison)
            about = dict(self._ask("SELECT name, value FROM about"))
            if not {"secret", "name_a", "name_b"} <= about.keys():
                raise UserError(
                    f"{path} lacks its secret or its folders' names: restore a copy or choose another --out"
                )
        except BaseException:
            self._connection.close()
            raise
        try:
            self.secret = bytes.fromhex(about["secret"])
            self.names = str(about["name_a"]), str(about["name_b"])
        except (TypeError, ValueError):
            self._connection.close()
            raise UserError(f"{path} has no readable secret: restore a copy or choose another --out") from None

    def __enter__(self) -> "RatingStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def rated(self, rater: str) -> set[str]:
        """Returns the keys of the pairs that a rater has rated.

        Raises:
            UserError: the database can't be read, or an answer in it is damaged.
        """
        keys = {pair for (pair,) in self._ask("SELECT pair FROM ratings WHERE rater = ?", rater)}
        if not all(isinstance(key, str) for key in keys):
            raise UserError(f"{self.path} is damaged (an answer is invalid): restore a copy or choose another --out")
        return keys

    def keep(self, rater: str, pair: str, left: str, alignment: str, fidelity: str) -> None:
        """Stores an answer. It is on disk when the method returns.

        Args:
            rater: name of the rater.
            pair: key of the pair.
            left: model on the left side, "a" or "b".
            alignment: answer to the question about alignment, one of ``ANSWERS``.
            fidelity: answer to the question about fidelity, one of ``ANSWERS``.

        Raises:
            UserError: the answer can't be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._ask(
            "INSERT OR REPLACE INTO ratings VALUES (?, ?, ?, ?, ?, ?)", rater, pair, left, alignment, fidelity, now
        )

    def ratings(self) -> list[Rating]:
        """Returns all answers, one for each question, with the sides translated to "a" and "b".

        Raises:
            UserError: the database can't be read, or an answer in it is damaged.
        """
        rows = self._ask(
            'SELECT rater, prompt, category, "left", alignment, fidelity FROM ratings JOIN pairs USING (pair) '
            "ORDER BY answered, rater, pair"
        )
        for row in rows:
            # Column types and CHECKs protect only against writes through SQLite, not against changes to the file.
            if not all(isinstance(value, str) for value in row) or row[3] not in ("a", "b") or {*row[4:]} - {*ANSWERS}:
                raise UserError(
                    f"{self.path} is damaged (an answer is invalid): restore a copy or choose another --out"
                )
        return [
            Rating(rater, prompt, category, question, unblind(answer, left))
            for rater, prompt, category, left, *answers in rows
            for question, answer in zip(QUESTIONS, answers, strict=True)
        ]

    def count_pairs(self) -> int:
        """Returns the number of pairs to rate."""
        return int(self._ask("SELECT count(*) FROM pairs")[0][0])

    def share_of_left(self) -> float | None:
        """Returns the share of "left" among all answers that prefer a side, in [0, 1]; None without such answers.

        A share far from 0.5 suggests that raters did not look at the images.
        """
        answers = [answer for row in self._ask("SELECT alignment, fidelity FROM ratings") for answer in row]
        decided = [answer for answer in answers if answer != INDIFFERENT]
        return decided.count("left") / len(decided) if decided else None

    def _check(self, may_be_empty: bool) -> None:
        """Checks that the file is an intact database of ratings, or an empty one if allowed, and configures SQLite."""
        # One transaction, because another server may be creating the tables.
        with self._transaction("BEGIN"):
            found, ours, tables, others = (
                self._connection.execute(statement).fetchone()[0]
                for statement in (
                    "PRAGMA quick_check(1)",
                    "PRAGMA application_id",
                    "SELECT count(*) FROM sqlite_master",
                    "SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index')",
                )
            )
        if found != "ok":
            raise UserError(f"{self.path} is damaged ({found}): restore a copy or name another --out")
        # Reject views and triggers: a view can yield endless rows, and a trigger runs foreign code.
        if others or (ours != OURS and (tables or not may_be_empty)):
            raise UserError(f"{self.path} is not a database of ratings: name another file in --out")
        self._switch_to_wal()
        for setting in ("synchronous = FULL", "foreign_keys = ON"):
            self._ask(f"PRAGMA {setting}")

    def _begin(self, comparison: Comparison) -> None:
        """Creates the tables or checks that they belong to the comparison, then stores its pairs."""
        about = dict(zip(("fingerprint_a", "fingerprint_b"), comparison.fingerprints, strict=True))
        about |= dict(zip(("name_a", "name_b"), comparison.names, strict=True))
        keys = {pair.key for pair in comparison.pairs}
        # IMMEDIATE takes the write lock at once: of two servers that start together, the second finds the tables.
        with self._transaction("BEGIN IMMEDIATE"):
            ask, ask_for_each = self._connection.execute, self._connection.executemany
            if ask("SELECT name FROM sqlite_master").fetchall():
                self._compare(about, keys)
            else:
                for statement in TABLES.split(";"):
                    ask(statement)
                about["secret"] = secrets.token_hex(32)
                ask_for_each("INSERT INTO about VALUES (?, ?)", about.items())
                ask(f"PRAGMA application_id = {OURS}")
            # Update the categories, because prompts.csv may have changed.
            ask_for_each(
                "INSERT INTO pairs VALUES (?, ?, ?) ON CONFLICT (pair) DO UPDATE SET category = excluded.category",
                [(pair.key, pair.prompt, pair.category) for pair in comparison.pairs],
            )

    def _compare(self, about: dict[str, str], keys: set[str]) -> None:
        stored = dict(self._connection.execute("SELECT name, value FROM about").fetchall())
        before, now = ([side.get(f"fingerprint_{name}") for name in "ab"] for side in (stored, about))
        if before == now[::-1]:
            raise UserError(f"{self.path} was created with --a and --b the other way round: exchange them")
        if before != now:
            raise UserError(
                f"{self.path} belongs to other images, those of {stored.get('name_a')} and {stored.get('name_b')} when "
                "it was created: choose another --out"
            )
        if {pair for (pair,) in self._connection.execute("SELECT pair FROM pairs")} != keys:
            raise UserError(
                f"{self.path} was created with another --together: give the same one or choose another --out"
            )

    def _switch_to_wal(self) -> None:
        """Switches to write-ahead logging. SQLite does not wait for another server that does so at this moment."""
        end = time.monotonic() + SECONDS_TO_WAIT
        with self._explaining("read or written"):
            while True:
                try:
                    self._connection.execute("PRAGMA journal_mode = WAL").fetchall()
                    return
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > end:
                        raise
                time.sleep(0.02)

    def _ask(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        """Runs and commits one statement, and returns its rows."""
        with self._explaining("read or written"), self._lock:
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self, beginning: str) -> Iterator[None]:
        """Runs the block as one transaction: its reads see one state, and its writes succeed or fail together."""
        with self._explaining("read or written"), self._lock:
            self._connection.execute(beginning)
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _explaining(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if self.path.exists() and not os.access(self.path, os.R_OK | os.W_OK, effective_ids=True):
                raise UserError(
                    f"no permission to read and write {self.path}: ask its owner for it (chmod a+rw), or choose "
                    "another --out"
                ) from error
            raise UserError(
                f"{self.path} can't be {what} ({error}): check the disk and whether another program uses the file, or "
                "choose another --out"
            ) from error
        # SQLite's message can quote damaged bytes, which Python then fails to decode.
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self.path} is damaged or not a database ({error}): restore a copy or choose another --out"
            ) from error


def unblind(answer: str, left: str) -> str:
    """Returns the preferred model of an answer: "a", "b" or "indifferent".

    Args:
        answer: one of ``ANSWERS``.
        left: model on the left side, "a" or "b".
    """
    right = "b" if left == "a" else "a"
    return {"left": left, "right": right}.get(answer, INDIFFERENT)
