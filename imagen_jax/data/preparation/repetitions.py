"""The records of a data set that say again what another says: which go, by which test, and for which one that stays."""

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
"""By name: which bytes of a record's hashes are compared, and how. Each is applied to what those before it leave."""

DUPLICATES = tuple(TESTS)
"""What ``Preparation.duplicates`` may say: each is also what stands before it."""


@dataclass(frozen=True)
class Repetitions:
    """Which records repeat another.

    Rows are numbered through all parts, those of the first split first.

    Attributes:
        shards: the parts' folders, once for each split, in the order of the rows.
        lengths: rows of each shard.
        of: for each row the row that stays in its place; -1: it stays itself.
        tests: for each row the number of the test, in ``TESTS``, that found it.
    """

    shards: Sequence[tuple[pathlib.Path, str]]
    lengths: Sequence[int]
    of: np.ndarray
    tests: np.ndarray

    def kept(self) -> dict[str, list[np.ndarray]]:
        """Which records of each part stay, by split."""
        pieces = np.split(self.of < 0, np.cumsum(self.lengths)[:-1])
        return {
            split: [piece for piece, (_, of_split) in zip(pieces, self.shards, strict=True) if of_split == split]
            for split in SPLITS
        }

    def counts(self, duplicates: str) -> dict[str, int]:
        """How many go, by the test that finds them."""
        return {name: int((self.tests[self.of >= 0] == DUPLICATES.index(name)).sum()) for name in chosen(duplicates)}

    def rows(self) -> Iterator[dict[str, str]]:
        """What is to be told of each record that goes: its key, the test, and the key of the one that stays."""
        stay = dict(self._keys(np.unique(self.of[self.of >= 0])))
        for row, key in self._keys(np.flatnonzero(self.of >= 0)):
            yield {"key": key, "test": DUPLICATES[self.tests[row]], "of": stay[int(self.of[row])]}

    def _keys(self, rows: np.ndarray) -> Iterator[tuple[int, str]]:
        """The keys of some rows, in ascending order; of a shard without such no file is opened."""
        first = 0
        for (folder, split), length in zip(self.shards, self.lengths, strict=True):
            begin, end = np.searchsorted(rows, (first, first + length))
            wanted = set((rows[begin:end] - first).tolist())
            if wanted:
                keys = enumerate(read_lines(keys_file(folder, split)))
                yield from ((first + place, key) for place, key in keys if place in wanted)
            first += length


def chosen(duplicates: str) -> tuple[str, ...]:
    """The tests that ``duplicates`` asks for."""
    return DUPLICATES[: DUPLICATES.index(duplicates) + 1]


def find_repetitions(folders: Sequence[pathlib.Path], duplicates: str) -> Repetitions:
    """Finds the records of parts, in the parts' folders, that repeat an earlier one."""
    shards = [(folder, split) for split in SPLITS for folder in folders]
    lengths = [len(np.load(hashes_file(*shard), "r")) for shard in shards]
    of = np.full(sum(lengths), -1)
    tests = np.zeros(sum(lengths), np.int8)
    for number, name in enumerate(chosen(duplicates)):
        columns, test = TESTS[name]
        # Of all hashes only those of this test are in memory.
        rows = np.concatenate([np.load(hashes_file(*shard), "r")[:, columns] for shard in shards])
        left = np.flatnonzero(of < 0)
        earlier = test(rows[left])
        again = left[earlier >= 0]
        of[again], tests[again] = left[earlier[earlier >= 0]], number
    return Repetitions(shards, lengths, last_of(of), tests)


def last_of(of: np.ndarray) -> np.ndarray:
    """What each row repeats in the end, where that repeats another one itself."""
    while len(found := np.flatnonzero((of >= 0) & (of[of] >= 0))):
        of[found] = of[of[found]]
    return of
