"""A source whose columns were moved since the fit is not taken for the one of the fit, whatever a column is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Control, Memory
from polars_glmm.errors import DataChangedError

DISK = Control(memory=Memory(limit=1))


def rows() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    g, t = np.repeat(np.arange(20), 8), np.tile(np.arange(8.0), 20)
    x, u = rng.normal(2, 1, (2, 160))
    n = rng.integers(4, 9, 160)
    eta = 0.3 + 0.3 * x + rng.normal(0, 0.4, 20)[g]
    return pl.DataFrame({
        "y": eta + rng.normal(0, 0.5 + 0.1 * t), "count": rng.poisson(np.exp(eta)), "k": rng.binomial(n, 0.4), "n": n,
        "x": x, "u": u, "t": t, "o": rng.normal(0, 0.1, 160), "g": g, "key": g % 5,
        "far": 1e6 + u, "time": np.exp(eta + rng.gumbel(size=160)), "seen": rng.integers(0, 2, 160),
        "one": rng.random(160) < 1 / (1 + np.exp(-eta)),
        "curve": 5.0 / (1.0 + np.exp(3.0 - t)) + rng.normal(0, 0.5, 20)[g] + rng.normal(0, 0.2, 160),
    })  # fmt: skip


def exchanged(name: str, *same: str) -> pl.Expr:
    """A column with its values exchanged between rows that are the same in others."""
    return pl.col(name).reverse().over(*same)


SHIFT, UNIT = pl.lit(1.0), pl.lit(1000.0)
MODELS: list[tuple[tuple[str, ...], dict[str, Any], dict[str, pl.Expr]]] = [
    (("y ~ x + (1 | g)",), {}, {"shift": pl.col("x") + SHIFT, "unit": pl.col("x") * UNIT}),
    (("count ~ x + (1 | g)",), {"family": "poisson"}, {"shift": pl.col("x") + SHIFT, "unit": pl.col("x") * UNIT}),
    (("y ~ x + (0 + u | g)",), {}, {"only random": pl.col("u") * 2}),
    (("count ~ x + (0 + u | g)",), {"family": "poisson"}, {"only random": pl.col("u") * 2}),
    (("y ~ x + (1 | g)", "phi ~ t"), {}, {"of phi": pl.col("t") + SHIFT}),
    (("count ~ x + (1 | g)",), {"family": "poisson", "offset": "o"}, {"offset": pl.col("o").reverse()}),
    (("k ~ x + (1 | g)",), {"family": "binomial", "trials": "n"}, {"trials": pl.col("n").sort()}),
    (("y ~ x",), {"residual": "ar1(t | g)"}, {"time": pl.col("t").shuffle(seed=1).over("g")}),
    (("y ~ far + (1 | g)",), {}, {"far shift": pl.col("far") + SHIFT, "far unit": (pl.col("far") - 1e6) * 2 + 1e6}),
    (("y ~ x + (1 | g)",), {"offset": "o"}, {"offset shift": pl.col("o") + SHIFT}),
    (("one ~ x + u + (1 | g)",), {"family": "binomial"}, {
        "between rows": exchanged("x", "one"), "within levels": exchanged("x", "one", "g"),
        "levels": exchanged("g", "one"),
    }),
    (("surv(time, seen) ~ x + (1 | g)",), {"family": "weibull"}, {"events": exchanged("seen", "g")}),
    (("curve ~ SSlogis(t, Asym, xmid, scal)", "Asym ~ 1 + (1 | g)"), {}, {"input": pl.col("t") + SHIFT}),
]


ON_DISK = [(f, a | {"control": DISK}, c) for f, a, c in MODELS if ("family" in a or len(f) > 1) and "curve" not in f[0]]


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
@pytest.mark.parametrize(("formulas", "arguments", "changes"), [*MODELS, *ON_DISK])
def test_a_column_that_moved_is_found(
    formulas: tuple[str, ...], arguments: dict[str, Any], changes: dict[str, pl.Expr]
) -> None:
    data, now = rows(), []
    source = pl.defer(lambda: now[-1], schema=data.schema)
    now.append(data)
    fit = polars_glmm.fit(source, *formulas, **arguments)
    for name, change in changes.items():
        now.append(data)
        assert fit.data().lazy().collect().equals(data)
        now.append(data.with_columns(change))
        with pytest.raises(DataChangedError):
            pytest.fail(f"{name}: {fit.data().lazy().collect().height} rows")
        now.append(data.sample(fraction=1.0, shuffle=True, seed=1))
        assert fit.data().lazy().collect().height == data.height  # the same rows in another order are the same


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_columns_of_models_by_key_are_remembered_alike() -> None:
    """What a batch keeps of each model is what a fit of that model alone keeps."""
    data = rows()
    many = data.glmm.fit("y ~ x + (1 | g)", by="key", method="ml")
    for key in range(5):
        own = data.filter(pl.col("key") == key)
        one = many[key].fingerprint.pairings
        for frame in (own, own.lazy()):
            alone = frame.glmm.fit("y ~ x + (1 | g)", method="ml").fingerprint.pairings
            assert {name: alone[name] for name in one} == pytest.approx(one, abs=1e-9)


def test_two_models_may_have_a_column_in_other_units() -> None:
    data = rows()
    one = data.glmm.fit("y ~ x + (1 | g)", method="ml")
    other = data.with_columns(x=pl.col("x") * 100.0).glmm.fit("y ~ x + u + (1 | g)", method="ml")
    assert polars_glmm.anova(one, other).height == 2
