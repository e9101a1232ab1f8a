"""Residuals of responses that may be censored: of times by events, of others by what is expected of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from polars_glmm.families.base import BETWEEN, LEFT, RIGHT, Rows
from polars_glmm.families.censored import Censored
from polars_glmm.typing import Vec


def censored_residuals(family: Censored, rows: Rows, mu: Vec, phi: Vec | None) -> tuple[Vec, Vec, Vec]:
    """What `augment` calls resid, resid_pearson and resid_deviance; each (n,).

    Of times: the martingale residual, nothing, and sign(M) √(−2[M + δ log(δ − M)]) with δ = 0 where a row is censored
    on the right, else 1 (Therneau, Grambsch & Fleming 1990, Biometrika 77). The Cox–Snell residual is δ − M.
    Of others: E[Y | what is known of it] − mu (Gourieroux, Monfort, Renault & Trognon 1987, J. Econometrics 34), the
    same over phi, and twice the logarithm of how much likelier a row is at its best mean.
    """
    at = (family.link.forward(mu),) if phi is None else (family.link.forward(mu), family.second(phi))
    with np.errstate(all="ignore"):
        if family.of_times:
            m = family.martingale(rows, at)
            events = 1.0 if rows.censoring is None else np.where(rows.censoring.status == RIGHT, 0.0, 1.0)
            rest = np.where(events > 0.0, np.log(np.maximum(events - m, 1e-300)), 0.0)
            deviance = np.sign(m) * np.sqrt(np.maximum(-2.0 * (m + rest), 0.0))
            return m, np.full_like(m, np.nan), deviance
        assert phi is not None
        found = family.density(rows, at, 1)
        slope = found.g[0]
        assert slope is not None
        precision = 1.0 if rows.precision is None else rows.precision
        resid = slope / family.link.value(at[0], 1)[1] * np.square(phi) / precision
        size = np.sqrt(np.maximum(2.0 * (family.best(rows, at) - found.f), 0.0))
        return resid, resid * np.sqrt(precision) / phi, np.sign(resid) * size


def censored_quantiles(rows: Rows, cdf: Callable[[Rows], Vec], *, upper: bool) -> tuple[Vec, Vec]:
    """P(Y < what is known) and P(Y ≤ what is known) of each row, or with `upper` what is above each; (n,).

    cdf   P(Y ≤ y), or with `upper` P(Y > y), of rows; of a late entry it is taken given that
    """
    known = rows.censoring
    plain = rows._replace(censoring=None)
    low = high = cdf(plain)
    if known is None:
        return low, high
    if known.upper is not None:
        between = known.status == BETWEEN
        high = np.where(between, cdf(plain._replace(y=np.where(between, known.upper, rows.y))), high)
    ends = (1.0, 0.0) if upper else (0.0, 1.0)
    low, high = np.where(known.status == LEFT, ends[0], low), np.where(known.status == RIGHT, ends[1], high)
    if known.entry is None:
        return low, high
    late = known.entry > 0.0
    before = cdf(plain._replace(y=np.where(late, known.entry, rows.y)))
    if upper:
        left = np.where(late, before, 1.0)
        return low / left, high / left
    gone = np.where(late, before, 0.0)
    return (low - gone) / (1.0 - gone), (high - gone) / (1.0 - gone)
