"""Which levels a search begins on: a random part, the same each time, because a fit is a function of its data."""

from __future__ import annotations

import numpy as np

from polars_glmm.typing import BoolVec

_ROWS, _GROUPS = 20_000, 400
_SEED = 20_240_817


def share_of(n_rows: int, n_levels: int) -> float | None:
    """The share of levels that have about 20,000 rows, and at least 400; None where that would be half of all."""
    share = min(1.0, max(_ROWS / n_rows, min(_GROUPS, n_levels / 4) / n_levels))
    return None if 2 * np.ceil(n_levels * share) >= n_levels else share


def chosen_levels(n_levels: int, share: float) -> BoolVec:
    """Marks of a random share of levels, (n_levels,)."""
    chosen = np.zeros(n_levels, dtype=bool)
    chosen[np.random.default_rng(_SEED).choice(n_levels, int(np.ceil(n_levels * share)), replace=False)] = True
    return chosen


def chosen_of_part(n_levels: int, n_rows: int, share: float) -> BoolVec:
    """The same of a part that knows no other: so many that parts have the share together, of a small one often none."""
    rng = np.random.default_rng([_SEED, n_levels, n_rows])
    chosen = np.zeros(n_levels, dtype=bool)
    chosen[rng.choice(n_levels, int(n_levels * share + rng.random()), replace=False)] = True
    return chosen
