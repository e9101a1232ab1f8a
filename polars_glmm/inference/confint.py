"""Confidence intervals of all natural parameters in one table: by standard errors, or by the profiled likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from polars_glmm.inference.distributions import normal_quantile
from polars_glmm.inference.natural import Natural, chosen, naturals
from polars_glmm.inference.schemas import CONFINT, PROFILE, table
from polars_glmm.likelihood.holding.path import Path, PathPoint, Status

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.likelihood.holding.profiles import Profiles
    from polars_glmm.likelihood.holding.targets import Target

WORST: tuple[Status, ...] = (
    "ok", "at_boundary", "not_monotone", "not_reached", "not_identified", "lower_found",
)  # fmt: skip
"""States of an end of an interval; that of the interval is the later one of its two."""


def wald(fit: Answer, which: str | Sequence[str] = "all", conf_level: float = 0.95) -> pl.DataFrame:
    """Intervals of `fixef`, `varcorr` and `dispersion` in one table; no rows are needed."""
    rows = []
    for one in chosen(naturals(fit, conf_level), which):
        status = _wald_status(one, fit)
        rows.append(row(one, conf_level, method="wald", conf_low=one.low, conf_high=one.high, status=status))
    return made(rows)


def profiled(
    fit: Answer,
    profiles: Profiles,
    which: str | Sequence[str] = "all",
    conf_level: float = 0.95,
    *,
    restricted: bool | None = None,
) -> pl.DataFrame:
    """Roots of the profiled deviance: where it exceeds its minimum by the quantile of χ²₁ (Bates et al. 2015, §5.1).

    restricted   the restricted likelihood for (co)variances and phi; None: as the model was fitted. Fixed effects are
                 always profiled by maximum likelihood: restricted likelihoods of different X cannot be compared.
    """
    cutoff = normal_quantile(conf_level)
    rows = []
    for one in chosen(naturals(fit, conf_level), which):
        target = _target(one, profiles)
        criterion = _criterion(one, fit, profiles, restricted=restricted)
        given: dict[str, Any] = {"method": "profile", "criterion": criterion}
        path = None if target is None else profiles.path(target, restricted=criterion == "reml")
        if path is None:
            lone = "at_boundary" if one.quantity == "dispersion" else "not_identified"
            status = _wald_status(one, fit) if target is None else lone
            rows.append(row(one, conf_level, **given, status=status))
            continue
        ends = [path.root(-cutoff), path.root(cutoff)]
        if path.scale.falls:
            ends.reverse()
        low, high = (None if end.t is None else path.scale.natural(end.t) for end in ends)
        status = max((end.status for end in ends), key=WORST.index)
        rows.append(row(one, conf_level, **given, conf_low=low, conf_high=high, status=status))
    return made(rows)


def profile_table(
    fit: Answer, profiles: Profiles, which: str | Sequence[str], points: int, cutoff: float, *, restricted: bool | None
) -> pl.DataFrame:
    """The profiled deviance of each parameter at values evenly spaced in ζ, and at its estimate."""
    rows: list[dict[str, Any]] = []
    for one in chosen(naturals(fit), which):
        target = _target(one, profiles)
        criterion = _criterion(one, fit, profiles, restricted=restricted)
        path = None if target is None else profiles.path(target, restricted=criterion == "reml")
        if path is None:
            continue
        found = [_point_row(one, path, point, profiles) for point in path.trace(cutoff, points)]
        rows += [{**line, "criterion": criterion} for line in sorted(found, key=lambda line: float(line["value"]))]
    return table(PROFILE, {name: [line[name] for line in rows] for name in PROFILE})


def row(one: Natural, conf_level: float, **given: Any) -> dict[str, Any]:
    """A row of the table of intervals; what is not given is null."""
    return {**keys(one), "estimate": one.estimate, "std_error": one.std_error, "conf_level": conf_level, **given}


def keys(one: Natural) -> dict[str, str | None]:
    """What says which parameter a row is about."""
    return {
        "parameter": one.parameter,
        "group": one.group,
        "term": one.term,
        "other_term": one.other_term,
        "quantity": one.quantity,
    }


def made(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """The table of intervals."""
    return table(CONFINT, {name: [line.get(name) for line in rows] for name in CONFINT})


def _point_row(one: Natural, path: Path, point: PathPoint, profiles: Profiles) -> dict[str, Any]:
    conditional = profiles.natural(path, point)
    value = path.scale.natural(point.t)
    conditional.pop(one.name)
    return {
        **keys(one),
        "value": value,
        "zeta": 0.0 if point.t == path.t0 else -point.zeta if path.scale.falls else point.zeta,
        "deviance": path.surface.deviance + point.zeta**2,
        "conditional": [{"name": name, "value": number} for name, number in conditional.items()],
    }


def _target(one: Natural, profiles: Profiles) -> Target | None:
    return next((target for target in profiles.targets if target.name == one.name), None)


def _criterion(one: Natural, fit: Answer, profiles: Profiles, *, restricted: bool | None) -> str:
    """The likelihood by which a parameter is profiled."""
    if not profiles.restricted:
        return fit.method
    of_mean = one.quantity == "coefficient" and one.parameter == "mu"
    return "ml" if of_mean or restricted is False else "reml"


def _wald_status(one: Natural, fit: Answer) -> str:
    """Why an interval by standard errors is there, or is not."""
    if one.name in (fit.call.fixed or {}):
        return "held"
    if one.estimate is None:
        return "dropped"
    if one.low is not None and one.low == one.low:
        return "ok"
    on_edge = one.quantity != "coefficient" and (
        one.estimate in (0.0, float("inf")) or (one.quantity == "correlation" and abs(one.estimate) > 1.0 - 1e-9)
    )
    return "at_boundary" if on_edge else "not_identified"
