"""Inverse links in the words of an engine, which has exp, log and sqrt and no more; accurate in both tails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polars_glmm.errors import ModelError
from polars_glmm.frames.engine_expressions import EngineExpressions

_SMALL = 1e-3


def _logit(eta: Any, when: Any) -> Any:
    e = (0.0 - eta.abs()).exp()  # exp of a large number is an error on some engines
    return when(eta >= 0.0).then(1.0 / (1.0 + e)).otherwise(e / (1.0 + e))


def _cloglog(eta: Any, when: Any) -> Any:
    # 1 − exp(−t), by its series where that would cancel; beyond eta = 4 it is 1 to the last digit
    t = when(eta < 4.0).then(eta).otherwise(4.0).exp()
    series = t * (1.0 - t / 2.0 * (1.0 - t / 3.0 * (1.0 - t / 4.0 * (1.0 - t / 5.0))))
    return when(t < _SMALL).then(series).otherwise(1.0 - (0.0 - t).exp())


_MEANS: dict[str, Callable[[Any, Any], Any]] = {
    "identity": lambda eta, _: eta,
    "log": lambda eta, _: eta.exp(),
    "logit": _logit,
    "cloglog": _cloglog,
    "inverse": lambda eta, _: 1.0 / eta,
    "sqrt": lambda eta, _: eta * eta,
    "inverse_squared": lambda eta, _: 1.0 / eta.sqrt(),
}


def mean_on_engine(link: str, eta: Any) -> Any:
    """μ = g⁻¹(η). Raises ModelError for a link whose inverse engines cannot write."""
    if link not in _MEANS:
        msg = (
            f"The inverse of the {link} link has no expression on an engine: predict kind='link' there, or take the "
            "rows out first."
        )
        raise ModelError(msg)
    return _MEANS[link](eta, EngineExpressions().engine.when)
