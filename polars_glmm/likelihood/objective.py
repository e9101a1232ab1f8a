"""The log-likelihood as a function of the parameters people report: for comparing engines, profiles and teaching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from polars_glmm.control import Control
from polars_glmm.covariance.factors import trapezoid
from polars_glmm.covariance.scaled import Scaled
from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.design.records import Design
from polars_glmm.errors import ModelError, counted, enumerate_names, suggest
from polars_glmm.families.base import Family
from polars_glmm.likelihood.marginal.engine import RowEngine, row_engine
from polars_glmm.likelihood.model import Model, prepare
from polars_glmm.likelihood.parameters.names import TermPlace, parameter_names
from polars_glmm.likelihood.parameters.parts import Part, inward, outward_slopes
from polars_glmm.likelihood.products.engine import ProductEngine, product_engine
from polars_glmm.likelihood.residual.engine import ResidualEngine
from polars_glmm.likelihood.residual.fit import residual_engine
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.spec.method import AGQ, Method
from polars_glmm.typing import Mat, Vec


class NaturalObjective:
    """ℓ(β, sd, correlation, φ) with all constants, and its gradient.

    names      fixed effects of mu; per term "sd(group: term)", then "cor(group: term, term)" by rows of the lower
               triangle, those that are parameters of the structure; "rho(group)" of correlated residuals; "phi: term"
               (log scale) where phi has a formula, else "phi" (gaussian: σ)
    loglik     at a mapping from names, or a vector in their order; under REML the restricted likelihood, in which
               X'V⁻¹X is accounted for and β enters through the residual sum of squares only
    gradient   in the same parameters, (P,)

    Raises ModelError for unknown or missing names, and correlations that do not make a covariance matrix.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._engine = _engine(model)
        self._constant = model.constant() if isinstance(self._engine, RowEngine) else 0.0
        self._blocks, self.names = parameter_names(model)
        for b in self._blocks:
            structure = STRUCTURES[b.term.structure]
            if structure.rank(b.term.r) < b.term.r:
                msg = (
                    f"{structure.name}() has fewer parameters than standard deviations and correlations, so that these "
                    "are no coordinates of its likelihood: there is no objective. Use us() or diag()."
                )
                raise ModelError(msg)

    def loglik(self, params: Mapping[str, float] | Sequence[float] | Vec) -> float:
        """ℓ at a point."""
        with one_blas_thread():
            return self._evaluate(self._vector(params))[0]

    def gradient(self, params: Mapping[str, float] | Sequence[float] | Vec) -> Vec:
        """∂ℓ/∂params at a point, (P,)."""
        with one_blas_thread():
            return self._evaluate(self._vector(params))[1]

    def _vector(self, params: Mapping[str, float] | Sequence[float] | Vec) -> Vec:
        if isinstance(params, Mapping):
            for name in params:
                if name not in self.names:
                    msg = f"There is no parameter {name!r}.{suggest(name, self.names)}"
                    raise ModelError(msg)
            missing = [name for name in self.names if name not in params]
            if missing:
                msg = f"Parameters without a value: {enumerate_names(missing)}."
                raise ModelError(msg)
            return np.array([float(params[name]) for name in self.names])
        x = np.asarray(params, dtype=float)
        if x.shape != (len(self.names),):
            n = counted(len(self.names), "parameter")
            msg = f"Expected {n} ({enumerate_names(self.names)}), got an array of shape {x.shape}."
            raise ModelError(msg)
        return x

    def _factors(self, x: Vec) -> tuple[list[Mat], list[Mat]]:
        """Λ_f on the scale of the columns, and of every block the correlation factor L, or θ of its own parameters."""
        factors = [np.zeros((f.r, f.r)) for f in self._model.effects.factors]
        roots = []
        for b in self._blocks:
            r, t = b.term.r, b.term
            structure = STRUCTURES[t.structure]
            if isinstance(structure, Scaled):
                theta = structure.natural(x[b.sd], x[b.cor], r)
                if np.isnan(theta).any():
                    msg = f"The correlations of {self.names[b.start]} and its neighbours make no {structure.name}()."
                    raise ModelError(msg)
                roots.append(theta)
                factors[b.factor][t.start : t.stop, t.start : t.stop] = structure.factor(theta, r)
                continue
            correlation = np.eye(r)
            if b.n_cor:
                i, j = np.tril_indices(r, -1)
                correlation[i, j] = correlation[j, i] = x[b.cor]
            root = _root(correlation)
            if root is None:
                msg = f"The correlations of {self.names[b.start]} and its neighbours do not make a covariance matrix."
                raise ModelError(msg)
            roots.append(root)
            factors[b.factor][t.start : t.stop, t.start : t.stop] = x[b.sd, None] * root
        return factors, roots

    def _evaluate(self, x: Vec) -> tuple[float, Vec]:
        model, p = self._model, len(self._model.x.a)
        factors, roots = self._factors(x)
        back = [np.linalg.inv(f.outward) for f in model.effects.factors]
        scaled = [m @ lam for lam, m in zip(factors, back, strict=True)]
        out = np.zeros(len(x))
        if isinstance(self._engine, ProductEngine):
            value, beta, inner, out[-1] = self._gaussian(x[:p], scaled, float(x[-1]))
        elif isinstance(self._engine, ResidualEngine):
            value, beta, inner, out[len(x) - self._behind :] = self._correlated(x, scaled)
        else:
            searched = [scaled[number].copy() for number in range(len(scaled))]
            for b in self._turned():
                own = slice(b.term.start, b.term.stop)
                searched[b.factor][own, own] = _searched(scaled[b.factor][own, own])
            found = self._engine.gradient(self._coefficients(x), searched, None)
            if not np.isfinite(found.value):
                return -np.inf, np.full(len(x), np.nan)
            value, beta, inner = found.value + self._constant, found.beta[:p], [g.copy() for g in found.factors]
            for b in self._turned():
                own = slice(b.term.start, b.term.stop)
                inner[b.factor][own, own] = _turned_back(scaled[b.factor][own, own], inner[b.factor][own, own])
            slopes = outward_slopes(model.parts, found.beta)
            for part in model.parts[1:]:
                place = self._named(part)
                out[place] = slopes[part.own]
                if part.basis is None:
                    out[place] /= part.natural_slope(part.predictor(x[place][0]))
            out[:p] = slopes[:p]
        if not isinstance(self._engine, RowEngine):
            out[:p] = np.linalg.solve(model.x.a, beta) if p else beta
        for b, root in zip(self._blocks, roots, strict=True):
            t, r = b.term, b.term.r
            own = slice(t.start, t.stop)
            g = back[b.factor][own, own].T @ inner[b.factor][own, own]
            structure = STRUCTURES[t.structure]
            if isinstance(structure, Scaled):
                out[b.sd.start : b.cor.stop] = structure.natural_gradient(root, r, g)
                continue
            out[b.sd] = (g * root).sum(1)
            if b.n_cor:
                out[b.cor] = _correlation_gradient(root, x[b.sd, None] * g)
        return value, out

    def _turned(self) -> list[TermPlace]:
        """The terms whose nodes lie along a root of Σ: they are evaluated at the root that the search has."""
        if not isinstance(self._model.method, AGQ) or self._model.method.nodes < 2:
            return []
        return [b for b in self._blocks if STRUCTURES[b.term.structure].correlated and b.n_cor]

    def _named(self, part: Part) -> slice:
        """Where the coefficients of a further predictor stand among the natural parameters."""
        start = self.names.index(part.labels[0])
        return slice(start, start + len(part.labels))

    def _coefficients(self, x: Vec) -> Vec:
        """The coefficients of all predictors in the computing bases; a constant on the scale of its predictor."""
        model = self._model
        found = [x[: len(model.x.a)]]
        for part in model.parts[1:]:
            own = x[self._named(part)]
            found.append(np.array([part.predictor(own[0])]) if part.basis is None else own)
        return inward(model.parts, np.concatenate(found))

    @property
    def _behind(self) -> int:
        """Parameters of the residual covariance, which are the last ones."""
        own = self._model.parts[1].own
        return int(len(self._model.residual_names) + own.stop - own.start)

    def _correlated(self, x: Vec, absolute: list[Mat]) -> tuple[float, Vec, list[Mat], Vec]:
        """ℓ with gradients in β_c, the absolute factors, and [correlations of residuals, φ or its coefficients]."""
        model, engine, residual = self._model, self._engine, self._model.residual
        assert isinstance(engine, ResidualEngine)
        assert residual is not None
        p, k, part = len(model.x.a), len(residual.names), model.parts[1]
        place = len(x) - self._behind
        w = residual.correlation.working(x[place : place + k], residual.size)
        own = x[place + k :]
        lost = (-np.inf, np.full(p, np.nan), [np.full_like(f, np.nan) for f in absolute], np.full(self._behind, np.nan))
        if not np.isfinite(w).all():
            return lost
        gamma = np.append(np.log(own) if part.basis is None else part.basis.inward(own), w)
        shift = 0.0 if model.x.constant is None else engine.y_shift * model.x.constant
        at = engine.value_at(absolute, gamma, model.x.inward(x[:p] - shift))
        if at.pieces is None:
            return lost
        value = -at.value + (model.x.log_determinant if model.restricted else 0.0)
        s = len(gamma) - k
        by_phi = -at.gamma[:s] / own if part.basis is None else np.linalg.solve(part.basis.a, -at.gamma[:s])
        by_rho = np.linalg.solve(residual.correlation.natural_slopes(w, residual.size).T, -at.gamma[s:])
        return value, at.beta, [-g for g in at.factors], np.append(by_rho, by_phi)

    def _gaussian(self, beta: Vec, absolute: list[Mat], sigma: float) -> tuple[float, Vec, list[Mat], float]:
        """ℓ with gradients in β_c, the absolute factors and σ (module likelihood.products.profile, at any β)."""
        model, engine = self._model, self._engine
        assert isinstance(engine, ProductEngine)
        stats, p = engine.stats, len(beta)
        shift = 0.0 if model.x.constant is None else stats.y_shift * model.x.constant
        beta_c = model.x.inward(beta - shift)
        if stats.start is not None:
            beta_c = beta_c - stats.start
        relative = [lam / sigma for lam in absolute]
        pieces = engine.pieces(relative)
        if pieces is None:
            return -np.inf, np.full(p, np.nan), [np.full_like(f, np.nan) for f in absolute], np.nan
        c = np.append(-beta_c, 1.0)
        q = float(c @ pieces.core @ c)
        reml = 1.0 if engine.reml else 0.0
        value = -0.5 * (
            pieces.log_h
            + reml * (pieces.log_m - 2.0 * model.x.log_determinant)
            + engine.nu * np.log(2.0 * np.pi * sigma**2)
            + q / sigma**2
            - stats.log_weights
        )
        d_beta = (pieces.core[:p] @ c) / sigma**2
        d_rss = [
            -2.0 * np.einsum("dwG,w->dG", e, c) @ np.einsum("rwG,w->rG", b, c).T
            for b, e in zip(pieces.b, pieces.e, strict=True)
        ]
        effective = [
            -0.5 * (h + reml * m + r / sigma**2) for h, m, r in zip(pieces.d_log_h, pieces.d_log_m, d_rss, strict=True)
        ]
        d_relative = model.effects.inward(effective)
        d_sigma = -engine.nu / sigma + q / sigma**3
        d_sigma -= sum(float(np.vdot(g, lam)) for g, lam in zip(d_relative, relative, strict=True)) / sigma
        return float(value), d_beta, [g / sigma for g in d_relative], d_sigma


def _engine(model: Model) -> ProductEngine | RowEngine | ResidualEngine:
    if model.residual is not None:
        return residual_engine(model)
    return product_engine(model) if model.exact else row_engine(model)


def _root(correlation: Mat) -> Mat | None:
    """Lower triangular L with LL' = R, also for correlations of ±1; None if R is not a correlation matrix."""
    r = len(correlation)
    low = np.zeros((r, r))
    for j in range(r):
        pivot = correlation[j, j] - low[j, :j] @ low[j, :j]
        if pivot < -1e-8:  # rounding of a semidefinite matrix
            return None
        low[j, j] = np.sqrt(max(pivot, 0.0))
        for i in range(j + 1, r):
            rest = correlation[i, j] - low[i, :j] @ low[j, :j]
            if low[j, j] > 1e-8:
                low[i, j] = rest / low[j, j]
            elif abs(rest) > 1e-6:
                return None
    return low


def _searched(root: Mat) -> Mat:
    """The lower triangular root L of the same Σ, its diagonal not negative."""
    return trapezoid(root, len(root))


def _turned_back(root: Mat, gradient: Mat) -> Mat:
    """∂ℓ/∂S at Σ = SS' from ∂ℓ/∂L at Σ = LL': by ∂ℓ/∂Σ = L⁻ᵀ φ(Lᵀ ∂ℓ/∂L) L⁻¹, φ the lower half (Murray 2016)."""
    low = _searched(root)
    size = np.abs(np.diag(low))
    if size.min() <= 1e-8 * size.max():  # a singular Σ has no such derivative; along its root it is that of any root
        turn = np.linalg.pinv(root) @ low
        return np.asarray(gradient @ turn.T)
    half = np.tril(low.T @ np.tril(gradient))
    np.fill_diagonal(half, 0.5 * np.diag(half))
    inverse = np.linalg.inv(low)
    sigma = inverse.T @ half @ inverse
    return np.asarray((sigma + sigma.T) @ root)


def _correlation_gradient(root: Mat, g: Mat) -> Vec:
    """∂ℓ/∂R below the diagonal from ∂ℓ/∂L: dL = LΦ(L⁻¹ dR L⁻ᵀ), Φ the lower triangle with halved diagonal."""
    with np.errstate(all="ignore"):
        m = np.tril(root.T @ g)
        m[np.diag_indices_from(m)] *= 0.5
        try:
            inverse = np.linalg.inv(root)
        except np.linalg.LinAlgError:
            return np.full(len(root) * (len(root) - 1) // 2, np.nan)
        full = inverse.T @ m @ inverse
    both = full + full.T
    return both[np.tril_indices(len(root), -1)]


def objective(design: Design, family: Family, method: Method, control: Control) -> NaturalObjective:
    """The objective of a design."""
    return NaturalObjective(prepare(design, family, method, control))
