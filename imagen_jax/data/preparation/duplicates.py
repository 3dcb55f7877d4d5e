"""Which rows of hashes say again what an earlier one says, by equality or by looks.

Looks are 256 bits of edges and some mean colours (``image_files.hash_looks``). Copies differ in a few bits. Two that
differ in at most 7 are equal in one of 8 bands of 32 bits, so only those that share a band are compared (Manku et al.
2007, section 3).
"""

import numpy as np
from jaxtyping import Int64, UInt8

from imagen_jax.data.preparation.image_files import EDGES

BANDS = 8
FEW_BITS = BANDS - 1
"""In so many bits the edges of copies may differ."""

NEAR_COLOUR = 8
"""By so much of 255 the mean colours of copies may differ."""

COMMON = 1000
"""A band that so many share says nothing: a white border, an even sky."""

MIN_DIFFERENCES = 24
"""Looks with fewer ones, or fewer zeros, are of pictures that hardly have any contrast, and are compared with none."""

Rows = UInt8[np.ndarray, "count bytes"]
Earlier = Int64[np.ndarray, " count"]
"""For each row an earlier one that it repeats; -1: it repeats none."""


def repeated(rows: Rows) -> Earlier:
    """Which rows equal an earlier one: the first such."""
    if not len(rows):
        return np.zeros(0, np.int64)
    whole = np.ascontiguousarray(rows).view([("row", np.void, rows.shape[1])]).reshape(-1)
    _, first, which = np.unique(whole["row"], return_index=True, return_inverse=True)
    found = first[which]
    found[first] = -1
    return found


def alike(looks: Rows) -> Earlier:
    """Which looks are nearly those of an earlier row."""
    found = np.full(len(looks), -1)
    edges, colours = looks[:, :EDGES], looks[:, EDGES:]
    ones = np.bitwise_count(edges).sum(axis=1)
    telling = np.flatnonzero((ones >= MIN_DIFFERENCES) & (ones <= 8 * EDGES - MIN_DIFFERENCES))
    bands = np.ascontiguousarray(edges[telling]).reshape(-1).view(np.uint32).reshape(len(telling), BANDS)
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        begins = np.concatenate([[0], np.flatnonzero(np.diff(band[order])) + 1, [len(order)]])
        lengths = np.diff(begins)
        for place in np.flatnonzero((lengths > 1) & (lengths <= COMMON)):
            mark_alike(edges, colours, telling[order[begins[place] : begins[place + 1]]], found)
    return found


def mark_alike(edges: Rows, colours: np.ndarray, group: np.ndarray, found: Earlier) -> None:
    """Notes those of a group of rows, in ascending order, that are nearly as an earlier one of it."""
    for place, row in enumerate(group[1:], start=1):
        if found[row] < 0:
            earlier = group[:place]
            few = np.bitwise_count(edges[earlier] ^ edges[row]).sum(axis=1) <= FEW_BITS
            differences = np.abs(colours[earlier].astype(np.int16) - colours[row])
            near = differences.max(axis=1) <= NEAR_COLOUR
            if (few & near).any():
                found[row] = earlier[np.argmax(few & near)]
