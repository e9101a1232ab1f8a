"""Draws of parameters and random effects together, as a normal approximation has them: a step towards Bayes.

On the scales of vcov(full=True) (coefficients, log standard deviations, atanh of correlations, log phi) the parameters
are N(ψ̂, V), V the inverse of the observed information (Gelman et al. 2013, §4.1: the posterior under a flat prior, for
many data). Given them the effects are N(b̂ + ∂b̂/∂ψ·(ψ − ψ̂), Var(b | y)): the modes move, their spread is that at the
estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.covariance.correlations import CORRELATIONS
from polars_glmm.covariance.structures import STRUCTURES, plain_name
from polars_glmm.errors import ModelError, ResourceError, enumerate_names, suggest
from polars_glmm.fitting.again import design_of
from polars_glmm.inference.arguments import PARTS, Part
from polars_glmm.inference.natural import naturals
from polars_glmm.inference.ranef import level_labels
from polars_glmm.inference.resampling import checked_seed
from polars_glmm.inference.schemas import POSTERIOR, table
from polars_glmm.inference.varcorr import Component, components, correlation
from polars_glmm.inference.vcov import report_scales
from polars_glmm.likelihood.known.draws import effect_deviations, roots_of
from polars_glmm.likelihood.known.joint import HeldParameters, known_model
from polars_glmm.memory import memory_limit, readable
from polars_glmm.typing import Cube, Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.likelihood.estimate import Estimate

_TRIES = 100
"""Times that correlations are drawn until they make a covariance matrix."""
_ROW_BYTES = 90


@dataclass(frozen=True, slots=True, eq=False)
class JointDraws:
    """D draws.

    beta (D, p), gamma (D, s);  covariances per factor and term (D, r_t, r_t)
    steps    of the constants on the scales of their predictors, by name (D,)
    effects per factor (D, r, G), or none of them;  values (D, K) natural parameters in the order of `naturals`
    residual (D, k) parameters of the correlation of residuals, natural;  working (D, k) what they moved by, unbounded
    """

    beta: Mat
    gamma: Mat
    steps: dict[str, Vec]
    covariances: tuple[tuple[Cube, ...], ...]
    effects: tuple[Cube, ...]
    values: Mat
    residual: Mat
    working: Mat

    def coefficient_steps(self, e: Estimate, i: int | slice = slice(None)) -> list[Mat]:
        """By how much the coefficients of draws have moved from the estimates, by predictor (…, p), (…, s_k)."""
        sizes = [len(one) for one in list(e.coefficients.values())[1:]]
        further = np.split(self.gamma[i] - e.gamma, np.cumsum(sizes)[:-1], axis=-1) if sizes else []
        return [self.beta[i] - e.beta, *further]


def posterior(
    fit: Answer, n: int = 4000, rng: np.random.Generator | int | None = None, include: Part | Sequence[Part] = PARTS
) -> pl.DataFrame:
    """The draws as a frame, long."""
    asked = [include] if isinstance(include, str) else list(include)
    for part in asked:
        if part not in PARTS:
            msg = f"include={part!r} is not known.{suggest(str(part), PARTS)} Use {enumerate_names(PARTS)}."
            raise ModelError(msg)
    seed = checked_seed(n, rng)
    _require_room(fit, n, effects="u" in asked)
    found = joint_draws(fit, seed, range(n), effects="u" in asked)
    parameters = [one for one in naturals(fit) if one.estimate is not None]
    keep = [k for k, one in enumerate(parameters) if ("beta" if one.quantity == "coefficient" else "theta") in asked]
    chosen = [parameters[k] for k in keep]
    parts = [
        _long(n, {name: [getattr(one, name) for one in chosen] for name in _NAMES}, found.values[:, keep], seed)
    ]  # fmt: skip
    for factor, estimate, effects in zip(fit.recipe.factors, fit.estimate.factors, found.effects, strict=False):
        levels, (r, n_levels) = level_labels(factor).to_list(), effects.shape[1:]
        keys: dict[str, list[str | None]] = {
            "parameter": np.repeat(estimate.parameter_of, n_levels).tolist(),
            "group": [factor.name] * (r * n_levels),
            "term": np.repeat(estimate.term_names, n_levels).tolist(),
            "other_term": [None] * (r * n_levels),
            "quantity": ["effect"] * (r * n_levels),
            "level": levels * r,
        }
        parts.append(_long(n, keys, effects.reshape(n, -1), seed))
    return pl.concat(parts)


_NAMES = ("parameter", "group", "term", "other_term", "quantity")


def _long(n: int, keys: dict[str, Any], values: Mat, seed: int) -> pl.DataFrame:
    """A row per draw and column of values (n, k), named by keys of k."""
    k = values.shape[1]
    columns: dict[str, Any] = {}
    again = np.tile(np.arange(k), n)
    for name in (*_NAMES, "level"):
        columns[name] = pl.Series(keys.get(name, [None] * k), dtype=pl.String)[again]
    columns |= {"draw": np.repeat(np.arange(n), k), "value": values.reshape(-1), "seed": np.full(n * k, seed)}
    return table(POSTERIOR, columns)


def joint_draws(fit: Answer, seed: int, numbers: Sequence[int], *, effects: bool) -> JointDraws:
    """Draws by their numbers; each depends on the seed and its number alone.

    What has no standard error, as a variance at zero or a held parameter, stays at its estimate. Raises ModelError for
    coefficients that run off to infinity, and where the effects need rows that are gone.
    """
    e = fit.estimate
    bent = next((one for f in e.factors for one in f.structures if STRUCTURES[one].bends), None)
    if bent is not None:
        msg = f"There are no draws by the normal approximation for {plain_name(bent)}(): fit.bootstrap() has some."
        raise ModelError(msg)
    if e.at_infinity is not None:
        msg = "There are no draws of estimates that run off to infinity (separation): hold them, fixed=, or drop them."
        raise ModelError(msg)
    if fit.recipe.spec.family.curve is not None:
        msg = "There are no draws by the normal approximation for a nonlinear model: fit.bootstrap() has draws of it."
        raise ModelError(msg)
    streams = [np.random.default_rng([seed, number]) for number in numbers]
    own = report_scales(fit, e.vcov_fixed)
    root = _root(np.nan_to_num(own.matrix))
    p, s = len(e.beta), len(e.gamma)
    moved = np.array([root @ rng.standard_normal(len(root)) for rng in streams]).reshape(len(streams), -1)
    blocks, place, naturals_of = [], p + s, []
    for component in components(e):
        size = len(component.terms) + len(component.correlated)
        rows = slice(place, place + size)
        covariance, natural = _covariances(component, moved[:, rows], root[rows], streams)
        blocks.append(covariance)
        naturals_of.append(natural)
        place += size
    working, residual = _residual(fit, moved[:, place:])
    beta, gamma = e.beta + moved[:, :p], e.gamma + moved[:, p : p + s]
    steps = dict(zip(e.constants, moved[:, len(root) - len(e.constants) :].T, strict=True))
    constants = [_stepped(fit, name, step)[:, None] for name, step in steps.items()]
    values = [beta, *naturals_of, residual, gamma, *constants]
    by_factor, start = [], 0
    for factor in e.factors:
        by_factor.append(tuple(blocks[start : start + len(factor.covariances)]))
        start += len(factor.covariances)
    found = JointDraws(beta, gamma, steps, tuple(by_factor), (), np.concatenate(values, axis=1), residual, working)
    if not effects or not e.factors:
        return found
    return replace(found, effects=_effects(fit, found, streams))


def _stepped(fit: Answer, name: str, step: Vec) -> Vec:
    """A constant (D,) whose predictor has moved by a step (D,); one at a limit has none."""
    value, link = fit.estimate.constants[name], next(one for one in fit.spec.family.parameters if one.name == name).link
    with np.errstate(all="ignore"):
        return np.where(step == 0.0, value, link.inverse(link.forward(np.array([value])) + step))


def _residual(fit: Answer, moved: Mat) -> tuple[Mat, Mat]:
    """Steps of the correlation of residuals, unbounded, from those of its report scales; and its natural parameters.

    On the unbounded scale every draw is a correlation matrix. What is at its limit stays there.
    """
    found, learned = fit.estimate.residual, fit.recipe.residual
    if found is None or learned is None:
        return np.empty((len(moved), 0)), np.empty((len(moved), 0))
    correlation, k, size = CORRELATIONS[found.structure], len(found.values), learned.size
    x = correlation.working(found.values, size)
    if not np.isfinite(x).all():
        return np.zeros((len(moved), k)), np.tile(found.values, (len(moved), 1))
    natural = found.values if correlation.lengths else 1.0 - found.values**2
    steps = np.asarray((moved[:, :k] * natural) @ np.linalg.pinv(correlation.natural_slopes(x, size)).T)
    return steps, np.array([correlation.natural(x + step, size) for step in steps])


def _covariances(
    component: Component, moved: Mat, root: Mat, streams: Sequence[np.random.Generator]
) -> tuple[Cube, Mat]:
    """Σ (D, r, r) of one term from steps of log sd and atanh ρ, and its natural parameters in the order of naturals."""
    r, pairs = len(component.terms), component.correlated
    sd = np.sqrt(np.diag(component.covariance)) * np.exp(moved[:, :r])
    estimates = np.array([correlation(component, i, j) for i, j in pairs])
    shown = sorted(range(len(pairs)), key=lambda k: pairs[k][::-1])

    def correlations(steps: Mat) -> Cube:
        out = np.broadcast_to(np.eye(r), (len(steps), r, r)).copy()
        for k, (i, j) in enumerate(pairs):
            inner = np.abs(estimates[k]) < 1.0
            rho = np.tanh(np.arctanh(estimates[k]) + steps[:, k]) if inner else np.full(len(steps), estimates[k])
            out[:, i, j] = out[:, j, i] = np.nan_to_num(rho)
        return out

    rho = correlations(moved[:, r:])
    if r > 2 and pairs:
        for d in np.flatnonzero(np.linalg.eigvalsh(rho)[:, 0] < 0.0).tolist():
            rho[d] = _again(root[r:], streams[d], correlations, rho[d])
    own = np.array([rho[:, pairs[k][0], pairs[k][1]] for k in shown]).reshape(-1, len(sd)).T
    return rho * sd[:, :, None] * sd[:, None, :], np.concatenate([sd, own], axis=1)


def _again(root: Mat, rng: np.random.Generator, correlations: Any, first: Mat) -> Mat:
    """A correlation matrix drawn until it is one; the nearest to the first where none is found."""
    for _ in range(_TRIES):
        one: Mat = correlations((root @ rng.standard_normal(root.shape[1]))[None])[0]
        if np.linalg.eigvalsh(one)[0] >= 0.0:
            return one
    values, vectors = np.linalg.eigh(first)
    near = (vectors * np.maximum(values, 0.0)) @ vectors.T
    size = np.sqrt(np.diag(near))
    return np.asarray(near / np.outer(size, size))


def _effects(fit: Answer, found: JointDraws, streams: Sequence[np.random.Generator]) -> tuple[Cube, ...]:
    """b per factor (D, r, G): modes moved with the parameters, and their spread."""
    e, family = fit.estimate, fit.recipe.spec.family
    known = design_of(fit, "posterior(include='u')")
    held = HeldParameters.of(e, family)
    model = known_model(known.design, family, fit.control, held)
    steps: list[Mat] = [found.beta - e.beta]
    for factor, root, covariances in zip(e.factors, held.roots, found.covariances, strict=True):
        change, start = roots_of(covariances) - root, 0
        for covariance, structure in zip(factor.covariances, factor.structures, strict=True):
            i, j = STRUCTURES[structure].entries(len(covariance))
            steps.append(change[:, start + i, start + j])
            start += len(covariance)
    coefficients = dict(zip(e.coefficients, found.coefficient_steps(e), strict=True))
    for one in family.parameters[1:]:
        if one.name in found.steps:
            steps.append(found.steps[one.name][:, None])
        elif one.name in coefficients:
            steps.append(coefficients[one.name])
    step = np.concatenate([*steps, found.working], axis=1)
    deviations = effect_deviations(model, streams)
    return tuple(
        estimate.modes + np.einsum("dk,rkg->drg", step, slope) + deviation
        for estimate, slope, deviation in zip(e.factors, model.mode_slopes(), deviations, strict=True)
    )


def _root(matrix: Mat) -> Mat:
    """A square root of a covariance matrix, its rows and columns on one scale."""
    scale = np.sqrt(np.diag(matrix))
    size = np.where(scale > 0.0, scale, 1.0)
    values, vectors = np.linalg.eigh(matrix / np.outer(size, size))
    return np.asarray(size[:, None] * (vectors * np.sqrt(np.maximum(values, 0.0))))


def _require_room(fit: Answer, n: int, *, effects: bool) -> None:
    rows = len(fit.estimate.report)
    if effects:
        rows += sum(factor.modes.size for factor in fit.estimate.factors)
    needed, limit = n * rows * _ROW_BYTES, memory_limit(fit.control.memory.limit)
    if needed > limit:
        msg = (
            f"{n} draws of {rows} numbers would need about {readable(needed)} of memory, more than the "
            f"{readable(limit)} that may be used: fewer draws (n=), or include=('beta', 'theta') without effects."
        )
        raise ResourceError(msg)
