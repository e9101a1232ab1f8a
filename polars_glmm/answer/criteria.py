"""Information criteria of a log-likelihood: of one model, or of many in arrays (M,)."""

from __future__ import annotations

from typing import Any

import numpy as np


def deviance(loglik: Any) -> Any:
    """−2 log-likelihood."""
    return -2.0 * loglik


def aic(loglik: Any, k: Any) -> Any:
    """−2 log-likelihood + 2 parameters (Akaike 1974)."""
    return deviance(loglik) + 2.0 * k


def aicc(loglik: Any, k: Any, n: Any) -> Any:
    """AIC with the small-sample term 2k(k+1)/(n−k−1) of Hurvich & Tsai (1989); NaN unless n > k + 1."""
    rest = np.asarray(n - k - 1, dtype=np.float64)
    with np.errstate(all="ignore"):
        return np.where(rest > 0.0, aic(loglik, k) + 2.0 * k * (k + 1) / rest, np.nan)[()]


def bic(loglik: Any, k: Any, n: Any) -> Any:
    """−2 log-likelihood + log(n) parameters (Schwarz 1978)."""
    return deviance(loglik) + np.log(n) * k
