"""The variance of a linear predictor, row by row: what is not known of the fixed effects and of the modes, together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError
from polars_glmm.prediction.between import Share, pair_spreads
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.effects import MODEL, JoinedFactor
from polars_glmm.prediction.members import SlotSpread, slot_codes, slot_spread

if TYPE_CHECKING:
    from polars_glmm.prediction.parameters import FixedPart, Freedom
    from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


VARIANCE, FREEDOM = f"{INTERNAL}variance", f"{INTERNAL}freedom"
ALONG = 1e-6
"""x'direction, of a direction that moves rows by about 1, that counts as zero."""
ROUNDING = 1e-9


Acting: TypeAlias = "tuple[Sequence[JoinedFactor], int]"
"""Factors with random effects on a linear predictor, and the place of that among those of the recipe."""


def variance(fixed: FixedPart, factors: Acting, missing: pl.Expr) -> pl.Expr:
    """Σ_fg z_f'Cov(b_f, b_g | y)z_g + a'Var(β̂)a, a = x + Σ_f s_f'z_f (Kass & Steffey 1989; Booth & Hobert 1998).

    s_f = ∂b̂_f/∂β: where β̂ moves, the modes move against it, so a level that was observed often pins down the sum of
    fixed and random effects better than either. An unseen level has s = 0, and Σ for Var(b | y). A coefficient without
    a variance, or a direction at infinity, spoils the rows that involve it and no others. `fixed`
    makes x and has Var(β̂); `missing` marks incomplete rows (any column that is there in every row would do: it gives
    the length). Of several fits the column MODEL says which answers for a row. Raises ModelError where the fit does
    not keep the slopes s.
    """
    fields, rows_of = _reader(fixed, factors, missing)

    def totals(batch: pl.Series) -> pl.Series:
        return pl.Series(batch.name, rows_of(batch).total)

    return pl.struct(fields).map_batches(totals, return_dtype=pl.Float64, is_elementwise=True)


def variance_with_freedom(fixed: FixedPart, factors: Acting, missing: pl.Expr) -> pl.Expr:
    """Struct of the variance v and of its degrees of freedom 2v²/(g'Ag) (Satterthwaite 1946; Fai & Cornelius 1996).

    g_k = a'(∂Var(β̂)/∂k)a over the covariance parameters k, A = their covariance matrix: for random="none" what a test
    of x'β has. What the modes add to v is given the parameters, and moves with none. inf: a normal distribution.
    """
    freedom = fixed.freedom
    assert freedom is not None  # asked for only where there is one
    fields, rows_of = _reader(fixed, factors, missing)

    def both(batch: pl.Series) -> pl.Series:
        rows = rows_of(batch)
        if freedom.known is not None:
            df = np.full(len(rows.total), freedom.known)
        else:
            with np.errstate(all="ignore"):
                df = 2.0 * rows.total**2 / _moving(rows.a, freedom, rows.model)
        columns = [pl.Series(VARIANCE, rows.total), pl.Series(FREEDOM, np.where(np.isfinite(df), df, np.inf))]
        return pl.DataFrame(columns).to_struct(batch.name)

    struct = pl.Struct({VARIANCE: pl.Float64, FREEDOM: pl.Float64})
    return pl.struct(fields).map_batches(both, return_dtype=struct, is_elementwise=True)


@dataclass(frozen=True, slots=True, eq=False)
class Moving:
    """Several predictors that one covariance matrix is of.

    parts       places of the predictors with formulas and their fixed parts, all with the variance of everything
    constants   places of the others, and where they stand in that variance
    """

    parts: Sequence[tuple[int, FixedPart]]
    constants: Mapping[int, int] = field(default_factory=dict)


def joint_variance(
    moving: Moving,
    factors: Sequence[JoinedFactor],
    slopes: tuple[pl.Expr, Callable[[pl.Series], dict[int, Vec]]],
    missing: pl.Expr,
) -> pl.Expr:
    """The variance of a function of several predictors, as `variance` has that of one: x and z times their slopes.

    slopes   what derivatives in the predictors are computed from, as a field, and how
    """
    (at, slopes_of), parts = slopes, moving.parts
    places, vcov, outward = [k for k, _ in parts], parts[0][1].vcov, parts[0][1].outward
    many = len(vcov) > 1
    directions = next((part.directions for _, part in parts if part.directions is not None), None)
    spreads = [_spread(factor, vcov, *places) for factor in factors]
    between = pair_spreads(factors, [factor.on(*places) for factor in factors], wanted=_some(vcov))
    fields = [missing.alias("rows"), at.alias("at")]
    if many:
        fields.append(pl.col(MODEL).alias("model"))
    for k, part in parts:
        fields += [node.to_expr().alias(f"x_{k}_{j}") for j, node in enumerate(part.nodes)]
    for i, factor in enumerate(factors):
        fields += _level_fields(factor, i)
        fields += [factor.nodes[k].to_expr().alias(f"z_{i}_{j}") for j, k in enumerate(factor.on(*places))]

    def totals(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        slope = slopes_of(rows["at"])
        a = np.zeros((vcov.shape[1], rows.height))
        model = rows["model"].to_numpy() if many else np.zeros(1, dtype=np.intp)
        for k, place in moving.constants.items():
            a[place] = slope[k]
        for k, part in parts:
            for j in range(len(part.nodes)):
                a[part.place + j] = slope[k] * rows[f"x_{k}_{j}"].to_numpy()
        total = np.zeros(rows.height)
        with np.errstate(invalid="ignore", over="ignore"):
            endless = _along(a, directions)
            shares = []
            for i, (factor, spread) in enumerate(zip(factors, spreads, strict=True)):
                owners = [factor.part_of[j] for j in factor.on(*places)]
                z = [slope[k] * rows[f"z_{i}_{j}"].to_numpy() for j, k in enumerate(owners)]
                total += spread.add(z, rows, (i, model), a)
                shares.append(spread.share(z, rows, i))
            total += sum(pair.twice(shares[i], shares[j]) for (i, j), pair in between.items())
            total += quadratic(a if outward is None else outward.T @ a, vcov, model)
        total[endless] = np.nan
        return pl.Series(batch.name, np.maximum(total, 0.0))

    return pl.struct(fields).map_batches(totals, return_dtype=pl.Float64, is_elementwise=True)


class _Rows(NamedTuple):
    """The variance of each row (n,), a (p, n) as in `variance`, and the fit of each row, (n,) or (1,)."""

    total: Vec
    a: Mat
    model: IntVec


def _reader(fixed: FixedPart, factors: Acting, missing: pl.Expr) -> tuple[list[pl.Expr], Callable[[pl.Series], _Rows]]:
    """What a batch of rows must hold, as fields of a struct, and what is computed from it."""
    fields, moved_of = movement(fixed, factors, missing)

    def rows_of(batch: pl.Series) -> _Rows:
        total, a, model, endless = moved_of(batch.struct.unnest())
        with np.errstate(invalid="ignore", over="ignore"):  # columns that are not finite give NaN
            if fixed.outward is not None:
                a = fixed.outward.T @ a
            total = total + quadratic(a, fixed.vcov, model)
        total[endless] = np.nan
        # the rounding of a singular vcov may fall below zero
        return _Rows(np.maximum(total, 0.0), a, model)

    return fields, rows_of


class Movement(NamedTuple):
    """How rows move: z'Var(b | y)z over all factors (n,), a (p, n) as in `variance`, the fit of each row, (n,) or (1,).

    endless   rows that a direction at infinity moves
    """

    random: Vec
    a: Mat
    model: IntVec
    endless: BoolVec


def movement(
    fixed: FixedPart, factors: Acting, missing: pl.Expr
) -> tuple[list[pl.Expr], Callable[[pl.DataFrame], Movement]]:
    """Fields that rows must hold, and how a linear predictor of theirs moves with the parameters."""
    nodes, vcov = fixed.nodes, fixed.vcov
    many, (acting, part) = len(vcov) > 1, factors
    spreads = [_spread(factor, vcov, part) for factor in acting]
    between = pair_spreads(acting, [factor.on(part) for factor in acting], wanted=_some(vcov))
    fields = [missing.alias("rows")]
    if many:
        fields.append(pl.col(MODEL).alias("model"))
    fields += [node.to_expr().alias(f"x_{j}") for j, node in enumerate(nodes)]
    for i, factor in enumerate(acting):
        fields += _level_fields(factor, i)
        fields += [factor.nodes[k].to_expr().alias(f"z_{i}_{j}") for j, k in enumerate(factor.on(part))]

    def moved_of(rows: pl.DataFrame) -> Movement:
        a = np.zeros((vcov.shape[1], rows.height))  # further parameters move rows through the modes alone
        model = rows["model"].to_numpy() if many else np.zeros(1, dtype=np.intp)
        for j in range(len(nodes)):
            a[fixed.place + j] = rows[f"x_{j}"].to_numpy()
        total = np.zeros(rows.height)
        with np.errstate(invalid="ignore", over="ignore"):  # columns that are not finite give NaN
            endless = _along(a, fixed.directions)
            shares = []
            for i, spread in enumerate(spreads):
                z = [rows[f"z_{i}_{j}"].to_numpy() for j in range(len(spread.covariance))]
                total += spread.add(z, rows, (i, model), a)
                shares.append(spread.share(z, rows, i))
            total += sum(pair.twice(shares[i], shares[j]) for (i, j), pair in between.items())
        return Movement(total, a, model, endless)

    return fields, moved_of


def _along(x: Mat, directions: Mat | None) -> BoolVec:
    """Rows x (p, n) that a direction at infinity (p, k) moves."""
    if directions is None:
        return np.zeros(x.shape[1], dtype=np.bool_)
    moved = np.abs(directions.T @ x)
    return np.asarray((moved > ALONG + ROUNDING * (np.abs(directions.T) @ np.abs(x))).any(0))


def _moving(a: Mat, freedom: Freedom, model: IntVec) -> Vec:
    """g'Ag (n,) with g_k = a'D_k a, for derivatives D (M, K, p, p) and A (M, K, K) of each row's fit."""
    derivative, parameters = freedom.derivative, freedom.parameters
    if len(derivative) == 1:
        g = np.array([np.einsum("pn,pn->n", a, d @ a) for d in derivative[0]])
        return np.asarray(np.einsum("kn,kn->n", g, parameters[0] @ g))
    g = np.zeros((derivative.shape[1], a.shape[1]))
    for j, aj in enumerate(a):
        for k, ak in enumerate(a[: j + 1]):
            g += (1.0 if j == k else 2.0) * aj * ak * derivative[:, :, j, k][model].T
    return np.asarray(np.einsum("kn,nkl,ln->n", g, parameters[model], g))


@dataclass(frozen=True, slots=True, eq=False)
class _Spread:
    """Var(b | y) (r, r, G + M) and ∂b̂/∂β (r, p, G + M) of one factor; the last M are those of unseen levels by fit."""

    covariance: Cube
    slope: Cube
    n_levels: int

    def share(self, z: Sequence[Vec], rows: pl.DataFrame, i: int) -> Share:
        """What rows have of the levels of the i-th factor: one each."""
        codes = rows[f"code_{i}"].to_numpy()
        return Share(z, codes[None], np.ones((1, len(codes))))

    def add(self, z: Sequence[Vec], rows: pl.DataFrame, place: tuple[int, IntVec], a: Mat) -> Vec:
        """z'Var(b | y)z (n,); s'z is added to `a` (p, n), scratch of the caller.

        place   number of the factor, and the fit of each row
        """
        i, model = place
        code = rows[f"code_{i}"].to_numpy()
        codes, total = np.where(code < 0, self.n_levels + model, code), np.zeros(len(code))
        for j, zj in enumerate(z):
            for k, zk in enumerate(z[: j + 1]):
                total += (1.0 if j == k else 2.0) * zj * zk * self.covariance[j, k][codes]
            for i, slope in enumerate(self.slope[j]):
                a[i] += zj * slope[codes]
        return total


def quadratic(a: Mat, vcov: Cube, model: IntVec) -> Vec:
    """a'Va (n,) for a (p, n), with V (M, p, p) of each row's fit; NaN only where an unknown one is involved."""
    if len(vcov) == 1:
        unknown = np.isnan(np.diag(vcov[0]))
        if not unknown.any():
            return np.asarray(np.einsum("pn,pn->n", a, vcov[0] @ a))
        known = np.where(np.isnan(vcov[0]), 0.0, vcov[0])
        value = np.einsum("pn,pn->n", a, known @ a)
        return np.where((a[unknown] != 0.0).any(0), np.nan, value)
    total = np.zeros(a.shape[1])
    for j, aj in enumerate(a):
        for k, ak in enumerate(a[: j + 1]):
            part = (1.0 if j == k else 2.0) * aj * ak * vcov[:, j, k][model]
            total += np.where((aj == 0.0) | (ak == 0.0), 0.0, part)
    return total


def _level_fields(factor: JoinedFactor, i: int) -> list[pl.Expr]:
    """What tells the level of a row, or the levels that it has and its shares of them."""
    if factor.recipe.members is not None:
        return slot_codes(factor, i)
    return [pl.col(factor.code).fill_null(-1).alias(f"code_{i}")]


def _spread(factor: JoinedFactor, vcov: Cube, *parts: int) -> _Spread | SlotSpread:
    if factor.recipe.members is not None:
        return slot_spread(factor, vcov, factor.on(*parts), block_diagonal(factor.covariances, len(factor.modes)))
    own, n_levels = factor.on(*parts), factor.modes.shape[1]
    r, slope = len(own), None if factor.mode_slope is None else factor.mode_slope[own]
    fits, p = vcov.shape[:2]
    if slope is None:
        if _some(vcov):
            msg = (
                "Standard errors of predictions given the random effects are not kept for as many levels as "
                f'{factor.recipe.name!r} has ({n_levels}). random="none" gives those of the fixed part.'
            )
            raise ModelError(msg)
        slope = np.zeros((r, p, n_levels))  # there are no standard errors at all
    unseen = block_diagonal(factor.covariances, len(factor.modes))
    return _Spread(
        np.concatenate([factor.mode_covariance, unseen], axis=2)[np.ix_(own, own)],
        np.concatenate([slope, np.zeros((r, p, fits))], axis=2),
        n_levels,
    )


def _some(vcov: Cube) -> bool:
    """Whether there are standard errors at all."""
    return bool(np.isfinite(vcov).any())


def block_diagonal(blocks: Sequence[Cube], r: int) -> Cube:
    """Square matrices (M, r_t, r_t) along the diagonals of (r, r, M), zero elsewhere."""
    whole = np.zeros((r, r, len(blocks[0])))
    start = 0
    for block in blocks:
        stop = start + block.shape[1]
        whole[start:stop, start:stop] = block.transpose(1, 2, 0)
        start = stop
    return whole
