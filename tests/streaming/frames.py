"""Random frames with every kind of column and key that a model can have."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl

LABELS = ["low", "mid", "high"]


def frame(rows: int = 400, seed: int = 0, mean: float = 0.0) -> pl.DataFrame:
    """y with effects of x, f, g and h; keys of all dtypes with the partition of g; weights, offset; nothing missing."""
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=rows), rng.normal(3.0, 2.0, size=rows)
    g, h = rng.integers(0, 12, rows), rng.integers(0, 7, rows)
    inner = rng.integers(0, 3, rows)
    f = rng.integers(0, 3, rows)
    b = rng.normal(size=(12, 2)) * [1.0, 0.6]
    t = rng.uniform(0.5, 2.0, rows)
    y = 1.0 + 0.5 * x - 0.3 * z + 0.4 * (f == 1) + b[g, 0] + b[g, 1] * x + 0.7 * rng.normal(size=7)[h]
    y += 0.5 * rng.normal(size=(12, 3))[g, inner] + np.sqrt(1.0 / t) * rng.normal(size=rows) + mean
    labels = np.array(LABELS)[f]
    order = pl.Enum([f"e{k}" for k in (5, 3, 11, *range(3), 4, *range(6, 11), 99)])
    return pl.DataFrame(
        {
            "y": y, "x": x, "z": z, "w": t, "o": 2.0 * rng.normal(size=rows),
            "n": rng.integers(0, 4, rows), "positive": rng.uniform(0.5, 3.0, rows),
            "x32": pl.Series(x.astype(np.float32)), "count": rng.integers(-5, 6, rows).astype(np.int8),
            "flag": rng.random(rows) < 0.4,
            "f": pl.Series(labels, dtype=pl.String),
            "fe": pl.Series(labels, dtype=pl.Enum([*LABELS, "never"])),
            "fc": pl.Series(labels, dtype=pl.Categorical),
            "year": pl.Series(2000 + f, dtype=pl.Int64),
            "g": g, "h": h, "inner": inner,
            "g_text": pl.Series([f"g{10 * k}" for k in g]),
            "g_cat": pl.Series([f"k{97 * k % 11}{k}" for k in g], dtype=pl.Categorical),
            "g_enum": pl.Series([f"e{k}" for k in g], dtype=order),
            "g_float": g * 0.5 - 1.0, "g_date": [date(2020, 1, 1) + timedelta(days=int(k)) for k in g],
            "g_bool": g < 6, "g_wide": pl.Series(g.astype(np.uint64) + 2**63),
            "g_small": pl.Series(g.astype(np.int8) - 6),
        }
    )  # fmt: skip


def with_missing(data: pl.DataFrame, columns: dict[str, int], seed: int = 1) -> pl.DataFrame:
    """Every k-th row without a value in a column, at random; floats get NaN in half of them."""
    rng = np.random.default_rng(seed)
    made = []
    for name, k in columns.items():
        gone = pl.Series(rng.random(data.height) < 1 / k)
        column = data[name].to_frame().select(pl.when(~gone).then(pl.col(name)))
        if data.schema[name].is_float():
            odd = pl.Series(rng.random(data.height) < 0.5)
            column = column.select(pl.when(odd).then(pl.col(name)).otherwise(pl.col(name).fill_null(float("nan"))))
        made.append(column.to_series())
    return data.with_columns(made)
