"""Finds rows of hashes that repeat an earlier row, exactly or nearly.

"Looks" are a perceptual hash: 256 bits of edges and some mean colours (``image_files.hash_looks``). Copies of an image
differ in a few bits. Hashes that differ in at most 7 bits are equal in at least one of 8 bands of 32 bits. So only rows
that share a band are compared (Manku et al. 2007, section 3).
"""

import numpy as np
from jaxtyping import Int64, UInt8

from imagen_jax.data.preparation.image_files import EDGES

BANDS = 8
FEW_BITS = BANDS - 1
"""Max number of differing edge bits of two copies."""

NEAR_COLOUR = 8
"""Max difference of the mean colours of two copies, in 0…255."""

COMMON = 1000
"""Max number of rows that share a band. A more frequent band is ignored: it shows a white border or an even sky."""

MIN_DIFFERENCES = 24
"""Min number of ones, and of zeros, in the edges. Images with fewer have hardly any contrast and are not compared."""

Rows = UInt8[np.ndarray, "count bytes"]
Earlier = Int64[np.ndarray, " count"]
"""For each row, the index of an earlier row that it repeats; -1 if it repeats none."""


def repeated(rows: Rows) -> Earlier:
    """Returns, for each row, the index of the first row that equals it; -1 for that first row."""
    if not len(rows):
        return np.zeros(0, np.int64)
    whole = np.ascontiguousarray(rows).view([("row", np.void, rows.shape[1])]).reshape(-1)
    _, first, which = np.unique(whole["row"], return_index=True, return_inverse=True)
    found = first[which]
    found[first] = -1
    return found


def alike(looks: Rows) -> Earlier:
    """Returns, for each row of looks, the index of an earlier row that is nearly equal; -1 if there is none."""
    found = np.full(len(looks), -1)
    edges, colours = looks[:, :EDGES], looks[:, EDGES:]
    ones = np.bitwise_count(edges).sum(axis=1)
    compared = np.flatnonzero((ones >= MIN_DIFFERENCES) & (ones <= 8 * EDGES - MIN_DIFFERENCES))
    bands = np.ascontiguousarray(edges[compared]).reshape(-1).view(np.uint32).reshape(len(compared), BANDS)
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        begins = np.concatenate([[0], np.flatnonzero(np.diff(band[order])) + 1, [len(order)]])
        lengths = np.diff(begins)
        for index in np.flatnonzero((lengths > 1) & (lengths <= COMMON)):
            mark_alike(edges, colours, compared[order[begins[index] : begins[index + 1]]], found)
    return found


def mark_alike(edges: Rows, colours: np.ndarray, group: np.ndarray, found: Earlier) -> None:
    """Marks rows of a group that nearly equal an earlier row of it, in ``found``.

    Args:
        edges: edges of all rows.
        colours: mean colours of all rows.
        group: indices of the group's rows, ascending.
        found: result for all rows, modified in place; rows that are marked already are skipped.
    """
    for index, row in enumerate(group[1:], start=1):
        if found[row] < 0:
            earlier = group[:index]
            few = np.bitwise_count(edges[earlier] ^ edges[row]).sum(axis=1) <= FEW_BITS
            differences = np.abs(colours[earlier].astype(np.int16) - colours[row])
            near = differences.max(axis=1) <= NEAR_COLOUR
            if (few & near).any():
                found[row] = earlier[np.argmax(few & near)]
