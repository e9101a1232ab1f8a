"""Verbs of a fit about intervals of its parameters: which way, checked first, and what each way needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from polars_glmm.errors import ModelError, suggest
from polars_glmm.fitting.flow import warn_once
from polars_glmm.fitting.profiles import profiles_of
from polars_glmm.inference.confint import profile_table, profiled, wald
from polars_glmm.inference.distributions import check_level, normal_quantile
from polars_glmm.inference.resampling import Resampling, bootstrap_confint
from polars_glmm.notes import Note

if TYPE_CHECKING:
    import polars as pl

    from polars_glmm.answer.record import Answer
    from polars_glmm.inference.bootstrap import BootstrapInterval

IntervalMethod: TypeAlias = Literal["wald", "profile", "bootstrap"]
Criterion: TypeAlias = Literal["fit", "ml"]
Which: TypeAlias = "str | Sequence[str]"

CUTOFF_LEVEL = 0.99
"""Confidence level whose interval a profile spans where no cutoff is given."""


class Draws(NamedTuple):
    """What only a bootstrap asks: its kind of interval, the frame of draws, or how to make one."""

    interval: BootstrapInterval = "percentile"
    made: pl.DataFrame | None = None
    asked: Resampling = Resampling()


def confint(
    fit: Answer, method: IntervalMethod, which: Which, conf_level: float, criterion: Criterion, draws: Draws
) -> pl.DataFrame:
    """The table of intervals by one of the methods."""
    check_level(conf_level)
    if method == "wald":
        return wald(fit, which, conf_level)
    if method == "bootstrap":
        return bootstrap_confint(fit, which, conf_level, draws.interval, draws.asked, draws.made)
    if method != "profile":
        known = ("wald", "profile", "bootstrap")
        msg = f"method={method!r} is not known.{suggest(str(method), known)} Use 'wald', 'profile' or 'bootstrap'."
        raise ModelError(msg)
    restricted = _restricted(criterion)
    with profiles_of(fit, "confint(method='profile')") as found:
        answer = profiled(fit, found, which, conf_level, restricted=restricted)
    _warn_of_lower(answer)
    return answer


def profile(fit: Answer, which: Which, points: int, cutoff: float | None, criterion: Criterion) -> pl.DataFrame:
    """The profiled deviance of the chosen parameters."""
    if isinstance(points, bool) or not isinstance(points, int) or points < 3:
        msg = f"points={points!r}: a profile has a whole number of points, at least 3."
        raise ModelError(msg)
    width = normal_quantile(CUTOFF_LEVEL) if cutoff is None else float(cutoff)
    if not 0.0 < width < 10.0:
        msg = f"cutoff={cutoff!r}: ζ goes from −cutoff to cutoff, a positive number such as 2.58 for 99 % intervals."
        raise ModelError(msg)
    restricted = _restricted(criterion)
    with profiles_of(fit, "profile()") as found:
        return profile_table(fit, found, which, points, width, restricted=restricted)


def _restricted(criterion: Criterion) -> bool | None:
    if criterion not in ("fit", "ml"):
        msg = (
            f"criterion={criterion!r} is not known: 'fit' takes the likelihood of the fit (REML for variances, ML for "
            "fixed effects), 'ml' maximum likelihood for all."
        )
        raise ModelError(msg)
    return None if criterion == "fit" else False


def _warn_of_lower(answer: pl.DataFrame) -> None:
    if (answer["status"] == "lower_found").any():
        text = "A profile came to a higher likelihood than the fit's: the fit is not the optimum."
        warn_once([Note("lower_found", text, "Answer again with start= or control=, and check fit.diagnose().")])
