"""What it means that two fits are the same: every table a user can ask for, number by number."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm import Fit, FitWarning


def quietly(frame: pl.DataFrame | pl.LazyFrame, *formulas: str, **arguments: Any) -> Fit:
    """The fit, whatever notes it has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(frame, *formulas, **arguments)


def assert_same(one: Fit, other: Fit, rtol: float = 1e-8) -> None:
    """Numbers equal to `rtol` of themselves or of their standard errors; texts, counts, levels and notes equal.

    Numbers that rest on differences of the log-likelihood (variances of variances) may differ a hundred times as much.
    """
    assert_allclose(other.loglik, one.loglik, rtol=rtol)
    assert one.formula == other.formula
    assert (one.method, one.n_obs, one.n_dropped) == (other.method, other.n_obs, other.n_dropped)
    assert [note for note in one.notes if note.code != "rows_collected"] == [*other.notes]
    assert one.groups == other.groups
    assert_allclose(other.fingerprint.moments, one.fingerprint.moments, rtol=1e-10, atol=1e-9)
    scale = np.sqrt(np.diag(one.estimate.vcov_fixed))
    assert_allclose(other.estimate.beta, one.estimate.beta, rtol=rtol, atol=rtol * max(scale.max(initial=0.0), 1e-300))
    assert_close(one.fixef().drop("df", "p_value", "conf_low", "conf_high"), other.fixef(), rtol)
    assert_close(one.varcorr().select("parameter", "group", "term", "other_term", "estimate"), other.varcorr(), rtol)
    for table in ("fixef", "varcorr", "dispersion"):
        assert_close(getattr(one, table)(), getattr(other, table)(), 100 * rtol, logs=table != "fixef")
    for name in [group.group for group in one.groups]:
        assert one.ranef(name).schema == other.ranef(name).schema
        assert_close(one.ranef(name), other.ranef(name), 10 * rtol)
        assert_close(one.coef(name), other.coef(name), 10 * rtol)
    assert_close(one.glance().drop("seconds", "groups", "deviance_residual"), other.glance(), rtol)
    assert one.glance()["groups"].to_list() == other.glance()["groups"].to_list()


def assert_close(one: pl.DataFrame, other: pl.DataFrame, rtol: float, *, logs: bool = False) -> None:
    """The columns of `one` are those of `other` of the same name; numbers are held against the largest in theirs.

    logs   of scales: an optimum is found to a share of the standard error s/v of log v, and s goes with v
    """
    assert one.height == other.height
    for name, dtype in one.schema.items():
        a, b = one[name], other[name]
        if not dtype.is_float():
            assert_frame_equal(one.select(name), other.select(name))
            continue
        assert a.is_null().to_list() == b.is_null().to_list()
        known = one.filter(a.is_not_null())
        x, y = a.drop_nulls().to_numpy(), b.drop_nulls().to_numpy()
        finite = np.isfinite(x)
        assert (np.isfinite(y) == finite).all()
        size = np.abs(x[finite]).max(initial=0.0)
        x, y = x[finite], y[finite]
        if name.startswith("conf_"):
            y = x + (y - x) / _magnified(known, name)[finite]
        if logs and name == "std_error":
            pair = known["other_term"].is_not_null().to_numpy()[finite] if "other_term" in known.columns else False
            y = x + (y - x) / (1.0 + np.where(pair, 0.0, np.abs(x / known["estimate"].to_numpy()[finite])))
        assert_allclose(y, x, rtol=rtol, atol=rtol * size + 1e-300, err_msg=name)


def _magnified(table: pl.DataFrame, end: str) -> np.ndarray:
    """How many times the relative error of an estimate and its standard error is that of an end, v·exp(±z·s)."""
    ratio = table.select(pl.col(end) / pl.col("estimate")).to_series().to_numpy()
    with np.errstate(all="ignore"):
        return 1.0 + np.where(ratio > 0.0, np.abs(np.log(ratio)), 0.0)
