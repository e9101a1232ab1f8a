"""Gaussian models without an optimum: nothing left for a residual, or less than arithmetic can tell from nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from polars_glmm.errors import IdentifiabilityError
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.optimum.notes import CONVERGED, digits_text, reproduced_text
from polars_glmm.likelihood.products.absolute import AbsoluteOptimum
from polars_glmm.likelihood.products.engine import ProductEngine, ProductModel
from polars_glmm.likelihood.products.polish import PolishedProducts
from polars_glmm.likelihood.products.profile import Profile
from polars_glmm.typing import Mat

STRONG = 1e7
"""Relative standard deviation at which random effects take all they can."""


_LARGE = 1e3
"""Relative standard deviation from which log|V| grows with the rank of the random effects only."""


_PERFECT, _ROUNDING = 1e-15, 1e-26
"""Shares of the response's sum of squares that count as nothing: where it comes by subtraction, where it does not."""


_LOST, DOUBTED = 1e-11, 1e-8
"""Shares left: of crossed factors, whose H has unit pivots beside those of 1/share; where the certificate fails."""


_NEXT_TO_NOTHING = 1e-6
"""Share left by the model found from which it is asked whether the whole response can be reproduced."""


_FEW_FACTORS = 4
"""Factors of which all choices are looked at."""


_FIXED_REPRODUCE = (
    "The fixed effects reproduce the response exactly, so the residual variance is zero and the likelihood has no "
    "bound. Check for a column that is a copy of the response."
)


_SATURATED = (
    "The fixed and random effects together span all observations, so they reproduce any response, the residual "
    "variance is zero and the likelihood has no bound. Use fewer terms."
)


_NO_RESIDUAL = (
    "The fixed and random effects together span all observations, and the likelihood is highest without a residual: "
    "the variances of the random effects and the residual variance cannot be told apart. Use fewer terms."
)


def refuse_degenerate(engine: ProductEngine, pieces: Profile) -> None:
    """Raise IdentifiabilityError where a search that left next to nothing of the response has no optimum to show."""
    if pieces.rss <= _NEXT_TO_NOTHING * float(engine.stats.ww[-1, -1]):
        _refuse_saturation(engine)
        if _saturated(engine):
            raise IdentifiabilityError(_NO_RESIDUAL if engine.reml else _SATURATED)
        if share_left(engine, pieces) <= _LOST and len(engine.effects.factors) > 1:
            raise IdentifiabilityError(reproduced_text(engine.effects, "residual variance"))


def refuse_unbounded(engine: ProductEngine) -> None:
    """Raise IdentifiabilityError where some of the factors leave no bound to ℓ, though a search may end lower.

    They do where rank [X Z] = n > rank Z: all rows are reproduced, and log|V| falls with n − rank Z times log σ².
    Few models can, and only those are asked by more than the count of their levels.
    """
    n = engine.stats.n
    if engine.reml or not engine.effects.factors:
        return
    for chosen in _some_factors(engine):
        left, taken = _ranks(engine, chosen)
        if left > n - engine.p - 0.5 and taken < n - 0.5:
            raise IdentifiabilityError(_SATURATED)


def _some_factors(engine: ProductEngine) -> Iterator[tuple[bool, ...]]:
    """Factors that have levels enough to span, with the fixed effects, all rows; of many factors all of them alone."""
    columns = [f.n_levels * f.r for f in engine.effects.factors]
    every = product((True, False), repeat=len(columns)) if len(columns) <= _FEW_FACTORS else [(True,) * len(columns)]
    for chosen in every:
        if engine.p + sum(c for c, there in zip(columns, chosen, strict=True) if there) >= engine.stats.n:
            yield chosen


def share_left(engine: ProductEngine, pieces: Profile) -> float:
    """Share of the response's sum of squares that a model leaves."""
    return pieces.rss / float(engine.stats.ww[-1, -1])


def refuse_lost(engine: ProductEngine, model: Model | ProductModel, done: PolishedProducts, decrement: float) -> None:
    """Raise IdentifiabilityError where rounding hides the optimum: next to no residual, and no certificate."""
    if engine.effects.factors and decrement >= CONVERGED and share_left(engine, done.pieces) <= DOUBTED:
        raise lost(engine, model, done.pieces)


def refuse_endless(engine: ProductEngine, done: AbsoluteOptimum) -> None:
    """Raise IdentifiabilityError where a search by precisions ended nowhere, for effects that reproduce any response.

    Where some of them do so that no other variance is left, the likelihood has no bound.
    """
    nowhere = done.point.pieces is None or not done.decrement < CONVERGED
    if nowhere and len(engine.effects.factors) > 1 and _saturated(engine):
        raise IdentifiabilityError(_SATURATED)


def lost(engine: ProductEngine, model: Model | ProductModel, pieces: Profile) -> IdentifiabilityError:
    """What is lost in rounding: of one factor rows would tell more than sums; of several they would not."""
    if isinstance(model, ProductModel) and len(engine.effects.factors) == 1:
        return IdentifiabilityError(digits_text(share_left(engine, pieces)))
    return IdentifiabilityError(reproduced_text(engine.effects, "residual variance"))


def refuse_no_noise(engine: ProductEngine, bare: Profile | None) -> None:
    """Raise IdentifiabilityError where fixed effects alone leave nothing for any variance."""
    stats = engine.stats
    total = float(stats.ww[-1, -1])
    if total == 0.0 and stats.left_over == 1.0:
        msg = "The response is constant: there is no variance to estimate."
        raise IdentifiabilityError(msg)
    rss = total if bare is None else bare.rss
    written = stats.n * (np.finfo(np.float64).eps * stats.y_shift) ** 2  # a large response is itself rounded
    if rss * stats.left_over <= _ROUNDING * total or rss <= written:
        raise IdentifiabilityError(_FIXED_REPRODUCE)


def refuse_perfect_fit(engine: ProductEngine, bare: Profile | None) -> None:
    """Raise IdentifiabilityError where nothing is left for a residual variance: the likelihood has no bound."""
    refuse_no_noise(engine, bare)
    stats, total = engine.stats, float(engine.stats.ww[-1, -1])
    if stats.within is not None:
        rr = stats.within.rr
        beta = np.linalg.lstsq(rr[:-1, :-1], rr[:-1, -1], rcond=None)[0]
        if float(rr[-1, -1] - beta @ rr[:-1, -1]) <= _ROUNDING * total:
            _refuse_reproduced(engine)


def _refuse_saturation(engine: ProductEngine) -> None:
    """Raise IdentifiabilityError where random effects that take all they can leave nothing of the response."""
    if not engine.effects.factors or engine.stats.within is not None:
        return
    strong = engine.pieces(engine.effects.lambdas(engine.effects.start(STRONG)), gradient=False)
    if strong is not None and strong.rss <= _PERFECT * float(engine.stats.ww[-1, -1]):
        _refuse_reproduced(engine)


def _refuse_reproduced(engine: ProductEngine) -> None:
    """Raise IdentifiabilityError where all effects together leave nothing of y, but for REML of a saturated model.

    There each response is reproduced, and ℓ of the contrasts that are left is bounded all the same.
    """
    if not _saturated(engine):
        raise IdentifiabilityError(reproduced_text(engine.effects, "residual variance"))
    if not engine.reml:
        raise IdentifiabilityError(_SATURATED)


def _saturated(engine: ProductEngine) -> bool:
    """Whether fixed and random effects together span all observations: rank [X Z] = n."""
    return _ranks(engine, (True,) * len(engine.effects.factors))[0] > engine.stats.n - engine.p - 0.5


def _ranks(engine: ProductEngine, chosen: tuple[bool, ...]) -> tuple[float, float]:
    """Ranks of K'Z and of Z of the chosen factors, K the contrasts that X leaves; NaN where they cannot be told.

    log|I + t²ZZ'| grows as log t² times the rank of Z, and log|K'(I + t²ZZ')K| as that of K'Z.
    """
    growths = []
    for size in (_LARGE, 10.0 * _LARGE):
        strong = engine.effects.lambdas(engine.effects.start(size))
        lambdas: list[Mat] = [f if there else np.zeros_like(f) for f, there in zip(strong, chosen, strict=True)]
        pieces = engine.pieces(lambdas, gradient=False)
        if pieces is None:
            return np.nan, np.nan
        growths.append((pieces.log_h + pieces.log_m, pieces.log_h))
    (left, taken), (more_left, more_taken) = growths
    return float((more_left - left) / np.log(100.0)), float((more_taken - taken) / np.log(100.0))
