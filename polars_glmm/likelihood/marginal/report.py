"""What a fit over rows hands upward: estimates on the scales people report, their covariance, and its doubts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.linalg as sl

from polars_glmm.families.base import Parameter, only_phi
from polars_glmm.likelihood.estimate import AtInfinity, Certificate, Estimate, Working
from polars_glmm.likelihood.identify import Findings
from polars_glmm.likelihood.marginal.dispersion_limit import Limit, no_overdispersion_notes
from polars_glmm.likelihood.marginal.engine import RowEngine
from polars_glmm.likelihood.marginal.gls import least_squares
from polars_glmm.likelihood.marginal.modes import Point
from polars_glmm.likelihood.marginal.peaks import WIDE, may_vanish, widest
from polars_glmm.likelihood.marginal.polish import Polished
from polars_glmm.likelihood.marginal.separation import (
    LOOSE,
    Faded,
    OfPredictor,
    Separation,
    ended_constants,
    faded_rows,
    limit_note,
    limit_notes,
    limited_rows,
    no_zero_notes,
    separation,
)
from polars_glmm.likelihood.marginal.slopes import Chosen
from polars_glmm.likelihood.model import NO_EFFECTS, Model
from polars_glmm.likelihood.optimum import report
from polars_glmm.likelihood.optimum.newton import Inverted, invert, widen
from polars_glmm.likelihood.optimum.notes import (
    CONVERGED,
    convergence_notes,
    flat_note,
    separation_note,
    singular_notes,
)
from polars_glmm.likelihood.parameters.parts import Part, outward
from polars_glmm.likelihood.parameters.state import lost_rank
from polars_glmm.typing import BoolVec, Cube, Mat, Vec

_SHARE = 1e-6
"""Share of the largest part that a coefficient has in a direction at infinity from which it counts."""
_LOADS = 1e-3
"""Part in a direction without curvature from which a parameter has no variance."""


class LogLevels(NamedTuple):
    """The parameter-free part of ℓ, and ℓ of the model without random effects; a limit that log phi has run to."""

    constant: float
    null: float | None
    phi_limit: Limit | None = None


def report_rows(
    model: Model,
    engine: RowEngine,
    done: Polished,
    levels: LogLevels,
    findings: Findings,
    clock: dict[str, float],
) -> Estimate:
    """The estimate of a polished optimum: everything on the scales people report, with the notes it deserves."""
    effects, state = model.effects, done.state
    p, n_all = len(model.x.a), model.n_coefficients
    at = Point(state.beta, effects.effective(list(state.factors)))
    conditional = engine.marginal.conditional(at, done.gradient.warm)
    width = len(state.vector())
    natural = np.eye(width)
    natural[:n_all, :n_all] = outward(model.parts)
    plain = None if done.hessian is None else widen(invert(done.hessian), done.held)
    runaway = _Runaway(None, (), ()) if plain is None else _runaway(model, engine, done, plain)
    separated = runaway.of_mean
    ended = ended_constants(model, done.state.beta)
    endless = _endless(done, runaway, levels.phi_limit, ended, model)
    inverted = _across(done, endless) if plain is not None and endless.shape[1] else plain
    spread, working, denominator = np.full((width, width), np.nan), None, None
    vcov = None if inverted is None else inverted.vcov
    if model.restricted:
        vcov, denominator = least_squares(effects, state, engine.marginal.restricted_at(at), vcov, model.x.a.T)
    if vcov is not None:
        spread = report.propagate(natural, vcov, np.zeros(width, dtype=bool))
        working = _working(model, vcov, None if denominator is None else denominator.inner)
    cov = report.covariances(effects, state, None)
    reported = _reported(model, state.beta, cov, {part.parameter: end for part, _, end in ended})
    beta, gamma, phi = reported.beta, reported.gamma, reported.constants.get("phi")
    n_fixed, size = p + len(gamma), len(reported.values)
    null = np.zeros(size, dtype=bool)
    lost_phi = _lost_phi(model, levels.phi_limit)
    null[n_fixed : n_fixed + len(cov.values)] = cov.null | report.unidentified_rows(effects, findings.unidentified)
    null |= np.isnan(reported.jacobian).any(1)
    across = report.propagate(np.nan_to_num(reported.jacobian), spread, null)
    null[p : p + len(lost_phi)] |= lost_phi
    null[:n_fixed] |= np.isin(reported.names, runaway.further)
    report_vcov = report.propagate(np.eye(size), across, null)
    at_infinity, further = None, _further_directions(model, runaway, levels.phi_limit)
    if separated is not None:
        at_infinity = AtInfinity(model.x.a.T @ separated.directions, report_vcov[:n_fixed, :n_fixed])
        lost = np.concatenate([np.isin(model.parts[0].labels, separated.terms), np.zeros(size - p, dtype=bool)])
        report_vcov = report.propagate(np.eye(size), report_vcov, lost)
    n = model.design.n_obs
    df_model = n_all + effects.n_theta - int(done.held.sum())
    peaked = done.decrement < CONVERGED or not may_vanish(engine) or widest(conditional.covariance) < WIDE
    notes = [
        *findings.notes,
        *convergence_notes(done.decrement, peaked=peaked),
        *singular_notes(effects, state.factors, done.ranks),
        *separation_note(runaway.terms),
        *no_zero_notes(runaway.faded),
        *limit_notes([(one, end, rows) for _, one, end, rows in runaway.limited]),
        *(limit_note(one, end) for _, one, end in ended),
        *no_overdispersion_notes(
            model.family, model.parts[1].names if model.models_phi else (), lost_phi, levels.phi_limit
        ),
    ]
    if inverted is not None and not separated and not findings.notes and peaked:
        named = zip(model.parts[0].labels, np.diag(spread), strict=False)
        notes += flat_note([name for name, v in named if np.isnan(v)])
    return Estimate(
        beta=beta,
        gamma=gamma,
        vcov_fixed=report_vcov[:n_fixed, :n_fixed],
        phi=phi,
        factors=report.factor_estimates(
            effects, state.factors,
            report.Spherical(conditional.modes, conditional.covariance,
                             _slopes(model, engine, done, conditional.modes), conditional.between,
                             conditional.factors), None,
        ),
        report=reported.values,
        report_vcov=report_vcov,
        loglik=done.gradient.value + levels.constant,
        loglik_saturated=model.saturated(),
        n_obs=n,
        df_model=df_model,
        df_resid=n - df_model,
        singular=any(lost_rank(effects, rank) for rank in done.ranks),
        converged=done.decrement < CONVERGED,
        df_satterthwaite=None if denominator is None else denominator.df,
        vcov_derivative=None if denominator is None else denominator.derivative,
        covariance_vcov=None if denominator is None else denominator.covariance,
        null_loglik=levels.null,
        null_df=n_all,
        certificate=Certificate(
            done.decrement,
            None if inverted is None else inverted.smallest,
            inverted is not None,
            engine.evaluations,
            engine.passes,
            report.seconds(clock),
        ),
        notes=tuple(notes),
        at_infinity=at_infinity,
        further_at_infinity=AtInfinity(further, across[:n_fixed, :n_fixed]) if further.size else None,
        working=None if endless.shape[1] else working,
        others={name: value for name, value in reported.constants.items() if name != "phi"},
        first=model.parts[0].parameter,
        sizes={part.parameter: len(part.names) for part in model.parts[1:] if not part.constant},
    )


class _Reported(NamedTuple):
    """Names of coefficients, their values, constants by name; the vector of the report, its Jacobian in the state's."""

    names: list[str]
    beta: Vec
    gamma: Vec
    constants: dict[str, float]
    values: Vec
    jacobian: Mat


def _reported(model: Model, coefficients: Vec, cov: report.Covariances, infinite: Mapping[str, float]) -> _Reported:
    """[coefficients of formulas, covariances, constants on their natural scale], from those of all predictors."""
    to_named = outward(model.parts)
    named = to_named @ coefficients
    formulas = [part for part in model.parts if not part.constant]
    single = [part for part in model.parts if part.constant]
    constants = {
        part.parameter: infinite.get(part.parameter, part.natural(coefficients[part.own.start]))
        for part in single
    }
    fixed = np.concatenate([named[part.own] for part in formulas])
    values = np.concatenate([fixed, cov.values, np.array([*constants.values()])])
    jac, p = np.zeros((len(values), cov.jacobian.shape[1])), len(model.x.a)
    jac[:p, :p] = np.eye(p)  # the spread is of coefficients as named already
    row = p
    for part in formulas[1:]:
        rows = slice(row, row + len(part.names))
        jac[rows, part.own] = np.eye(len(part.names))
        row = rows.stop
    jac[row : row + len(cov.values)] = cov.jacobian
    for k, part in enumerate(single, start=row + len(cov.values)):
        slope = part.natural_slope(coefficients[part.own.start])
        jac[k, part.own.start] = np.nan if part.parameter in infinite else slope
    names = [name for part in formulas for name in part.labels]
    return _Reported(names, fixed[:p], fixed[p:], constants, values, jac)


def _working(model: Model, vcov: Mat, derivative: Cube | None) -> Working | None:
    """What a covariance matrix (of β_c, factors) says of fixed effects, and how they become those named."""
    formulas = [part for part in model.parts if not part.constant]
    places = np.concatenate([np.arange(part.own.start, part.own.stop) for part in formulas])
    own = vcov[np.ix_(places, places)]
    return None if np.isnan(own).any() else Working(outward(formulas), own, derivative)


def _slopes(model: Model, engine: RowEngine, done: Polished, modes: list[Mat]) -> list[Cube] | None:
    """∂û/∂β (r_f, p, G_f) per factor, with beta as named: the mean's, or all where modes move with others too."""
    formulas = [part for part in model.parts if not part.constant]
    if model.effects.moving == NO_EFFECTS.moving and only_phi(model.family):
        formulas = formulas[:1]
    places = [k for part in formulas for k in range(part.own.start, part.own.stop)]
    p = len(places)
    if done.slopes is None or p * sum(m.size for m in modes) > report.SLOPES_KEPT:
        return None
    free = np.cumsum(~done.held) - 1  # there is a slope for every entry that is not held
    chosen = Chosen(done.slopes, tuple(int(free[k]) for k in places if not done.held[k]))
    moving = iter(engine.marginal.rows.per_level(chosen))
    columns = [[np.zeros_like(mode) for mode in modes] if done.held[k] else next(moving) for k in places]
    inward = np.linalg.inv(outward(formulas))
    by_factor = [np.array([c[f] for c in columns]).reshape(p, *mode.shape) for f, mode in enumerate(modes)]
    return [np.einsum("krG,kq->rqG", slopes, inward) for slopes in by_factor]


class _Runaway(NamedTuple):
    """Coefficients without a finite estimate.

    of_mean     separation in the predictor of the mean;  separated: in others, by part
    faded       predictors that have run so far down that they change nothing, in all rows or in some
    limited     formulas that take a parameter to the end at which the family is another, and which end
    shared      of unordered categories the baseline: directions that the coefficients of all of them take together
    """

    of_mean: Separation | None
    separated: tuple[tuple[Part, Separation], ...]
    faded: tuple[tuple[Part, Faded], ...]
    shared: Separation | None = None
    limited: tuple[tuple[Part, Parameter, float, Faded], ...] = ()

    @property
    def terms(self) -> tuple[str, ...]:
        """Of separation, named as among those of all predictors."""
        mean = () if self.of_mean is None else self.of_mean.terms
        further = (name for _, one in self.separated for name in one.terms)
        return tuple(dict.fromkeys((*mean, *further, *(() if self.shared is None else self.shared.terms))))

    @property
    def gone(self) -> list[tuple[Part, Faded]]:
        """Predictors that have run off in rows that they then say nothing of."""
        return [*self.faded, *((part, rows) for part, _, _, rows in self.limited)]

    @property
    def further(self) -> list[str]:
        """Coefficients beyond the mean's that have no standard error."""
        faded = [name for _, one in self.gone for name in one.terms]
        shared = () if self.shared is None else self.shared.terms
        return [*(name for _, one in self.separated for name in one.terms), *faded, *shared]


def _runaway(model: Model, engine: RowEngine, done: Polished, plain: Inverted) -> _Runaway:
    """What runs off to infinity; looked for only where a coefficient is loose, by the inverse of the Hessian."""
    spread = np.sqrt(np.diag(plain.vcov))
    mean, separated, faded, limited = None, [], [], []
    for place, part in enumerate(model.parts):
        if part.basis is None or (not model.family.separable and not place):
            continue
        std_error = np.where(done.held[part.own], 0.0, spread[part.own])
        one = model.family.parameters[place] if place else None
        if one is not None and np.isfinite(one.far) and not (std_error < LOOSE).all():
            of = OfPredictor(part, model.family, place, engine.marginal.rows)
            limited += [(part, one, *found) for found in limited_rows(of, one, done.state.beta[part.own])]
        if place and part.parameter != model.family.zeros and not model.family.unordered:
            continue
        of = OfPredictor(part, model.family, place, engine.marginal.rows if place else model.rows)
        found = separation(of, std_error)
        if found is not None and not place:
            mean = found
        elif found is not None:
            separated.append((part, found))
        elif place and model.family.zeros_beside and not (std_error < LOOSE).all():
            gone = faded_rows(of, done.state.beta[part.own])
            if gone is not None:
                faded.append((part, gone))
    shared = _shared(model, engine, np.where(done.held, 0.0, spread))
    return _Runaway(mean, tuple(separated), tuple(faded), shared, tuple(limited))


def _shared(model: Model, engine: RowEngine, std_error: Vec) -> Separation | None:
    """Along what all predictors of unordered categories run off together: where the baseline is ruled out, or certain.

    They have the same columns. Its place among them is that before the first.
    """
    parts = model.parts
    if not model.family.unordered or len(parts) < 2 or len({part.names for part in parts}) > 1:
        return None
    loosest = np.max([std_error[part.own] for part in parts], axis=0)  # NaN where one is
    found = separation(OfPredictor(parts[-1], model.family, -1, engine.marginal.rows), loosest)
    if found is None:
        return None
    places = [parts[-1].labels.index(name) for name in found.terms]
    return Separation(
        tuple(part.labels[k] for part in parts for k in places), np.tile(found.directions, (len(parts), 1))
    )


def _endless(
    done: Polished, runaway: _Runaway, limit: Limit | None, ended: list[tuple[Part, Parameter, float]], model: Model
) -> Mat:
    """Directions (P, k) of the state's vector in which the likelihood does not bend: of coefficients without end."""
    size = len(done.held)
    known = [(model.parts[0].own, runaway.of_mean.directions)] if runaway.of_mean is not None else []
    known += [(part.own, one.directions) for part, one in runaway.separated]
    known += [(part.own, one.directions) for part, one in runaway.gone]
    known += [(part.own, np.eye(1)) for part, _, _ in ended]
    if runaway.shared is not None:
        known.append((slice(0, model.n_coefficients), runaway.shared.directions))
    if limit is not None:
        known.append((model.parts[1].own, limit.directions))
    parts = []
    for own, directions in known:
        whole = np.zeros((size, directions.shape[1]))
        whole[own] = directions
        parts.append(whole)
    return np.hstack(parts) if parts else np.empty((size, 0))


def _further_directions(model: Model, runaway: _Runaway, limit: Limit | None) -> Mat:
    """Directions (s, k) of the coefficients beyond the mean's, as named, along which they run off to infinity."""
    known: list[tuple[Part, Mat]] = [(part, one.directions) for part, one in runaway.separated]
    known += [(part, one.directions) for part, one in runaway.gone]
    if limit is not None and model.models_phi:
        known.append((model.parts[1], limit.directions))
    formulas = [part for part in model.parts[1:] if not part.constant]
    blocks = [
        np.vstack(
            [part.outward @ d if one.own == part.own else np.zeros((len(one.names), d.shape[1])) for one in formulas]
        )
        for part, d in known
    ]
    return np.hstack(blocks) if blocks else np.empty((sum(len(f.names) for f in formulas), 0))


def _lost_phi(model: Model, limit: Limit | None) -> BoolVec:
    """Coefficients of log phi that run off to infinity, as named: marks (s,), none without a formula."""
    if not model.models_phi:
        return np.zeros(0, dtype=bool)
    basis = model.bases[1]
    if limit is None:
        return np.zeros(len(basis.a), dtype=bool)
    share = np.abs(basis.a.T @ limit.directions).max(1)
    return np.asarray(share > _SHARE * share.max())


def _across(done: Polished, endless: Mat) -> Inverted:
    """Covariance matrix in the computing basis where there are directions (P, k) at infinity.

    The likelihood does not bend along these: what is estimated stands across them, and the matrix holds for what is
    orthogonal to them. Parameters that have no part in them stay apart; held ones have no variance.
    """
    assert done.hessian is not None
    hessian, endless = done.hessian, endless[~done.held]
    takes_part = np.asarray(endless.any(1))
    across = sl.null_space(endless[takes_part].T)
    rest = np.eye(len(hessian))[:, ~takes_part]
    span = np.hstack([rest, np.zeros((len(hessian), across.shape[1]))])
    span[takes_part, rest.shape[1] :] = across
    inner = invert(span.T @ hessian @ span)
    vcov = span @ np.where(np.isnan(inner.vcov), 0.0, inner.vcov) @ span.T
    flat = np.asarray((np.abs(span[:, inner.flat]) > _LOADS).any(1))
    vcov[flat] = np.nan
    vcov[:, flat] = np.nan
    return widen(Inverted(vcov, inner.smallest, flat), done.held)
