"""Unit rows whose dot products are exact in any order of summation, with many ties."""

import itertools

import numpy as np

WHOLE_ROWS = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32)
HALVES = np.array(list(itertools.product([-0.5, 0.5], repeat=4)), np.float32)
# 24 rows of unit length and one of zeros; every product is a multiple of 1/2.
EXACT_ROWS = np.concatenate([WHOLE_ROWS, HALVES, np.zeros((1, 4), np.float32)])


def draw_exact_rows(rng, num, rows=EXACT_ROWS):
    """`(num, 4)` of the rows."""
    return rows[rng.integers(0, len(rows), num)]
