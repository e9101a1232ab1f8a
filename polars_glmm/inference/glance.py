"""A fit in one row, and what was noted about it as a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.answer import criteria
from polars_glmm.inference.schemas import DIAGNOSE, GLANCE, GROUP_SIZES, per_model, table

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.inference.varcorr import Estimates
    from polars_glmm.spec.model import ModelSpec


def glance(fit: Answer) -> pl.DataFrame:
    """One row: what was fitted, to how much data, how well, and whether it can be trusted."""
    groups = [[{name: getattr(size, name) for name, _ in GROUP_SIZES} for size in fit.groups]]
    return glance_of(fit.estimate, fit.spec, groups, fit.n_dropped, fit.seconds)


def glance_of(estimate: Estimates, spec: ModelSpec, groups: Any, n_dropped: Any, seconds: float) -> pl.DataFrame:
    """The table of one model, or of many, a row each."""
    e, of_all = estimate, (estimate.df_model, estimate.n_obs)
    row: dict[str, Any] = {
        "formula": spec.formula,
        "family": spec.family.name,
        "link": spec.family.link.name,
        "method": spec.method.name,
        "reml": spec.method.name == "reml",
        "n_obs": e.n_obs,
        "n_dropped": n_dropped,
        "loglik": e.loglik,
        "deviance": criteria.deviance(e.loglik),
        "deviance_residual": deviance_residual(e),
        "aic": criteria.aic(e.loglik, e.df_model),
        "aicc": criteria.aicc(e.loglik, *of_all),
        "bic": criteria.bic(e.loglik, *of_all),
        "df_model": e.df_model,
        "df_resid": e.df_resid,
        "dispersion": e.phi,
        "converged": e.converged,
        "singular": e.singular,
        "seconds": seconds,
    }
    told = per_model({name: dtype for name, dtype in GLANCE.items() if name in row}, [row], np.shape(e.loglik))
    return told.insert_column(list(GLANCE).index("groups"), pl.Series("groups", groups, dtype=GLANCE["groups"]))


def deviance_residual(estimate: Estimates) -> Any:
    """−2 (log-likelihood − log-likelihood of the saturated model); None where there is no saturated model."""
    saturated = estimate.loglik_saturated
    return None if saturated is None else -2.0 * (estimate.loglik - saturated)


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
