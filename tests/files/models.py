"""Models of every kind that a file can hold, each with the frame that it answers about."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import polars as pl

import polars_glmm


class Kind(NamedTuple):
    """A fit and rows to ask it about."""

    fit: Any
    frame: pl.DataFrame


def rows(n_levels: int = 12, each: int = 8) -> pl.DataFrame:
    """Rows with numbers, labels, counts and trials, in groups that matter."""
    rng = np.random.default_rng(20)
    g = np.repeat(np.arange(n_levels), each)
    h = np.tile(np.arange(4), n_levels * each // 4)
    x, z = rng.normal(size=len(g)), rng.uniform(0.5, 2.0, size=len(g))
    f = np.array(["low", "mid", "high"])[rng.integers(0, 3, len(g))]
    eta = 0.3 + 0.5 * x + rng.normal(0.0, 0.6, n_levels)[g] + np.array([0.0, 0.4, -0.3, 0.2])[h]
    trials = rng.integers(3, 9, len(g))
    hits = rng.binomial(trials, 1.0 / (1.0 + np.exp(-eta)))
    return pl.DataFrame(
        {
            "y": eta + rng.normal(0.0, 0.5, len(g)),
            "x": x,
            "z": z,
            "f": pl.Series(f, dtype=pl.Enum(["low", "mid", "high"])),
            "c": pl.Series(f, dtype=pl.Categorical),
            "g": g,
            "h": [f"h{k}" for k in h],
            "count": rng.poisson(np.exp(eta)),
            "hits": hits,
            "trials": trials,
            "misses": trials - hits,
            "share": hits / trials,
            "yes": hits > trials / 2,
            "answer": pl.Series(["yes" if k else "no" for k in hits > trials / 2], dtype=pl.Enum(["no", "yes"])),
            "positive": rng.gamma(4.0, np.exp(eta) / 4.0),
            "weight": rng.integers(1, 4, len(g)),
            "big": rng.negative_binomial(2, 0.2, len(g)),
        }
    )


def _fit(*formulas: str, frame: pl.DataFrame | None = None, **arguments: Any) -> Kind:
    data = rows() if frame is None else frame
    return Kind(polars_glmm.fit(data, *formulas, **arguments), data)


def _gapped() -> pl.DataFrame:
    return rows().with_columns(x=pl.when(pl.int_range(pl.len()) % 11 == 3).then(None).otherwise("x"))


def _separated() -> pl.DataFrame:
    return rows().with_columns(one=(pl.col("f") == "high").cast(pl.Float64), y=pl.col("yes") | (pl.col("f") == "high"))


def keyed(make: Callable[[int], Any], dtype: Any = None) -> Kind:
    """A model whose groups are values of another dtype."""
    frame = rows().with_columns(pl.Series("g", [make(int(k)) for k in rows()["g"]], dtype=dtype))
    return _fit("y ~ x + (x | g)", frame=frame)


UNUSUAL: dict[str, Callable[[], Kind]] = {
    "date": lambda: keyed(lambda k: dt.date(2020, 1, 1) + dt.timedelta(k)),
    "datetime": lambda: keyed(
        lambda k: dt.datetime(2020, 1, 1, k, tzinfo=dt.UTC).replace(tzinfo=None), pl.Datetime("ms")
    ),
    "zoned": lambda: keyed(
        lambda k: dt.datetime(2020, 1, 1, k, tzinfo=dt.UTC).replace(tzinfo=None), pl.Datetime("us", "Asia/Tokyo")
    ),
    "time": lambda: keyed(lambda k: dt.time(k, 1, 2, 3)),
    "duration": lambda: keyed(lambda k: dt.timedelta(hours=k)),
    "decimal": lambda: keyed(lambda k: Decimal(k) / 4, pl.Decimal(10, 2)),
    "boolean": lambda: keyed(lambda k: k % 2 == 0),
    "binary": lambda: keyed(lambda k: bytes([k, 0, 255])),
    "integer of 128 bits": lambda: keyed(lambda k: (1 << 100) + k, pl.Int128),
    "unsigned": lambda: keyed(lambda k: k, pl.UInt8),
    "real": lambda: keyed(lambda k: k / 3),
    "enum": lambda: keyed(lambda k: f"l{k}", pl.Enum([f"l{k}" for k in (*range(11, -1, -1), 99)])),
    "categorical": lambda: keyed(lambda k: f"l{k}", pl.Categorical),
    "own categories": lambda: keyed(lambda k: f"l{k}", pl.Categorical(pl.Categories("labels", "files", pl.UInt16))),
    "struct": lambda: keyed(lambda k: {"a": k // 4, "b": None if k % 4 == 0 else f"b{k % 4}"}),
    "struct of labels": lambda: keyed(
        lambda k: {"a": f"l{k}", "d": dt.date(2020, 1, 1)},
        pl.Struct({"a": pl.Enum([f"l{k}" for k in range(12)]), "d": pl.Date}),
    ),
    "japanese": lambda: keyed(lambda k: f"個体{k}"),
}
"""Keys of every dtype."""

KINDS: dict[str, Callable[[], Kind]] = {
    "reml": lambda: _fit("y ~ x + f + (x | g)"),
    "ml, two groups": lambda: _fit("y ~ x + (1 | g) + (1 | h)", method="ml"),
    "nested, composite key": lambda: _fit("y ~ x + (1 | h/g)"),
    "uncorrelated": lambda: _fit("y ~ x + (x || g)"),
    "singular": lambda: _fit("y ~ x + (1 + z | h)"),
    "no random effects": lambda: _fit("y ~ x * f"),
    "dropped column": lambda: _fit("y ~ x + x2 + f + (1 | g)", frame=rows().with_columns(x2=2.0 * pl.col("x") + 1.0)),
    "splines": lambda: _fit("y ~ bs(x, df=5) + ns(z, df=3) + (1 | g)"),
    "polynomial, scale": lambda: _fit("y ~ poly(x, 3) + scale(z) + center(x) + (scale(z) | g)"),
    "functions": lambda: _fit("y ~ log(z) + exp(x) + I(x ** 2) + pmin(x, 0.5) + I(z > 1) + (1 | g)"),
    "contrasts": lambda: _fit("y ~ C(f, contr.sum) * x + C(c, Treatment(reference='mid')) + (1 | g)"),
    "slopes of a factor": lambda: _fit("y ~ f + (0 + f | h)"),
    "phi": lambda: _fit("y ~ x + (1 | g)", "phi ~ x + f"),
    "phi of counts": lambda: _fit("big ~ x + (1 | g)", "phi ~ x", family="negative_binomial"),
    "offset": lambda: _fit("count ~ x + offset(log(z)) + (1 | g)", family="poisson", offset="z"),
    "trials": lambda: _fit("hits ~ x + (1 | g)", family="binomial", trials="trials"),
    "share": lambda: _fit("share ~ x + (1 | g)", family="binomial", trials="trials"),
    "cbind": lambda: _fit("cbind(hits, misses) ~ x + (1 | g)", family=polars_glmm.Binomial(link="probit")),
    "boolean": lambda: _fit("yes ~ x + (1 | g)", family="binomial", method=polars_glmm.AGQ(nodes=5)),
    "text": lambda: _fit("answer ~ x + (1 | g)", family="binomial", link="cloglog"),
    "expected curvature": lambda: _fit("count ~ x + (1 | g)", family="poisson", link="sqrt",
                                       method=polars_glmm.Laplace(curvature="expected")),
    "degrees of freedom held": lambda: _fit("positive ~ x + (1 | g)", family=polars_glmm.StudentT(df=5.0)),
    "power held": lambda: _fit("positive ~ x + (1 | g)", family=polars_glmm.Tweedie(power=1.6)),
    "power": lambda: _fit("positive ~ x + (1 | g)", family="tweedie"),
    "gamma": lambda: _fit("positive ~ x + (1 | g)", family="gamma", precision="z"),
    "inverse gaussian": lambda: _fit("positive ~ x + (1 | g)", family="inverse_gaussian", link="log"),
    "negative binomial": lambda: _fit("big ~ x + (1 | g)", family="negative_binomial"),
    "frequency": lambda: _fit("y ~ x + (1 | g)", frequency="weight"),
    "separated": lambda: _fit("y ~ x + one + (1 | g)", frame=_separated(), family="binomial"),
    "missing rows": lambda: _fit("y ~ x + (1 | g)", frame=_gapped()),
    "groups": lambda: _fit("y ~ x", groups=[("h", "g"), {"h": "1"}]),
    "start and fixed": lambda: _fit("count ~ x + (1 | g)", family="poisson", start={"sd(g: Intercept)": 0.5},
                                    fixed={"x": 0.5}),
    "no standard errors": lambda: _fit("y ~ x + (x | g)",
                                       control=polars_glmm.Control(search=polars_glmm.Search(hessian=False))),
    "keys that clash": lambda: _fit("y ~ x + (1 | `mode Intercept`)", frame=rows().rename({"g": "mode Intercept"})),
    "products": lambda: Kind(polars_glmm.products(rows(), "y ~ x + f + (x | g)").fit(), rows()),
    "lazy": lambda: Kind(rows().lazy().glmm.fit("y ~ x + (x | g)"), rows()),
    **UNUSUAL,
}  # fmt: skip
"""Every kind of fit."""
