"""Whether hypotheses are all pairwise differences of some means, as the studentized range needs."""

from __future__ import annotations

import numpy as np

from polars_glmm.typing import Mat, Vec


def means_of_pairs(rows: Mat) -> int | None:
    """The number k of means, if the rows (m, p) are, but for signs, all k(k−1)/2 differences of k points; else None.

    The first row joins two points; those rows that start at the same one make a star of k − 1 whose differences must be
    the other rows.
    """
    m = len(rows)
    k = round((1.0 + np.sqrt(1.0 + 8.0 * m)) / 2.0)
    if k * (k - 1) // 2 != m:
        return None
    size = float(np.abs(rows).max(initial=0.0))
    known = {_key(row, size) for row in rows}
    if len(known) < m or size == 0.0:
        return None
    star = [rows[0]]
    for row in rows[1:]:
        for turned in (row, -row):
            if all(_key(turned - one, size) in known for one in star):
                star.append(turned)
                break
        if len(star) == k - 1:
            break
    made = {_key(one, size) for one in star}
    made |= {_key(a - b, size) for i, a in enumerate(star) for b in star[:i]}
    return k if len(star) == k - 1 and made == known else None


def _key(row: Vec, size: float) -> tuple[float, ...]:
    """A row up to its sign and rounding."""
    rounded = np.round(row / size, 9) + 0.0
    first = rounded[np.flatnonzero(rounded)[:1]]
    return tuple((rounded * (np.sign(first[0]) if len(first) else 1.0) + 0.0).tolist())
