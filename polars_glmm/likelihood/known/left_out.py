"""A fit without one group after another: refitted exactly, or moved by one Newton step from the fit of all groups.

One step: ψ̂₍g₎ ≈ ψ̂ − (H − H_g)⁻¹ s_g with the scores s_g and curvatures H_g of the levels' own log-likelihoods (Pregibon
1981 for one case; Zewotir & Galpin 2005). By REML each level also takes its part in −½ log|Σ X'V⁻¹X| with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from polars_glmm.control import Control
from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.design.records import Design, Predictor
from polars_glmm.design.selection import design_of
from polars_glmm.errors import ColumnError, GlmmError
from polars_glmm.families.base import Family, only_phi
from polars_glmm.likelihood.build import estimate
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.given import Given, of_estimate
from polars_glmm.likelihood.known.joint import HeldParameters, known_model
from polars_glmm.likelihood.known.levels import LevelLikelihood, LevelValues, quadrature
from polars_glmm.likelihood.known.series_levels import SeriesLevels
from polars_glmm.spec.method import REML, Method
from polars_glmm.typing import BoolVec, Cube, Mat, Vec

_NODES = 101
_STEP = 1e-4
"""Share of a parameter, or of one, that differences step by."""


@dataclass(frozen=True, slots=True, eq=False)
class Rest:
    """What is left when a group is gone; NaN where it has no number.

    n_obs   of the group;  loglik   of the rest;  elpd   log density of the group at the parameters of the rest, given
            the rest where levels know each other, or residuals are correlated with those of the rest
    displacement   ℓ of all rows at their own estimates less ℓ at those of the rest (Cook 1986, half his LD)
    beta (p,)      fixed effects of the mean, or of all categories;  vcov (p, p)
    covariances (as in FactorEstimate, per factor), phi, and the correlation of residuals (k,), natural
    """

    n_obs: float
    loglik: float
    elpd: float
    displacement: float
    beta: Vec
    vcov: Mat
    covariances: tuple[tuple[Mat, ...], ...]
    phi: float | None
    status: str = "ok"
    residual: Vec = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A fit of all groups: its design, its estimate, and how it was asked for; natural parameters that are held."""

    design: Design
    family: Family
    method: Method
    control: Control
    estimate: Estimate
    fixed: Mapping[str, float] = field(default_factory=dict)

    @property
    def held(self) -> HeldParameters:
        """The parameters of all groups."""
        return HeldParameters.of(self.estimate, self.family)


def fixed_of(estimate: Estimate, family: Family) -> Vec:
    """The fixed effects that groups are to move: of the mean, of a curve, of all predictors where they are alike."""
    own = len(estimate.gamma) if family.unordered else 0
    if family.curve is not None:
        own = sum(estimate.sizes[name] for name in family.curve.parameters[1:])
    return np.concatenate([estimate.beta, estimate.gamma[:own]])


def refitted(whole: Whole, groups: Iterable[BoolVec]) -> list[Rest]:
    """The exact answers, a refit without each group: the rows of the design (n,) that are in it."""
    full = known_model(whole.design, whole.family, whole.control, whole.held)
    top = full.loglik()
    out = []
    for gone in groups:
        n_obs = float(gone.sum() if whole.design.frequency is None else whole.design.frequency[gone].sum())
        if gone.all():
            out.append(_failed(whole, n_obs, ColumnError("no row is left")))
            continue
        rest = design_of(whole.design, ~gone)
        kept = _independent(rest.mu.x)
        start = Given({}, whole.fixed)
        if kept.all():
            start = Given(of_estimate(_names(whole), whole.estimate), whole.fixed)
        else:
            rest = _without_columns(rest, kept, everywhere=whole.family.unordered)
        try:
            found = estimate(rest, whole.family, whole.method, whole.control, start)
        except GlmmError as error:
            out.append(_failed(whole, n_obs, error))
            continue
        elpd = displacement = np.nan
        if kept.all():
            held = HeldParameters.of(found, whole.family)
            at_rest = full.at(held).loglik()
            displacement = top - at_rest
            if full.model.effects.coupled or _tied(whole.design, gone):
                elpd = at_rest - known_model(rest, whole.family, whole.control, held).loglik()
            else:
                elpd = log_density(design_of(whole.design, gone), whole.family, whole.control, held)
        own = fixed_of(found, whole.family)
        told = kept
        if whole.family.unordered and len(own):
            told = np.tile(kept, len(own) // max(int(kept.sum()), 1))
        elif len(own):
            told = np.append(kept, np.ones(len(own) - int(kept.sum()), dtype=np.bool_))
        beta, vcov = np.full(len(told), np.nan), np.full((len(told),) * 2, np.nan)
        beta[told], vcov[np.ix_(told, told)] = own, found.vcov_fixed[: len(own), : len(own)]
        covariances = tuple(factor.covariances for factor in found.factors)
        status = "coefficient_lost" if not kept.all() else "singular" if found.singular else "ok"
        of_residual = np.empty(0) if found.residual is None else found.residual.values
        out.append(
            Rest(n_obs, found.loglik, elpd, displacement, beta, vcov, covariances, found.phi, status, of_residual)
        )
    return out


def _tied(design: Design, gone: BoolVec) -> bool:
    """Whether rows that are left out have residuals that are correlated with others'."""
    if design.residual is None:
        return False
    codes = design.residual.codes
    return bool(np.isin(codes[gone], codes[~gone]).any())


def _names(whole: Whole) -> list[str]:
    """Names of the coefficients that a refit starts from."""
    if not whole.family.unordered and whole.family.curve is None:
        return list(whole.design.mu.names)
    return [name for one in whole.design.predictors for name in one.labels]


def _without_columns(design: Design, kept: BoolVec, *, everywhere: bool) -> Design:
    """Only some columns of the mean, or of all predictors where they have the same."""

    def less(one: Predictor) -> Predictor:
        names = tuple(name for name, keep in zip(one.names, kept, strict=True) if keep)
        return replace(one, x=np.ascontiguousarray(one.x[kept]), names=names)

    further = tuple(map(less, design.further)) if everywhere else design.further
    return replace(design, mu=less(design.mu), further=further)


def log_density(design: Design, family: Family, control: Control, held: HeldParameters) -> float:
    """log p of rows whose groups are not known, their random effects integrated out."""
    bent = any(STRUCTURES[t.structure].bends for f in design.factors for t in f.terms)
    if len(design.factors) == 1 and not design.further and only_phi(family) and not family.linear and not bent:
        levels = LevelLikelihood.of(design, family)
        return float(levels.integrals(levels.psi(held), quadrature(_NODES)).value.sum())
    return known_model(design, family, control, held).loglik()


def _levels(whole: Whole) -> LevelLikelihood | SeriesLevels:
    """The levels of the only factor."""
    if whole.design.residual is None:
        return LevelLikelihood.of(whole.design, whole.family)
    return SeriesLevels.of(whole.design, whole.family, whole.control, whole.held)


def one_step(whole: Whole) -> list[Rest]:
    """The approximate answers for the levels of the only factor."""
    levels = _levels(whole)
    psi, p = levels.psi(whole.held), len(whole.estimate.beta)
    restricted = isinstance(whole.method, REML)
    steps = _STEP * np.maximum(np.abs(psi), 0.1)
    here = levels.at(psi)
    around = [(levels.at(psi + h), levels.at(psi - h)) for h in np.diag(steps)]
    curvatures = np.array(
        [(down.scores - up.scores) / (2.0 * h) for (up, down), h in zip(around, steps, strict=True)]
    ).transpose(1, 2, 0)  # −∂²ℓ_g, (G, P, P)
    curvatures = 0.5 * (curvatures + curvatures.swapaxes(1, 2))
    total = curvatures.sum(0)
    slopes = -here.scores
    s = here.fixed_information.transpose(2, 0, 1)
    if restricted:
        slopes = slopes + _restricted_slopes(s, around, steps)
        total = total + _restricted_curvature(levels, psi, steps, p)
    rest = total - curvatures
    if whole.family.linear:
        bent = np.stack([_information_slope(ends, h) for ends, h in zip(around, steps, strict=True)], axis=1)
        moved = psi + _linear_step(rest, slopes, s.sum(0) - s, bent.sum(0) - bent)
        vcov = np.linalg.inv(s.sum(0) - s)
    else:
        moved = psi + np.linalg.solve(rest, slopes[..., None])[..., 0]
        vcov = np.linalg.inv(rest)[:, :p, :p]
    top, out = float(here.value.sum()), []
    density = levels.densities(moved)
    for g in range(len(levels.n_obs)):
        held = levels.held(moved[g])
        covariances = (_split(held.roots[0], whole.estimate.factors[0].covariances),)
        phi = None if held.gamma is None else float(np.exp(held.gamma[0]))
        shift = moved[g] - psi
        displacement = 0.5 * float(shift @ total @ shift)
        loglik = top - float(here.value[g])
        n_obs = float(levels.n_obs[g])
        rest_of = Rest(n_obs, loglik, float(density[g]), displacement, held.beta, vcov[g], covariances, phi)
        out.append(rest_of if held.residual is None else replace(rest_of, residual=held.residual))
    return out


def _information_slope(ends: tuple[LevelValues, LevelValues], h: float) -> Cube:
    """∂S_g/∂ψ_k, (G, p, p)."""
    up, down = ends
    return ((up.fixed_information - down.fixed_information) / (2.0 * h)).transpose(2, 0, 1)


def _linear_step(rest: Cube, slopes: Mat, s: Cube, bent: Cube) -> Mat:
    """The step (G, P) of a linear model, in which beta is exact given the variances, these by one step of the profile.

    rest (G, P, P), slopes (G, P): −∂²ℓ and ∂ℓ of the rest at the fit of all;  s (G, p, p), bent (G, P, p, p): its S
    and ∂S/∂ψ, with which ∂ℓ/∂(variances) and ∂²ℓ/∂beta∂(variances) follow beta to where it goes.
    """
    p = s.shape[1]
    bent = bent[:, p:]
    first = np.linalg.solve(s, slopes[:, :p, None])[..., 0]
    moved = np.einsum("gkij,gj->gik", bent, first)
    pull = slopes[:, p:] - np.einsum("gik,gi->gk", rest[:, :p, p:] + 0.5 * moved, first)
    crossed = rest[:, :p, p:] + moved
    solved = np.linalg.solve(s, crossed)
    profile = rest[:, p:, p:] - np.einsum("gik,gil->gkl", crossed, solved)
    second = np.linalg.solve(profile, pull[..., None])[..., 0]
    return np.concatenate([first - np.einsum("gik,gk->gi", solved, second), second], axis=1)


def _restricted_slopes(s: Cube, around: Sequence[tuple[LevelValues, LevelValues]], steps: Vec) -> Mat:
    """∂/∂ψ of −½ log|S − S_g| + ½ log|S|, (G, P), for S_g (G, p, p)."""
    rest, whole = np.linalg.inv(s.sum(0) - s), np.linalg.inv(s.sum(0))
    out = np.empty((len(s), len(steps)))
    for k, (ends, h) in enumerate(zip(around, steps, strict=True)):
        ds = _information_slope(ends, h)
        own = np.einsum("gij,gji->g", rest, ds.sum(0) - ds)
        out[:, k] = -0.5 * (own - np.einsum("ij,ji->", whole, ds.sum(0)))
    return out


def _restricted_curvature(levels: LevelLikelihood | SeriesLevels, psi: Vec, steps: Vec, p: int) -> Mat:
    """∂² of ½ log|S| in ψ: that of all levels stands for that of the rest."""

    def half(at: Vec) -> float:
        return 0.5 * float(np.linalg.slogdet(levels.information(at).sum(2))[1])

    wide, size = 20.0 * steps, len(psi)
    out = np.zeros((size, size))
    for j in range(p, size):
        for k in range(p, j + 1):
            ej, ek = wide[j] * np.eye(size)[j], wide[k] * np.eye(size)[k]
            ends = half(psi + ej + ek) - half(psi + ej - ek) - half(psi - ej + ek) + half(psi - ej - ek)
            out[j, k] = out[k, j] = ends / (4.0 * wide[j] * wide[k])
    return out


def _split(root: Mat, like: Sequence[Mat]) -> tuple[Mat, ...]:
    """Σ of each term from the root of all."""
    sigma, out, start = root @ root.T, [], 0
    for covariance in like:
        stop = start + len(covariance)
        out.append(sigma[start:stop, start:stop])
        start = stop
    return tuple(out)


def _independent(x: Mat) -> BoolVec:
    """Columns x (p, n) that are no combination of earlier ones."""
    kept = np.ones(len(x), dtype=bool)
    size = np.linalg.norm(x, axis=1)
    scaled = x / np.where(size > 0.0, size, 1.0)[:, None]
    gram = scaled @ scaled.T
    if np.linalg.matrix_rank(gram, hermitian=True, tol=1e-10) == len(x):
        return kept
    for j in range(len(x)):
        some = np.flatnonzero(kept[: j + 1])
        rank = np.linalg.matrix_rank(gram[np.ix_(some, some)], hermitian=True, tol=1e-10)
        kept[j] = rank == len(some)
    return kept


def _failed(whole: Whole, n_obs: float, error: GlmmError) -> Rest:
    p = len(fixed_of(whole.estimate, whole.family))
    covariances = tuple(tuple(c * np.nan for c in factor.covariances) for factor in whole.estimate.factors)
    lost = np.full(p, np.nan), np.full((p, p), np.nan)
    phi = None if whole.estimate.phi is None else np.nan
    residual = np.empty(0) if whole.estimate.residual is None else whole.estimate.residual.values * np.nan
    status = f"failed ({type(error).__name__})"
    return Rest(n_obs, np.nan, np.nan, np.nan, *lost, covariances, phi, status, residual)
