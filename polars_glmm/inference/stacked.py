"""Tables of many fits of one formula straight from their arrays: the numbers of the single tables, in the same words.

Every function gives the rows of all models, model after model, and how many rows each has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.inference.covariance import DegreesOfFreedom, coefficient_covariance
from polars_glmm.inference.distributions import normal_quantile, quantile, two_sided_p
from polars_glmm.inference.ranef import level_labels
from polars_glmm.inference.schemas import DISPERSION, FIXEF, GLANCE, GROUP_SIZES, RANEF, VARCORR, table
from polars_glmm.inference.varcorr import INTERIOR, RESIDUAL, VAGUE
from polars_glmm.likelihood.estimate import conditional_std_error
from polars_glmm.likelihood.optimum.notes import CONVERGED
from polars_glmm.typing import Cube, IntVec, Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.many import Batch


class Stacked(NamedTuple):
    """Rows of all models, and how many each has (M,)."""

    rows: pl.DataFrame
    counts: IntVec


def fixef_all(batch: Batch, conf_level: float, df: DegreesOfFreedom, *, exponentiate: bool) -> Stacked:
    """As inference.coefficients.fixef: (M · p) rows."""
    e = batch.estimate
    estimate = e.beta
    variance = np.einsum("mpp->mp", e.vcov_fixed)
    with np.errstate(all="ignore"):
        std_error = np.sqrt(np.where(variance > 0.0, variance, np.nan))
        freedom = _freedom(batch, df)
        statistic = estimate / std_error
        p_value = two_sided_p(statistic, freedom)
        width = quantile(conf_level, freedom) * std_error
        low, high = estimate - width, estimate + width
        if exponentiate:
            estimate, low, high = np.exp(estimate), np.exp(low), np.exp(high)
            std_error = estimate * std_error
    n, p = estimate.shape
    names = [column.name for column in batch.recipe.predictors[0].columns]
    columns: dict[str, Any] = {"parameter": _same("mu", n * p), "term": _cycle(names, n)}
    numbers = {
        "estimate": estimate, "std_error": std_error, "statistic": statistic,
        "df": np.where(np.isfinite(freedom), freedom, np.nan), "p_value": p_value, "conf_low": low, "conf_high": high,
    }  # fmt: skip
    columns |= {name: values.reshape(-1) for name, values in numbers.items()}
    return Stacked(table(FIXEF, columns), np.full(n, p))


def _freedom(batch: Batch, df: DegreesOfFreedom) -> Mat:
    """Degrees of freedom (M, p); the first model says what there is and what is wrong."""
    e = batch.estimate
    if df in (None, "satterthwaite") and e.df_satterthwaite is not None:
        return e.df_satterthwaite
    first = coefficient_covariance(batch.one(0), df=df).df_each(None)
    return np.tile(first, (len(batch), 1))


def varcorr_all(batch: Batch, conf_level: float) -> Stacked:
    """As inference.varcorr.varcorr."""
    e, z = batch.estimate, normal_quantile(conf_level)
    n = len(batch)
    place, start = e.beta.shape[1], 0
    labels: list[tuple[str, str | None, str | None]] = []
    blocks: list[dict[str, Vec]] = []
    for covariance, structure in zip(e.covariances, e.structures, strict=True):
        r = covariance.shape[1]
        names = e.term_names[start : start + r]
        places = np.full((r, r), -1)
        for i in range(r):
            for j in range(i + 1):
                if STRUCTURES[structure].correlated or i == j:
                    places[i, j] = places[j, i] = place
                    place += 1
        for i in range(r):
            labels.append((str(e.factor), names[i], None))
            blocks.append(_variance(covariance[:, i, i], _std_error(e.report_vcov, places[i, i]), z))
        for i in range(r):
            for j in range(i + 1, r):
                if places[i, j] >= 0:
                    labels.append((str(e.factor), names[i], names[j]))
                    blocks.append(_covariance(covariance, e.report_vcov, (i, j), places, z))
        start += r
    if batch.recipe.spec.family.residual and e.phi is not None:
        labels.append((RESIDUAL, None, None))
        blocks.append(_variance(e.phi**2, 2.0 * e.phi * _std_error(e.report_vcov, -1), z))
    groups, terms, others = (list(part) for part in zip(*labels, strict=True))
    columns: dict[str, Any] = {
        "parameter": _same("mu", n * len(labels)), "group": _cycle(groups, n), "term": _cycle(terms, n),
        "other_term": _cycle(others, n), "other_parameter": _cycle([None] * len(labels), n),
    }  # fmt: skip
    missing = np.full(n, np.nan)
    for name in VARCORR:
        if name not in columns:
            columns[name] = np.array([block.get(name, missing) for block in blocks]).T.reshape(-1)
    return Stacked(table(VARCORR, columns), np.full(n, len(labels)))


def _std_error(vcov: Cube, place: int) -> Vec:
    variance = vcov[:, place, place]
    with np.errstate(invalid="ignore"):
        return np.where(variance > 0.0, np.sqrt(variance), np.nan)


def _variance(variance: Vec, std_error: Vec, z: float) -> dict[str, Vec]:
    low, high = _log_interval(variance, std_error, z)
    return {
        "estimate": variance, "std_error": std_error, "conf_low": low, "conf_high": high,
        "std_dev": np.sqrt(np.maximum(variance, 0.0)),
    }  # fmt: skip


def _log_interval(value: Vec, std_error: Vec, z: float) -> tuple[Vec, Vec]:
    with np.errstate(all="ignore"):
        fine = (value > 0.0) & np.isfinite(value) & (std_error > 0.0) & (std_error <= VAGUE * value)
        ratio = np.exp(z * std_error / value)
        return np.where(fine, value / ratio, np.nan), np.where(fine, value * ratio, np.nan)


def _covariance(covariance: Cube, vcov: Cube, pair: tuple[int, int], places: IntVec, z: float) -> dict[str, Vec]:
    """A covariance, its correlation, and the interval of that by Fisher's transformation."""
    i, j = pair
    vi, vj, c = covariance[:, i, i], covariance[:, j, j], covariance[:, i, j]
    with np.errstate(all="ignore"):
        scale = vi * vj
        rho = np.where(scale > 0.0, np.clip(c / np.sqrt(scale), -1.0, 1.0), np.nan)
        gradient = np.stack([-0.5 * rho / vi, 1.0 / np.sqrt(scale), -0.5 * rho / vj], axis=1)
        own = [places[i, i], places[i, j], places[j, j]]
        squared = np.einsum("mi,mij,mj->m", gradient, vcov[:, own][:, :, own], gradient)
        width = z * np.where(squared > 0.0, np.sqrt(squared), np.nan) / (1.0 - rho**2)
        fine = (np.abs(rho) < INTERIOR) & (width > 0.0) & (width <= VAGUE * z)
        low, high = np.tanh(np.arctanh(rho) - width), np.tanh(np.arctanh(rho) + width)
    return {
        "estimate": c, "correlation": rho, "correlation_low": np.where(fine, low, np.nan),
        "correlation_high": np.where(fine, high, np.nan),
    }  # fmt: skip


def dispersion_all(batch: Batch, conf_level: float) -> Stacked:
    """As inference.dispersion.dispersion."""
    e, z = batch.estimate, normal_quantile(conf_level)
    if e.phi is None:
        return Stacked(table(DISPERSION, {name: [] for name in DISPERSION}), np.zeros(len(batch), dtype=np.intp))
    std_error = _std_error(e.report_vcov, -1)
    low, high = _log_interval(e.phi, std_error, z)
    columns = {
        "parameter": _same("phi", len(batch)), "estimate": e.phi, "std_error": std_error, "conf_low": low,
        "conf_high": high,
    }  # fmt: skip
    return Stacked(table(DISPERSION, columns), np.ones(len(batch), dtype=np.intp))


def ranef_all(batch: Batch) -> Stacked:
    """As inference.ranef.ranef without a group: per model term by term, level by level."""
    e = batch.estimate
    r = len(e.term_names)
    std_error = conditional_std_error(e.mode_covariance)
    n_levels = e.modes.shape[1]
    order = np.argsort(np.tile(e.of_level, r), kind="stable")  # term after term within each model
    levels = level_labels(batch.recipe.factors[0])
    columns = {
        "parameter": _same("mu", r * n_levels),
        "group": _same(str(e.factor), r * n_levels),
        "level": levels if r == 1 else pl.concat([levels] * r)[order],
        "term": pl.Series(list(e.term_names), dtype=pl.String)[np.repeat(np.arange(r), n_levels)[order]],
        "estimate": e.modes.reshape(-1)[order],
        "std_error": std_error.reshape(-1)[order],
    }
    return Stacked(table(RANEF, columns), r * e.model_levels)


def glance_all(batch: Batch) -> Stacked:
    """As inference.glance.glance."""
    e, spec, n = batch.estimate, batch.recipe.spec, len(batch)
    deviance, k = -2.0 * e.loglik, float(e.df_model)
    aic = deviance + 2.0 * k
    rest = e.n_obs - k - 1.0
    with np.errstate(all="ignore"):
        aicc = np.where(rest > 0.0, aic + 2.0 * k * (k + 1.0) / rest, np.nan)
    saturated = np.full(n, np.nan) if e.loglik_saturated is None else -2.0 * (e.loglik - e.loglik_saturated)
    texts = {"formula": spec.formula, "family": spec.family.name, "link": spec.family.link.name,
             "method": spec.method.name}  # fmt: skip
    columns: dict[str, Any] = {name: _same(text, n) for name, text in texts.items()}
    columns |= {
        "reml": pl.repeat(spec.method.name == "reml", n, eager=True),
        "n_obs": e.n_obs,
        "n_dropped": batch.dropped.missing,
        "groups": _groups(batch),
        "loglik": e.loglik,
        "deviance": deviance,
        "deviance_residual": saturated,
        "aic": aic,
        "aicc": aicc,
        "bic": deviance + np.log(e.n_obs) * k,
        "df_model": np.full(n, e.df_model),
        "df_resid": e.n_obs - e.df_model,
        "dispersion": np.full(n, np.nan) if e.phi is None else e.phi,
        "converged": e.decrement < CONVERGED,
        "singular": pl.repeat(e.singular, n, eager=True),
        "seconds": np.full(n, batch.seconds),
    }
    return Stacked(table(GLANCE, columns), np.ones(n, dtype=np.intp))


def _groups(batch: Batch) -> pl.Series:
    """The sizes of the one grouping factor of every model, as a list of one struct."""
    e = batch.estimate
    first = np.concatenate([[0], np.cumsum(e.model_levels)[:-1]]).astype(np.intp)
    sizes = pl.DataFrame(
        {
            "group": _same(str(e.factor), len(batch)),
            "n_levels": e.model_levels,
            "smallest": np.minimum.reduceat(batch.level_sizes, first),
            "largest": np.maximum.reduceat(batch.level_sizes, first),
        },
        schema=dict(GROUP_SIZES),
    )
    return sizes.to_struct("groups").reshape((-1, 1)).cast(pl.List(GROUP_SIZES))


def _same(text: str, n: int) -> pl.Series:
    return pl.repeat(text, n, dtype=pl.String, eager=True)


def _cycle(values: Sequence[str | None], n: int) -> pl.Series:
    """The values one after the other, n times over."""
    return pl.Series(values, dtype=pl.String)[np.tile(np.arange(len(values)), n)]
