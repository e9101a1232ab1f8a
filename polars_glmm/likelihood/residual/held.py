"""Correlated residuals, the parameters held: R^(−½) makes rows independent, and the model a plain gaussian one.

Groups of correlated rows lie within one level of every factor, so that L⁻¹D⁻¹[y X Z] has the levels that [y X Z] has:
conditional modes, their covariances and what moves them are those of the whitened rows with φ = 1, and log p(y) is that
of these less ½ log|R|. What is said of a row by itself, as its leverage, is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from polars_glmm.control import Control
from polars_glmm.design.records import Design, ResidualRows
from polars_glmm.errors import ConvergenceError
from polars_glmm.families.base import Family
from polars_glmm.likelihood.model import prepare
from polars_glmm.likelihood.residual.fit import residual_engine
from polars_glmm.likelihood.residual.rows import correlated
from polars_glmm.likelihood.residual.series import require_nested
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.spec.method import ML
from polars_glmm.typing import Mat, Vec


class Whitened(NamedTuple):
    """Independent rows of φ = 1, and the part of each (n,) in log|R| of those they were made of."""

    design: Design
    log_r: Vec


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A design with correlated residuals.

    gamma   held: log φ, or its coefficients;  values (k,) natural parameters of the correlation
    """

    design: Design
    gamma: Vec
    values: Vec

    @property
    def residual(self) -> ResidualRows:
        """The groups of correlated rows."""
        assert self.design.residual is not None  # else there is nothing to whiten
        return self.design.residual

    @property
    def working(self) -> Vec:
        """The correlation's unbounded parameters x (k,)."""
        return self.residual.correlation.working(self.values, self.residual.size)

    def moved(self, step: Vec) -> Series:
        """At (γ, x) + step."""
        s, residual = len(self.gamma), self.residual
        values = residual.correlation.natural(self.working + step[s:], residual.size)
        return replace(self, gamma=self.gamma + step[:s], values=values)

    def whitened(self) -> Whitened:
        """L⁻¹D⁻¹ before y less its offset, X and Z.

        Raises ModelError where correlated rows are in several levels of a factor, or the correlation is no matrix.
        """
        design, residual = self.design, self.residual
        require_nested(residual.codes.astype(np.intp), design.factors)
        together, scale = correlated(residual, self.values), self._scale()
        y = design.y if design.mu.offset is None else design.y - design.mu.offset
        z = [factor.z for factor in design.factors]
        white = together.whiten(np.vstack([y, design.mu.x, *z]) / scale)
        ends = np.cumsum([1, len(design.mu.x), *map(len, z)])
        _, x, *z = np.split(white, ends[:-1])
        factors = tuple(replace(factor, z=own) for factor, own in zip(design.factors, z, strict=True))
        mu = replace(design.mu, x=x, offset=None)
        made = replace(design, y=white[0], precision=None, mu=mu, further=(), factors=factors, residual=None)
        return Whitened(made, 2.0 * np.log(scale) + together.log_variances)

    def _scale(self) -> Vec:
        """The standard deviation of every residual, (n,)."""
        phi = self.design.phi
        log_phi = np.full(self.design.n_rows, self.gamma[0]) if phi is None else self.gamma @ phi.x
        if phi is not None and phi.offset is not None:
            log_phi = log_phi + phi.offset
        weights = 1.0 if self.design.precision is None else self.design.precision
        return np.asarray(np.exp(log_phi) / np.sqrt(weights))

    def leverage(self, family: Family, control: Control, beta: Vec, roots: Sequence[Mat]) -> tuple[Vec, Vec, Vec]:
        """As ResidualEngine.leverage, of the rows in their own order; roots (r, r) of Σ per factor of the design."""
        model = prepare(self.design, family, ML(), control)
        gamma = self.gamma if self.design.phi is None else model.bases[1].inward(self.gamma)
        factors = [np.asarray(np.linalg.solve(f.outward, roots[f.place])) for f in model.effects.factors]
        with one_blas_thread(), np.errstate(all="ignore"):
            engine = residual_engine(model)
            shift = 0.0 if model.x.constant is None else engine.y_shift * model.x.constant
            try:
                found = engine.leverage(factors, np.append(gamma, self.working), model.x.inward(beta - shift))
            except np.linalg.LinAlgError:
                msg = "V is not positive definite at the estimates: some rows cannot be under the model. Drop copies."
                raise ConvergenceError(msg) from None
        out = np.empty((3, self.design.n_rows))
        out[:, engine.rows.whitenings.arranged.order] = found
        return out[0], out[1], out[2]
