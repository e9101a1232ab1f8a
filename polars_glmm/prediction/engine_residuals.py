"""Residuals in the words of an engine, of the families whose variance and deviance these can write."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from polars_glmm.columns.nodes import Reference
from polars_glmm.errors import ModelError, enumerate_names

if TYPE_CHECKING:
    from polars_glmm.prediction.engine_rows import EngineRows


class _Row(NamedTuple):
    """y of a row (the number of successes), its mean, phi, trials, precision, and y log(y/m), 0 at y = 0."""

    y: Any
    mu: Any
    phi: Any
    trials: Any
    precision: Any
    entropy: Callable[[Any, Any], Any]


class _Law(NamedTuple):
    """Variance of the response (of the share of successes), and twice the unit deviance's half, as families state."""

    variance: Callable[[_Row], Any]
    deviance: Callable[[_Row], Any]


_LAWS: dict[str, _Law] = {
    "gaussian": _Law(lambda r: r.phi * r.phi / r.precision, lambda r: r.precision * (r.y - r.mu) * (r.y - r.mu)),
    "poisson": _Law(lambda r: r.mu, lambda r: 2.0 * (r.entropy(r.y, r.mu) - (r.y - r.mu))),
    "binomial": _Law(
        lambda r: r.mu * (1.0 - r.mu) / r.trials,
        lambda r: 2.0 * (
            r.entropy(r.y, r.trials * r.mu) + r.entropy(r.trials - r.y, r.trials * (1.0 - r.mu))
        ),
    ),
    "gamma": _Law(
        lambda r: r.phi * r.mu * r.mu / r.precision,
        lambda r: 2.0 * r.precision * (r.y / r.mu - 1.0 - (r.y / r.mu).log()),
    ),
    "inverse_gaussian": _Law(
        lambda r: r.phi * r.mu * r.mu * r.mu / r.precision,
        lambda r: r.precision * (r.y / r.mu - 1.0) * (r.y / r.mu - 1.0) / r.y,
    ),
}  # fmt: skip


def residuals_on_engine(rows: EngineRows, mu: Any, phi: Any) -> tuple[Any, Any, Any]:
    """Response, Pearson and deviance residuals. Raises ModelError for a family without a law here."""
    recipe, nw = rows.fitted.recipe, rows.words.engine
    law = _LAWS.get(recipe.spec.family.name)
    if law is None:
        msg = (
            f"Residuals of a {recipe.spec.family.name} model are computed here; on engines there are those of "
            f"{enumerate_names(list(_LAWS))}. Take the rows out first, or use predict()."
        )
        raise ModelError(msg)
    y = rows.expression(recipe.response.success)
    one = nw.lit(1.0)
    trials = one if recipe.response.trials is None else rows.expression(recipe.response.trials)
    if recipe.response.proportion:
        y = (y * trials + 0.5).floor()
    precision = one if recipe.spec.precision is None else rows.expression(Reference(recipe.spec.precision))

    def entropy(value: Any, mean: Any) -> Any:
        return nw.when(value > 0.0).then(value * (value / mean).log()).otherwise(0.0)

    row = _Row(y, mu, phi, trials, precision, entropy)
    resid = y / trials - mu
    deviance = law.deviance(row)
    root = nw.when(deviance > 0.0).then(deviance).otherwise(0.0).sqrt()
    signed = nw.when(resid < 0.0).then(0.0 - root).otherwise(root)
    return resid, resid / law.variance(row).sqrt(), signed
