"""The variance of a linear predictor, row by row: what is not known of the fixed effects and of the modes, together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError

if TYPE_CHECKING:
    from polars_glmm.design.nodes import Node
    from polars_glmm.prediction.effects import JoinedFactor
    from polars_glmm.typing import Cube, IntVec, Mat, Vec


def variance(nodes: Sequence[Node], vcov: Mat, factors: Sequence[JoinedFactor], missing: pl.Expr) -> pl.Expr:
    """Σ_f z_f'Var(b_f | y)z_f + a'Var(β̂)a with a = x + Σ_f s_f'z_f (Kass & Steffey 1989; Booth & Hobert 1998).

    s_f = ∂b̂_f/∂β: where β̂ moves, the modes move against it, so a level that was observed often pins down the sum of
    fixed and random effects better than either. An unseen level has s = 0, and Σ for Var(b | y). `nodes` make x, `vcov`
    is Var(β̂), `missing` marks incomplete rows (any column that is there in every row would do: it gives the length).
    Raises ModelError where the fit does not keep the slopes s.
    """
    spreads = [_spread(factor, vcov) for factor in factors]
    fields = [missing.alias("rows")]
    fields += [node.to_expr().alias(f"x_{j}") for j, node in enumerate(nodes)]
    for i, factor in enumerate(factors):
        fields.append(pl.col(factor.code).fill_null(-1).alias(f"code_{i}"))
        fields += [node.to_expr().alias(f"z_{i}_{j}") for j, node in enumerate(factor.nodes)]

    def quadratic(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        a = np.empty((len(vcov), rows.height))
        for j, own in enumerate(a):
            own[:] = rows[f"x_{j}"].to_numpy()
        total = np.zeros(rows.height)
        with np.errstate(invalid="ignore", over="ignore"):  # columns that are not finite give NaN
            for i, spread in enumerate(spreads):
                z = [rows[f"z_{i}_{j}"].to_numpy() for j in range(len(spread.covariance))]
                total += spread.add(z, rows[f"code_{i}"].to_numpy(), a)
            total += np.einsum("pn,pn->n", a, vcov @ a)
        # the rounding of a singular vcov may fall below zero
        return pl.Series(batch.name, np.maximum(total, 0.0))

    return pl.struct(fields).map_batches(quadratic, return_dtype=pl.Float64, is_elementwise=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Spread:
    """Var(b | y) (r, r, G + 1) and ∂b̂/∂β (r, p, G + 1) of one factor; the last entry, −1, is that of unseen levels."""

    covariance: Cube
    slope: Cube

    def add(self, z: Sequence[Vec], codes: IntVec, a: Mat) -> Vec:
        """z'Var(b | y)z (n,); s'z is added to `a` (p, n), scratch of the caller."""
        total = np.zeros(len(codes))
        for j, zj in enumerate(z):
            for k, zk in enumerate(z[: j + 1]):
                total += (1.0 if j == k else 2.0) * zj * zk * self.covariance[j, k][codes]
            for i, slope in enumerate(self.slope[j]):
                a[i] += zj * slope[codes]
        return total


def _spread(factor: JoinedFactor, vcov: Mat) -> _Spread:
    estimate = factor.estimate
    r, n_levels = estimate.modes.shape
    slope = estimate.mode_slope
    if slope is None:
        if np.isfinite(vcov).any():
            msg = (
                "Standard errors of predictions given the random effects are not kept for as many levels as "
                f'{estimate.name!r} has ({n_levels}). random="none" gives those of the fixed part.'
            )
            raise ModelError(msg)
        slope = np.zeros((r, len(vcov), n_levels))  # there are no standard errors at all
    prior = block_diagonal(estimate.covariances)[:, :, None]
    return _Spread(
        np.concatenate([estimate.mode_covariance, prior], axis=2),
        np.concatenate([slope, np.zeros((r, len(vcov), 1))], axis=2),
    )


def block_diagonal(blocks: Sequence[Mat]) -> Mat:
    """Square matrices along the diagonal of one (r, r) matrix, zero elsewhere."""
    size = sum(len(block) for block in blocks)
    whole = np.zeros((size, size))
    start = 0
    for block in blocks:
        stop = start + len(block)
        whole[start:stop, start:stop] = block
        start = stop
    return whole
