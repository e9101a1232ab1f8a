"""The variance of a linear predictor, row by row: what is not known of the fixed effects and of the modes, together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError
from polars_glmm.prediction.effects import MODEL, JoinedFactor

if TYPE_CHECKING:
    from polars_glmm.prediction.parameters import FixedPart
    from polars_glmm.typing import Cube, IntVec, Mat, Vec


def variance(fixed: FixedPart, factors: Sequence[JoinedFactor], missing: pl.Expr) -> pl.Expr:
    """Σ_f z_f'Var(b_f | y)z_f + a'Var(β̂)a with a = x + Σ_f s_f'z_f (Kass & Steffey 1989; Booth & Hobert 1998).

    s_f = ∂b̂_f/∂β: where β̂ moves, the modes move against it, so a level that was observed often pins down the sum of
    fixed and random effects better than either. An unseen level has s = 0, and Σ for Var(b | y). `fixed`
    makes x and has Var(β̂); `missing` marks incomplete rows (any column that is there in every row would do: it gives
    the length). Of several fits the column MODEL says which answers for a row. Raises ModelError where the fit does
    not keep the slopes s.
    """
    nodes, vcov = fixed.nodes, fixed.vcov
    many = len(vcov) > 1
    spreads = [_spread(factor, vcov) for factor in factors]
    fields = [missing.alias("rows")]
    if many:
        fields.append(pl.col(MODEL).alias("model"))
    fields += [node.to_expr().alias(f"x_{j}") for j, node in enumerate(nodes)]
    for i, factor in enumerate(factors):
        fields.append(pl.col(factor.code).fill_null(-1).alias(f"code_{i}"))
        fields += [node.to_expr().alias(f"z_{i}_{j}") for j, node in enumerate(factor.nodes)]

    def quadratic(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        a = np.empty((len(nodes), rows.height))
        model = rows["model"].to_numpy() if many else np.zeros(1, dtype=np.intp)
        for j, own in enumerate(a):
            own[:] = rows[f"x_{j}"].to_numpy()
        total = np.zeros(rows.height)
        with np.errstate(invalid="ignore", over="ignore"):  # columns that are not finite give NaN
            for i, spread in enumerate(spreads):
                z = [rows[f"z_{i}_{j}"].to_numpy() for j in range(len(spread.covariance))]
                code = rows[f"code_{i}"].to_numpy()
                total += spread.add(z, np.where(code < 0, spread.n_levels + model, code), a)
            total += _quadratic(a, vcov, model)
        # the rounding of a singular vcov may fall below zero
        return pl.Series(batch.name, np.maximum(total, 0.0))

    return pl.struct(fields).map_batches(quadratic, return_dtype=pl.Float64, is_elementwise=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Spread:
    """Var(b | y) (r, r, G + M) and ∂b̂/∂β (r, p, G + M) of one factor; the last M are those of unseen levels by fit."""

    covariance: Cube
    slope: Cube
    n_levels: int

    def add(self, z: Sequence[Vec], codes: IntVec, a: Mat) -> Vec:
        """z'Var(b | y)z (n,); s'z is added to `a` (p, n), scratch of the caller."""
        total = np.zeros(len(codes))
        for j, zj in enumerate(z):
            for k, zk in enumerate(z[: j + 1]):
                total += (1.0 if j == k else 2.0) * zj * zk * self.covariance[j, k][codes]
            for i, slope in enumerate(self.slope[j]):
                a[i] += zj * slope[codes]
        return total


def _quadratic(a: Mat, vcov: Cube, model: IntVec) -> Vec:
    """a'Va (n,) for a (p, n), with V (M, p, p) of each row's fit."""
    if len(vcov) == 1:
        return np.asarray(np.einsum("pn,pn->n", a, vcov[0] @ a))
    total = np.zeros(a.shape[1])
    for j, aj in enumerate(a):
        for k, ak in enumerate(a[: j + 1]):
            total += (1.0 if j == k else 2.0) * aj * ak * vcov[:, j, k][model]
    return total


def _spread(factor: JoinedFactor, vcov: Cube) -> _Spread:
    r, n_levels = factor.modes.shape
    slope = factor.mode_slope
    fits, p = vcov.shape[:2]
    if slope is None:
        if np.isfinite(vcov).any():
            msg = (
                "Standard errors of predictions given the random effects are not kept for as many levels as "
                f'{factor.recipe.name!r} has ({n_levels}). random="none" gives those of the fixed part.'
            )
            raise ModelError(msg)
        slope = np.zeros((r, p, n_levels))  # there are no standard errors at all
    return _Spread(
        np.concatenate([factor.mode_covariance, block_diagonal(factor.covariances, r)], axis=2),
        np.concatenate([slope, np.zeros((r, p, fits))], axis=2),
        n_levels,
    )


def block_diagonal(blocks: Sequence[Cube], r: int) -> Cube:
    """Square matrices (M, r_t, r_t) along the diagonals of (r, r, M), zero elsewhere."""
    whole = np.zeros((r, r, len(blocks[0])))
    start = 0
    for block in blocks:
        stop = start + block.shape[1]
        whole[start:stop, start:stop] = block.transpose(1, 2, 0)
        start = stop
    return whole
