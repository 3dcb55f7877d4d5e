"""Finds records of a data set that repeat another one: which are removed, by which test, and which one is kept."""

import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from imagen_jax.data.preparation.conversion import DIGEST, HASHES, hashes_file, keys_file
from imagen_jax.data.preparation.duplicates import alike, repeated
from imagen_jax.data.preparation.shards import read_lines
from imagen_jax.data.splits import SPLITS

TESTS = {
    "keys": (slice(0, DIGEST), repeated),
    "files": (slice(DIGEST, 2 * DIGEST), repeated),
    "looks": (slice(2 * DIGEST, HASHES), alike),
}
"""Tests by name: the bytes of a record's hashes to compare, and the function that compares them.

Each test only sees the records that the previous ones keep.
"""

DUPLICATES = tuple(TESTS)
"""Values of ``Preparation.duplicates``: each includes the tests before it."""


@dataclass(frozen=True)
class Repetitions:
    """Records that repeat another one.

    Rows are numbered across all parts, first those of the first split.

    Attributes:
        shards: folder of the part and split of each shard, in the order of the rows.
        lengths: number of rows of each shard.
        of: for each row, the row that is kept in its place; -1 if it is kept itself.
        tests: for each row, the index in ``TESTS`` of the test that found it.
    """

    shards: Sequence[tuple[pathlib.Path, str]]
    lengths: Sequence[int]
    of: np.ndarray
    tests: np.ndarray

    def kept(self) -> dict[str, list[np.ndarray]]:
        """Returns, by split, a boolean mask of the kept records of each part."""
        pieces = np.split(self.of < 0, np.cumsum(self.lengths)[:-1])
        return {
            split: [piece for piece, (_, of_split) in zip(pieces, self.shards, strict=True) if of_split == split]
            for split in SPLITS
        }

    def counts(self, duplicates: str) -> dict[str, int]:
        """Returns the number of removed records by the test that found them."""
        return {name: int((self.tests[self.of >= 0] == DUPLICATES.index(name)).sum()) for name in chosen(duplicates)}

    def rows(self) -> Iterator[dict[str, str]]:
        """Yields for each removed record its key, the test that found it, and the key of the record that is kept."""
        stay = dict(self._keys(np.unique(self.of[self.of >= 0])))
        for row, key in self._keys(np.flatnonzero(self.of >= 0)):
            yield {"key": key, "test": DUPLICATES[self.tests[row]], "of": stay[int(self.of[row])]}

    def _keys(self, rows: np.ndarray) -> Iterator[tuple[int, str]]:
        """Yields ascending rows with their keys; opens only the shards that contain one."""
        first = 0
        for (folder, split), length in zip(self.shards, self.lengths, strict=True):
            begin, end = np.searchsorted(rows, (first, first + length))
            wanted = set((rows[begin:end] - first).tolist())
            if wanted:
                keys = enumerate(read_lines(keys_file(folder, split)))
                yield from ((first + index, key) for index, key in keys if index in wanted)
            first += length


def chosen(duplicates: str) -> tuple[str, ...]:
    """Returns the names of the tests that ``duplicates`` includes."""
    return DUPLICATES[: DUPLICATES.index(duplicates) + 1]


def find_repetitions(folders: Sequence[pathlib.Path], duplicates: str) -> Repetitions:
    """Finds the records, in the folders of parts, that repeat an earlier one."""
    shards = [(folder, split) for split in SPLITS for folder in folders]
    lengths = [len(np.load(hashes_file(*shard), "r")) for shard in shards]
    of = np.full(sum(lengths), -1)
    tests = np.zeros(sum(lengths), np.int8)
    for number, name in enumerate(chosen(duplicates)):
        columns, test = TESTS[name]
        # Only this test's bytes of the hashes are in memory.
        rows = np.concatenate([np.load(hashes_file(*shard), "r")[:, columns] for shard in shards])
        left = np.flatnonzero(of < 0)
        earlier = test(rows[left])
        again = left[earlier >= 0]
        of[again], tests[again] = left[earlier[earlier >= 0]], number
    return Repetitions(shards, lengths, last_of(of), tests)


def last_of(of: np.ndarray) -> np.ndarray:
    """Follows chains of repetitions: returns for each row the kept row at the end of its chain."""
    while len(found := np.flatnonzero((of >= 0) & (of[of] >= 0))):
        of[found] = of[of[found]]
    return of
