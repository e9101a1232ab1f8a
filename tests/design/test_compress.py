"""Counting equal rows changes the work and nothing a user sees."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import polars_glmm as pg

N = 30_000
MODELS = {
    "poisson": ("k ~ a + b + (1 | g)", {"family": "poisson"}),
    "poisson offset": ("k ~ a + offset(log(w)) + (1 | g)", {"family": "poisson"}),
    "bernoulli": ("s ~ a * b + (1 | g)", {"family": "binomial"}),
    "binomial": ("k5 ~ a + (1 | g)", {"family": "binomial", "trials": "five"}),
    "crossed": ("k ~ a + (1 | g) + (1 | h)", {"family": "poisson"}),
    "negative binomial": ("k ~ a + (1 | g)", {"family": "negative_binomial"}),
    "quadrature": ("s ~ a + (1 | g)", {"family": "binomial", "method": pg.AGQ(5)}),
    "frequency": ("k ~ a + (1 | g)", {"family": "poisson", "frequency": "f"}),
    "missing": ("k ~ m + (1 | g)", {"family": "poisson"}),
    "no random effects": ("k ~ a + b", {"family": "poisson"}),
    "scaled": ("k ~ scale(w) + (1 | g)", {"family": "poisson"}),
}


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    g, a = rng.integers(0, 25, N), rng.integers(0, 2, N)
    eta = 0.2 + 0.3 * a + rng.normal(size=25)[g] * 0.5
    return pl.DataFrame(
        {
            "g": g, "a": np.array(["x", "y"])[a], "b": rng.integers(0, 3, N), "h": rng.integers(0, 7, N),
            "w": rng.integers(1, 4, N).astype(float), "k": rng.poisson(np.exp(eta)),
            "s": rng.random(N) < 1 / (1 + np.exp(-eta)), "five": np.full(N, 5), "f": rng.integers(0, 3, N),
            "k5": rng.binomial(5, 1 / (1 + np.exp(-eta))),
        }
    ).with_columns(m=pl.when(pl.int_range(pl.len()) % 11 == 0).then(None).otherwise("b"))  # fmt: skip


def both(data, name):
    formula, arguments = MODELS[name]
    return [data.glmm.fit(formula, **arguments, control=pg.Control(rows=pg.Rows(compress=c))) for c in (True, False)]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("name", list(MODELS))
def test_a_counted_fit_is_the_fit(frame, name, lazy):
    counted, repeated = both(frame.lazy() if lazy else frame, name)
    assert "rows_compressed" in {n.code for n in counted.notes}
    assert "rows_compressed" not in {n.code for n in repeated.notes}
    assert counted.certificate.row_passes >= 0
    for table in ("fixef", "varcorr", "dispersion", "ranef"):
        a, b = getattr(counted, table)(), getattr(repeated, table)()
        assert_frame_equal(a, b, rel_tol=2e-5, abs_tol=2e-6)
    exact = ["n_obs", "n_dropped", "groups", "df_model", "df_resid"]
    assert counted.glance().select(exact).equals(repeated.glance().select(exact))
    sums = ["loglik", "deviance_residual", "aic", "bic"]
    assert_frame_equal(counted.glance().select(sums), repeated.glance().select(sums), rel_tol=1e-9)


def test_augment_speaks_of_the_original_rows(frame):
    counted, repeated = both(frame, "poisson")
    a, b = counted.augment(frame), repeated.augment(frame)
    assert a.height == N
    assert_frame_equal(a, b, rel_tol=1e-5, abs_tol=1e-6)


def test_a_continuous_covariate_is_left_alone(frame):
    data = frame.with_columns(x=pl.Series(np.random.default_rng(1).normal(size=N)))
    fit = data.glmm.fit("k ~ x + (1 | g)", family="poisson")
    assert "rows_compressed" not in {n.code for n in fit.notes}


def test_a_missing_value_can_still_be_an_error(frame):
    with pytest.raises(pg.errors.ColumnError, match="'m'"):
        frame.glmm.fit("k ~ m + (1 | g)", family="poisson", missing="error")


def test_what_is_counted_is_a_group_by_with_every_column_as_it_was(frame):
    from polars_glmm.frames.counted import COUNT, compress  # noqa: PLC0415
    from polars_glmm.spec.model import ModelSpec  # noqa: PLC0415

    data = frame.with_columns(t=pl.format("t{}", pl.col("g") * 7 + pl.col("h")), u=pl.format("u{}", "g"))
    spec = ModelSpec.parse(("k ~ a + b + t + (1 | u)",), family="poisson")
    found = compress(data, spec)
    assert found is not None
    keys = ["u", "a", "b", "t", "k"]
    expected = data.group_by(keys).agg(pl.len().cast(pl.Float64).alias(COUNT)).sort(keys)
    assert_frame_equal(found.frame, expected)
