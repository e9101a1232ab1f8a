"""Frames of times to an event, for the tests of this folder."""

from __future__ import annotations

import numpy as np
import polars as pl


def times(seed: int = 1, *, groups: int = 40, size: int = 10, shape: float = 1.6, frailty: float = 0.4) -> pl.DataFrame:
    """log T = 1 + 0.5 x + u + W/shape with u ~ N(0, frailty²) per group, censored on the right by uniform times."""
    rng = np.random.default_rng(seed)
    n = groups * size
    g, x = np.repeat(np.arange(groups), size), rng.normal(size=n)
    t = np.exp(1.0 + 0.5 * x + rng.normal(scale=frailty, size=groups)[g]) * rng.weibull(shape, n)
    last = rng.uniform(1.0, 12.0, n)
    arm = np.where(rng.uniform(size=n) < 0.5, "a", "b")
    columns = {"g": g, "x": x, "arm": arm, "time": np.minimum(t, last), "event": t <= last}
    return pl.DataFrame(columns).with_columns(pl.col("arm").cast(pl.Enum(["a", "b"])))
