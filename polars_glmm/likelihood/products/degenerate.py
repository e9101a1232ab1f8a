"""Gaussian models without an optimum: nothing left for a residual, or less than arithmetic can tell from nothing."""

from __future__ import annotations

import numpy as np

from polars_glmm.errors import IdentifiabilityError
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.optimum.notes import CONVERGED, digits_text, reproduced_text
from polars_glmm.likelihood.products.absolute import AbsoluteOptimum
from polars_glmm.likelihood.products.engine import ProductEngine, ProductModel
from polars_glmm.likelihood.products.polish import PolishedProducts
from polars_glmm.likelihood.products.profile import Profile

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
    """Whether fixed and random effects together span all observations: rank [X Z] = n.

    log|K'(I + t²ZZ')K|, K the contrasts that X leaves, grows as log t² times the rank of K'Z.
    """
    spans = []
    for size in (_LARGE, 10.0 * _LARGE):
        pieces = engine.pieces(engine.effects.lambdas(engine.effects.start(size)), gradient=False)
        if pieces is None:
            return False
        spans.append(pieces.log_h + pieces.log_m)
    return bool((spans[1] - spans[0]) / np.log(100.0) > engine.stats.n - engine.p - 0.5)
