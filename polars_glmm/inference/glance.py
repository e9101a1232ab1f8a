"""A fit in one row, and what was noted about it as a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.inference.schemas import DIAGNOSE, GLANCE, table

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


def glance(fit: Answer) -> pl.DataFrame:
    """One row: what was fitted, to how much data, how well, and whether it can be trusted."""
    estimate = fit.estimate
    row: dict[str, Any] = {
        "formula": fit.formula,
        "family": fit.family,
        "link": fit.link,
        "method": fit.method,
        "reml": fit.method == "reml",
        "n_obs": estimate.n_obs,
        "n_dropped": fit.n_dropped,
        "groups": [
            {"group": size.group, "n_levels": size.n_levels, "smallest": size.smallest, "largest": size.largest}
            for size in fit.groups
        ],
        "loglik": estimate.loglik,
        "deviance": fit.deviance,
        "deviance_residual": deviance_residual(fit),
        "aic": fit.aic,
        "aicc": aicc(fit),
        "bic": fit.bic,
        "df_model": estimate.df_model,
        "df_resid": estimate.df_resid,
        "dispersion": estimate.phi,
        "converged": estimate.converged,
        "singular": estimate.singular,
        "seconds": fit.seconds,
    }
    return table(GLANCE, {name: [value] for name, value in row.items()})


def deviance_residual(fit: Answer) -> float | None:
    """−2 (log-likelihood − log-likelihood of the saturated model); None where there is no saturated model."""
    saturated = fit.estimate.loglik_saturated
    return None if saturated is None else -2.0 * (fit.estimate.loglik - saturated)


def aicc(fit: Answer) -> float | None:
    """AIC with the small-sample term 2k(k+1)/(n−k−1) of Hurvich & Tsai (1989); None unless n > k + 1."""
    k, n = fit.estimate.df_model, fit.estimate.n_obs
    return fit.aic + 2.0 * k * (k + 1) / (n - k - 1) if n > k + 1 else None


def diagnose(fit: Answer) -> pl.DataFrame:
    """All notes (kind "warning" or "information"), then the certificate of the optimum (kind "certificate")."""
    rows: list[dict[str, Any]] = [
        {
            "code": note.code,
            "kind": "information" if note.quiet else "warning",
            "text": note.text,
            "advice": note.advice or None,
            "value": None,
        }
        for note in fit.notes
    ]
    rows += [
        {"code": code, "kind": "certificate", "text": text, "advice": None, "value": value}
        for code, text, value in _certificate(fit)
    ]
    return table(DIAGNOSE, {name: [row[name] for row in rows] for name in DIAGNOSE})


def _certificate(fit: Answer) -> list[tuple[str, str, float | None]]:
    estimate, certificate = fit.estimate, fit.certificate
    exactness = "exact Hessian" if certificate.exact else "approximate: the Hessian was skipped"
    return [
        ("converged", "the search reached an optimum" if estimate.converged else "the search stopped early",
         float(estimate.converged)),
        ("decrement", f"Newton decrement in units of log-likelihood ({exactness})", certificate.decrement),
        ("smallest_curvature", "smallest eigenvalue of the scaled Hessian", certificate.smallest_curvature),
        ("largest_std_error", "largest standard error of a fixed effect", _largest_std_error(fit)),
        ("evaluations", "evaluations of objective and gradient", float(certificate.evaluations)),
        ("row_passes", "passes over the rows", float(certificate.row_passes)),
        *((f"seconds_{stage}", f"seconds spent on {stage}", value) for stage, value in certificate.seconds.items()),
    ]  # fmt: skip


def _largest_std_error(fit: Answer) -> float | None:
    variance = np.diag(fit.estimate.vcov_fixed)
    finite = variance[np.isfinite(variance)]
    return float(np.sqrt(finite.max())) if len(finite) and finite.max() >= 0.0 else None
