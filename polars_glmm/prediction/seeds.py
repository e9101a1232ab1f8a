"""Seeds of random draws: one number that is kept beside what was drawn, so that it can be drawn again."""

from __future__ import annotations

import numpy as np

from polars_glmm.errors import ModelError

_MOST, _EXACT = 1 << 63, 1 << 53
"""Seeds are below the first, as Int64 holds them; those that are drawn are below the second, as Float64 does."""


def seed_of(rng: np.random.Generator | int | None) -> int:
    """A seed: as given, drawn from a generator, or fresh. Raises ModelError for what is none."""
    if rng is None or isinstance(rng, np.random.Generator):
        return int(np.random.default_rng(rng).integers(_EXACT))
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer) or not 0 <= rng < _MOST:
        msg = f"rng={rng!r}: use a numpy Generator, None, or a seed, a whole number from 0 below 2**63."
        raise ModelError(msg)
    return int(rng)
