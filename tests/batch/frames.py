"""Frames of many small data sets, one per key, with everything that can happen to one of them."""

from __future__ import annotations

import numpy as np
import polars as pl

N_KEYS, N_GROUPS, N_ROWS = 12, 8, 96


def many(seed: int = 7) -> pl.DataFrame:
    """Twelve keys of eight groups and about a hundred rows; rows in no order."""
    rng = np.random.default_rng(seed)
    n = N_KEYS * N_ROWS
    key = np.repeat(np.arange(N_KEYS), N_ROWS)
    group = rng.integers(0, N_GROUPS, n)
    x, w, t = rng.standard_normal(n), 50.0 + 3.0 * rng.standard_normal(n), rng.integers(0, 10, n) / 2.0
    spread = np.where(key % 4 == 3, 0.0, 0.7)  # every fourth key has no variance between groups
    u = spread * rng.standard_normal((N_KEYS, N_GROUPS))[key, group]
    v = 0.5 * (spread > 0) * rng.standard_normal((N_KEYS, N_GROUPS))[key, group]
    f = np.array(["a", "b", "c"])[rng.integers(0, 3, n)]
    eta = 0.4 + 0.3 * x + 0.2 * (f == "b") + u + v * t / 2.5 - 0.5 * v
    mean = np.exp(eta)
    trials = rng.integers(2, 9, n)
    share = 1.0 / (1.0 + np.exp(-eta))
    frame = pl.DataFrame(
        {
            "key": key,
            "group": [f"g{g}" for g in group],
            "x": x,
            "w": w,
            "t": t,
            "f": f,
            "count": rng.poisson(mean),
            "over": rng.negative_binomial(2.0, 2.0 / (2.0 + mean)),
            "size": rng.gamma(4.0, mean / 4.0) + 1e-3,
            "hit": rng.random(n) < share,
            "wins": rng.binomial(trials, share),
            "trials": trials,
            "level": eta + 0.5 * rng.standard_normal(n),
            "exposure": rng.uniform(0.5, 2.0, n),
            "weight": rng.integers(0, 4, n),
            "precision": rng.uniform(0.0, 2.0, n).round(1),
        }
    )
    return frame.sample(fraction=1.0, shuffle=True, seed=1)


def spoiled() -> pl.DataFrame:
    """The same, with keys that are out of the ordinary, each in its own way."""
    frame = many().with_row_index("row")
    key, row = pl.col("key"), pl.col("row")
    return frame.with_columns(
        x=pl.when((key == 0) & (row % 7 == 0)).then(None).when((key == 1) & (row % 5 == 0)).then(float("nan"))
        .when((key == 2) | ((key == 4) & (row % 11 == 0))).then(2.0 if False else pl.col("w") * 2.0).otherwise("x"),
        group=pl.when(key == 5).then(pl.lit("only")).otherwise("group"),
        count=pl.when((key == 6) & (row % 50 == 0)).then(-1).otherwise("count"),
        f=pl.when(key == 8).then(pl.lit("a")).when((key == 9) & (pl.col("f") == "c")).then(pl.lit("b")).otherwise("f"),
        w=pl.when(key == 10).then(None).otherwise("w"),
    ).drop("row")  # fmt: skip
