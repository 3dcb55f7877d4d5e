"""The database of ratings: one SQLite file, in which an answer is safe before the next pair is shown.

| table | holds |
|---|---|
| about | a secret that the blinding follows from, the folders, the fingerprints of their pictures |
| pairs | key, prompt and category of each pair |
| ratings | of each rater and pair: whose pictures were on the left, the two answers as given, when |

Write-ahead log and full synchronisation (https://sqlite.org/wal.html): a killed server or a power cut loses no answer
that was taken. Any number of raters, threads and servers of one machine may use the file at once. Who rates a pair
again replaces the earlier answer, so that a slip can be mended and a request sent twice counts once.
"""

import os
import secrets
import sqlite3
import threading
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
"""SQLite's ``application_id`` of such a file."""

SECONDS_TO_WAIT = 20.0
"""For another server that is writing."""

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
    """The database, open; a context that closes it.

    Args:
        path: the file.
        comparison: what is rated; None reads what is there, whatever it is of.

    Attributes:
        secret: what the blinding follows from.
        names: of what is compared.

    Raises:
        UserError: the file is damaged or no such database, belongs to other pictures, or can't be written.
    """

    def __init__(self, path: Path, comparison: Comparison | None = None):
        if in_bucket(path):
            raise UserError(f"{path} lies in a bucket, and ratings are kept on this machine: choose another --out")
        if path.is_dir():
            raise UserError(f"{path} is a folder: name a file, as in --out={path}/ratings.sqlite")
        self.path, self._lock = path, threading.Lock()
        if comparison is not None:
            # SQLite makes files that a group may not write to; beside one that is there, its log gets the same
            # permissions. Where it can't be made, SQLite says why.
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
                raise UserError(f"{path} lacks what it was begun with: bring back a copy or choose another --out")
        except BaseException:
            self._connection.close()
            raise
        try:
            self.secret = bytes.fromhex(about["secret"])
            self.names = str(about["name_a"]), str(about["name_b"])
        except (TypeError, ValueError):
            self._connection.close()
            raise UserError(f"{path} has no readable secret: bring back a copy or choose another --out") from None

    def __enter__(self) -> "RatingStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def rated(self, rater: str) -> set[str]:
        """The keys of the pairs that a rater has rated.

        Raises:
            UserError: the database can't be read, or an answer is damaged.
        """
        keys = {pair for (pair,) in self._ask("SELECT pair FROM ratings WHERE rater = ?", rater)}
        if not all(isinstance(key, str) for key in keys):
            raise UserError(f"{self.path} is damaged (an answer is none): bring back a copy or choose another --out")
        return keys

    def keep(self, rater: str, pair: str, left: str, alignment: str, fidelity: str) -> None:
        """Writes an answer; when this returns it is on the disk.

        Args:
            rater: who answers.
            pair: the key of the pair.
            left: whose pictures were on the left, "a" or "b".
            alignment: one of ``ANSWERS``.
            fidelity: likewise.

        Raises:
            UserError: it can't be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._ask(
            "INSERT OR REPLACE INTO ratings VALUES (?, ?, ?, ?, ?, ?)", rater, pair, left, alignment, fidelity, now
        )

    def ratings(self) -> list[Rating]:
        """All answers, of each question one, with sides turned back into "a" and "b".

        Raises:
            UserError: the database can't be read, or one is damaged.
        """
        rows = self._ask(
            'SELECT rater, prompt, category, "left", alignment, fidelity FROM ratings JOIN pairs USING (pair) '
            "ORDER BY answered, rater, pair"
        )
        for row in rows:
            # A column's type and its CHECK bind who writes through SQLite, not who writes the file.
            if not all(isinstance(value, str) for value in row) or row[3] not in ("a", "b") or {*row[4:]} - {*ANSWERS}:
                raise UserError(
                    f"{self.path} is damaged (an answer is none): bring back a copy or choose another --out"
                )
        return [
            Rating(rater, prompt, category, question, unblind(answer, left))
            for rater, prompt, category, left, *answers in rows
            for question, answer in zip(QUESTIONS, answers, strict=True)
        ]

    def count_pairs(self) -> int:
        """How many pairs there are to rate."""
        return int(self._ask("SELECT count(*) FROM pairs")[0][0])

    def share_of_left(self) -> float | None:
        """How often the left side was preferred, of all answers that prefer one: far from a half, raters did not look.

        None where nobody prefers any.
        """
        answers = [answer for row in self._ask("SELECT alignment, fidelity FROM ratings") for answer in row]
        decided = [answer for answer in answers if answer != INDIFFERENT]
        return decided.count("left") / len(decided) if decided else None

    def _check(self, may_be_empty: bool) -> None:
        """Looks for damage, and whether it is a database of this kind or an empty one."""
        # In one transaction, as another server may be making the tables.
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
            raise UserError(f"{self.path} is damaged ({found}): bring back a copy or name another --out")
        # A view may have rows without end, and what a trigger does is not ours.
        if others or (ours != OURS and (tables or not may_be_empty)):
            raise UserError(f"{self.path} is no database of ratings: name another file in --out")
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._ask(f"PRAGMA {setting}")

    def _begin(self, comparison: Comparison) -> None:
        """Makes the tables, or compares them with what is to be rated."""
        told = dict(zip(("fingerprint_a", "fingerprint_b"), comparison.fingerprints, strict=True))
        told |= dict(zip(("name_a", "name_b"), comparison.names, strict=True))
        keys = {pair.key for pair in comparison.pairs}
        # At once exclusive: of two servers that begin it, one finds it made.
        with self._transaction("BEGIN IMMEDIATE"):
            ask, ask_for_each = self._connection.execute, self._connection.executemany
            if ask("SELECT name FROM sqlite_master").fetchall():
                self._compare(told, keys)
            else:
                for statement in TABLES.split(";"):
                    ask(statement)
                told["secret"] = secrets.token_hex(32)
                ask_for_each("INSERT INTO about VALUES (?, ?)", told.items())
                ask(f"PRAGMA application_id = {OURS}")
            # The categories are as prompts.csv has them now.
            ask_for_each(
                "INSERT INTO pairs VALUES (?, ?, ?) ON CONFLICT (pair) DO UPDATE SET category = excluded.category",
                [(pair.key, pair.prompt, pair.category) for pair in comparison.pairs],
            )

    def _compare(self, told: dict[str, str], keys: set[str]) -> None:
        about = dict(self._connection.execute("SELECT name, value FROM about").fetchall())
        before, now = ([side.get(f"fingerprint_{name}") for name in "ab"] for side in (about, told))
        if before == now[::-1]:
            raise UserError(f"{self.path} was begun with --a and --b the other way round: exchange them")
        if before != now:
            raise UserError(
                f"{self.path} belongs to other pictures, those of {about.get('name_a')} and {about.get('name_b')} as "
                "they were when it was begun: choose another --out"
            )
        if {pair for (pair,) in self._connection.execute("SELECT pair FROM pairs")} != keys:
            raise UserError(f"{self.path} was begun with another --together: give the same one or choose another --out")

    def _ask(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        """Runs one statement, which is committed when it returns."""
        with self._explaining("read or written"), self._lock:
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self, beginning: str) -> Iterator[None]:
        """All that is asked within is of one moment, and written as a whole or not at all."""
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
                    f"you may not read and write {self.path}: ask its owner to let you (chmod a+rw), or choose another "
                    "--out"
                ) from error
            raise UserError(f"{self.path} can't be {what} ({error}): make room or choose another --out") from error
        # Also where SQLite tells of damage in words that hold it.
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self.path} is damaged or no database ({error}): bring back a copy or choose another --out"
            ) from error


def unblind(answer: str, left: str) -> str:
    """Whose pictures an answer prefers: "a", "b" or "indifferent".

    Args:
        answer: one of ``ANSWERS``.
        left: whose pictures were on the left, "a" or "b".
    """
    right = "b" if left == "a" else "a"
    return {"left": left, "right": right}.get(answer, INDIFFERENT)
