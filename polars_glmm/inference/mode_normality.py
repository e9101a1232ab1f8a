"""Whether conditional modes are as far from normal as random effects of the model would be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from polars_glmm.design.relation import related
from polars_glmm.errors import counted
from polars_glmm.fitting.again import design_of
from polars_glmm.likelihood.known.between import covariances_between
from polars_glmm.likelihood.known.joint import HeldParameters, known_model
from polars_glmm.linalg.roots import singular_root
from polars_glmm.typing import Cube, Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


class ModesTested(NamedTuple):
    """One random effect: statistic, expected, its deviation and p-value (NaN where there is nothing to test)."""

    group: str
    term: str
    numbers: tuple[float, float, float, float]
    method: str
    note: str


def normality_of_modes(fit: Answer, n: int, generator: Callable[[], np.random.Generator]) -> list[ModesTested]:
    """Anderson & Darling's distance from normal of the standardised modes of each effect, against n simulated ones.

    Modes of independent levels are drawn independently, those of levels that known= relates as they go together.
    """
    rows = []
    between = _between_levels(fit)
    for number, factor in enumerate(fit.estimate.factors):
        prior = fit.recipe.factors[number].prior
        spread = np.concatenate([np.diag(covariance) for covariance in factor.covariances])
        for k, term in enumerate(factor.term_names):
            variances = np.full(factor.modes.shape[1], spread[k]) if prior is None else spread[k] * prior.variances
            gained = variances - factor.mode_covariance[k, k]
            usable = (variances > 0.0) & (gained > 1e-8 * variances)
            z = factor.modes[k][usable] / np.sqrt(gained[usable])
            if len(z) < 3:
                note = "too few levels with a mode of their own"
                rows.append(ModesTested(factor.name, term, (np.nan,) * 4, "", note))
                continue
            noise = generator().standard_normal((n, len(z)))
            if prior is not None:
                moved = (spread[k] * prior.covariance - between[number][k, :, k])[np.ix_(usable, usable)]
                noise = noise @ singular_root(moved / np.sqrt(np.outer(gained[usable], gained[usable]))).T
            drawn = _anderson(np.sort(noise, axis=1))
            found = float(_anderson(np.sort(z)[None])[0])
            p = (1.0 + float((drawn >= found).sum())) / (n + 1.0)
            deviation = float(drawn.std(ddof=1)) if n > 1 else np.nan
            method = f"Anderson-Darling distance of {counted(len(z), 'standardised mode')} from normal, simulated"
            note = "modes go together through the fixed effects"
            rows.append(ModesTested(factor.name, term, (found, float(drawn.mean()), deviation, p), method, note))
    return rows


def _between_levels(fit: Answer) -> tuple[Cube, ...]:
    """Var(b | y) between the levels of each factor, where some of them know each other."""
    if not related(fit.recipe):
        return ()
    family = fit.recipe.spec.family
    held = HeldParameters.of(fit.estimate, family)
    return covariances_between(known_model(design_of(fit, "ranef_normality").design, family, fit.control, held))


def _anderson(z: Mat) -> Vec:
    """A² of sorted rows z (k, n) against a standard normal (Anderson & Darling 1954)."""
    from scipy.special import log_ndtr  # noqa: PLC0415

    n = z.shape[1]
    odd = 2.0 * np.arange(1, n + 1) - 1.0
    return np.asarray(-n - ((log_ndtr(z) + log_ndtr(-z[:, ::-1])) @ odd) / n)
