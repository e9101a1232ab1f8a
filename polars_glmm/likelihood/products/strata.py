"""Gaussian models with few residual variances: cross-products per stratum, a stratum being the rows of one log phi.

With w_k = exp(−2 log phi_k) the products of all rows are Σ_k w_k · (products of stratum k), so that the pieces of
likelihood.products.profile at absolute factors, σ = 1, are those of the model:

    −2ℓ = log|H| [+ log|M|] + ν log 2π + Σ_k 2 n_k log phi_k + rss
    ∂(−2ℓ)/∂log phi_k = 2 n_k − 2 w_k { tr(H⁻¹Λ'Z_k'Z_kΛ) [+ tr(M⁻¹R_k,xx)] + c'R_k c }

with R_k = (W_k − Z_kΛB)'(W_k − Z_kΛB), because B is the least-squares fit of W = [X y], so that the derivative of
W'V⁻¹W in w_k is R_k with B where it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from polars_glmm.design.records import Design
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.optimum.vanishing import distinct_columns
from polars_glmm.likelihood.parameters.basis import Basis, plain
from polars_glmm.likelihood.parameters.effects import Effects, FactorMap
from polars_glmm.likelihood.parameters.parts import mean_alone
from polars_glmm.likelihood.products.absolute import AbsolutePoint
from polars_glmm.likelihood.products.cross import CrossProducts
from polars_glmm.likelihood.products.profile import Profile, profile, vcov_derivatives
from polars_glmm.likelihood.rows.blocks import cut_rows
from polars_glmm.linalg.columns import stretches
from polars_glmm.linalg.elimination import Eliminator
from polars_glmm.linalg.pattern import Blocks, Pattern, find_pattern, sum_by, times
from polars_glmm.linalg.scaling import trace_blocks
from polars_glmm.typing import Cube, IntVec, Mat, Vec

_LEAST = float(np.log(1e-6))
"""log of the share of the response's spread below which a residual sd has no digits left in differences of sums."""


class LostDigits(Exception):  # noqa: N818  # never seen outside
    """A residual variance is so small that its sums are rounding error."""


class Stratum(NamedTuple):
    """Products of the rows of one stratum, as in CrossProducts, on the pattern of all rows; n = Σ frequency."""

    zz: Blocks
    zw: list[Cube]
    ww: Mat
    n: int


@dataclass(frozen=True, slots=True, eq=False)
class Strata:
    """Cross-products per stratum.

    x_phi (K, s), offset (K,)   log phi = x_phi γ + offset, in the computing basis
    log_weights, y_shift        as in CrossProducts
    """

    parts: tuple[Stratum, ...]
    x_phi: Mat
    offset: Vec
    pattern: Pattern | None
    eliminator: Eliminator | None
    log_weights: float
    y_shift: float

    @property
    def n(self) -> int:
        return sum(part.n for part in self.parts)

    @property
    def least(self) -> float:
        """log phi below which differences of sums tell nothing."""
        spread = sum(float(part.ww[-1, -1]) for part in self.parts) / max(self.n, 1)
        return _LEAST + 0.5 * float(np.log(max(spread, 1e-300)))

    def weighted(self, w: Vec) -> CrossProducts:
        """The products of all rows, those of stratum k times w_k."""
        first = self.parts[0]

        def total(arrays: Iterable[Cube]) -> Cube:
            return np.asarray(sum(a * array for a, array in zip(w.tolist(), arrays, strict=True)))

        zz = Blocks(
            [total(part.zz.diagonal[f] for part in self.parts) for f in range(len(first.zz.diagonal))],
            {at: total(part.zz.cross[at] for part in self.parts) for at in first.zz.cross},
        )
        zw = [total(part.zw[f] for part in self.parts) for f in range(len(first.zw))]
        ww = total(part.ww for part in self.parts)
        return CrossProducts(self.pattern, self.eliminator, zz, zw, ww, self.n, self.log_weights, self.y_shift)


class StratumRest(NamedTuple):
    """What a fit leaves of a stratum: R_k (p+1, p+1), and the freedom that random effects take, tr(H⁻¹Λ'Z_k'Z_kΛ)."""

    r: Mat
    taken: float


@dataclass(slots=True, eq=False)
class StrataEngine:
    """Exact gaussian ML or REML over absolute factors and γ. Counts its work."""

    effects: Effects
    strata: Strata
    reml: bool
    p: int
    evaluations: int = 0

    @property
    def nu(self) -> int:
        return self.strata.n - (self.p if self.reml else 0)

    @property
    def y_shift(self) -> float:
        return self.strata.y_shift

    @property
    def log_weights(self) -> float:
        return self.strata.log_weights

    def log_phi(self, gamma: Vec) -> Vec:
        return self.strata.x_phi @ gamma + self.strata.offset

    def pieces(self, factors: list[Mat], gamma: Vec, *, gradient: bool = True) -> Profile | None:
        self.evaluations += 1
        stats = self.strata.weighted(np.exp(-2.0 * self.log_phi(gamma)))
        found = profile(stats, self.effects.effective(factors), gradient=gradient)
        return found if found is not None and np.isfinite(found.rss) else None

    def minus_two(self, pieces: Profile, gamma: Vec) -> float:
        """−2ℓ in the computing basis."""
        counts = np.array([part.n for part in self.strata.parts])
        log_m = pieces.log_m if self.reml else 0.0
        size = self.nu * np.log(2.0 * np.pi) + 2.0 * float(counts @ self.log_phi(gamma))
        return float(pieces.log_h + log_m + size + pieces.rss)

    def point(self, factors: list[Mat], gamma: Vec) -> AbsolutePoint:
        """−ℓ with its gradient."""
        log_phi = self.log_phi(gamma)
        if float(log_phi.min()) < self.strata.least:
            raise LostDigits
        counts = np.array([part.n for part in self.strata.parts])
        noise = float(np.exp(counts @ log_phi / counts.sum()))
        with np.errstate(all="ignore"):
            pieces = self.pieces(factors, gamma)
            if pieces is None:
                return AbsolutePoint(
                    np.inf, [np.zeros_like(f) for f in factors], np.zeros_like(gamma), None, np.empty(0), noise
                )
            c, w = np.append(-pieces.beta, 1.0), np.exp(-2.0 * log_phi)
            slopes = np.empty(len(counts))
            for k, left in enumerate(self.remainders(pieces, factors)):
                spent = left.taken + float(c @ left.r @ c)
                if self.reml:
                    spent += float(np.vdot(pieces.m_inverse, left.r[: self.p, : self.p]))
                slopes[k] = counts[k] - w[k] * spent
            total = [
                h + (m if self.reml else 0.0) + r
                for h, m, r in zip(pieces.d_log_h, pieces.d_log_m, pieces.d_rss, strict=True)
            ]
            inner = [0.5 * g for g in self.effects.inward(total)]
        return AbsolutePoint(
            0.5 * self.minus_two(pieces, gamma), inner, self.strata.x_phi.T @ slopes, pieces, pieces.beta, noise
        )

    def remainders(self, pieces: Profile, factors: list[Mat]) -> list[StratumRest]:
        """Per stratum what the fit leaves, and takes, of it."""
        parts = self.strata.parts
        if pieces.h is None:
            return [StratumRest(part.ww, 0.0) for part in parts]
        effective = self.effects.effective(factors)
        inverse = pieces.h.inverse()
        fitted = [np.einsum("dr,rwG->dwG", lam, b) for lam, b in zip(effective, pieces.b, strict=True)]
        found = []
        for part in parts:
            r = part.ww.copy()
            for own, zw, through in zip(fitted, part.zw, times(part.zz, self.strata.pattern, fitted), strict=True):
                cross = np.tensordot(own, zw, ((0, 2), (0, 2)))
                r += np.tensordot(own, through, ((0, 2), (0, 2))) - cross - cross.T
            traces = trace_blocks(part.zz, effective, inverse)
            found.append(StratumRest(r, sum(float(np.vdot(lam, t)) for lam, t in zip(effective, traces, strict=True))))
        return found

    def gamma_information(self, gamma: Vec) -> Mat:  # noqa: ARG002  the same everywhere
        counts = np.array([float(part.n) for part in self.strata.parts])
        x = self.strata.x_phi
        return np.asarray(2.0 * (x.T * counts) @ x)

    def vcov_slopes(self, pieces: Profile, factors: list[Mat], gamma: Vec) -> tuple[list[Mat], Cube]:
        """∂M⁻¹/∂Λ per factor (r_f, r_f, p, p), and ∂M⁻¹/∂γ (s, p, p) = 2 M⁻¹ (Σ_k x_k w_k R_k) M⁻¹."""
        by_factor = [
            np.tensordot(f.basis.T, change, 1)
            for f, change in zip(self.effects.factors, vcov_derivatives(pieces), strict=True)
        ]
        w, p = np.exp(-2.0 * self.log_phi(gamma)), self.p
        inner = np.array([left.r[:p, :p] for left in self.remainders(pieces, factors)])
        by_phi = np.tensordot(self.strata.x_phi.T * w, inner, 1)
        return by_factor, 2.0 * pieces.m_inverse @ by_phi @ pieces.m_inverse


def strata_of(model: Model) -> Strata | None:
    """The products of a model's rows per stratum; None where there are more residual variances than that pays for."""
    design = model.held_in_memory()
    assert design.phi is not None
    offset = np.zeros(design.n_rows) if design.phi.offset is None else design.phi.offset
    values = np.vstack([design.phi.x, offset])
    found = distinct_columns(values)
    if found is None:
        return None
    places, codes = found
    x_phi = np.ascontiguousarray(model.bases[1].columns(places).T)
    return _summed(design, model.x, model.effects, (codes, len(places)), (x_phi, offset[places]))


def _summed(design: Design, basis: Basis, effects: Effects, strata: tuple[IntVec, int], phi: tuple[Mat, Vec]) -> Strata:
    codes, n_strata = strata
    weights = np.ones(design.n_rows) if design.precision is None else design.precision
    times_each = np.ones(design.n_rows) if design.frequency is None else design.frequency
    log_weights = float((times_each * np.log(weights)).sum())
    weights = weights * times_each
    y = design.y if design.mu.offset is None else design.y - design.mu.offset
    shift = float(y.mean()) if basis.constant is not None else 0.0
    w = np.empty((len(basis.a) + 1, design.n_rows))
    for part in stretches(design.n_rows):
        w[:-1, part] = basis.columns(part)
    w[-1] = y - shift
    counts = np.bincount(codes, times_each, n_strata)
    ww = []
    for k in range(n_strata):
        own = np.flatnonzero(codes == k)
        ww.append((w[:, own] * weights[own]) @ w[:, own].T)
    parts = [Stratum(Blocks([], {}), [], products, round(n)) for products, n in zip(ww, counts, strict=True)]
    if not effects.factors:
        return Strata(tuple(parts), *phi, None, None, log_weights, shift)
    pattern, zz, zw = _over_levels(design, w, weights, effects, codes, n_strata)
    parts = [part._replace(zz=a, zw=b) for part, a, b in zip(parts, zz, zw, strict=True)]
    return Strata(tuple(parts), *phi, pattern, effects.eliminator(pattern), log_weights, shift)


def _over_levels(
    design: Design, w: Mat, weights: Vec, effects: Effects, codes: IntVec, n_strata: int
) -> tuple[Pattern, list[Blocks], list[list[Cube]]]:
    """Z'Z and Z'W over levels and meeting pairs, per stratum: cells are runs of rows of one level and one stratum."""
    own = FactorMap("", np.empty((0, 0)), np.empty((0, 0)), (), n_strata, codes, -1)
    rows = cut_rows(
        design, mean_alone((), plain(w)), replace(effects, factors=(*effects.factors, own)), design.n_rows
    )
    order = np.arange(design.n_rows) if rows.order is None else rows.order
    zz_parts, zw_parts, first = [], [], []
    for unit in rows.units:
        for block in unit.blocks:
            sorted_weights = weights[order[block.rows]]
            zz_parts.append(block.zz_sums({(0, 0): sorted_weights}))
            zw_parts.append(block.z_sums([block.x * sorted_weights]))
            first.append(order[block.rows.start + block.starts])
    zz, zw, places = np.concatenate(zz_parts, axis=-1), np.concatenate(zw_parts, axis=-1), np.concatenate(first)
    of_cell = tuple(f.codes[places] for f in effects.factors)
    pattern = find_pattern(of_cell, tuple(f.n_levels for f in effects.factors), tuple(f.r for f in effects.factors))
    blocks, right = [], []
    for k in range(n_strata):
        cells = np.flatnonzero(codes[places] == k)
        own_zz, own_zw, levels = zz[..., cells], zw[..., cells], [c[cells] for c in of_cell]
        diagonal = [sum_by(c, own_zz, n) for c, n in zip(levels, pattern.n_levels, strict=True)]
        cross = {
            at: sum_by(cells if pair.of_cell is None else pair.of_cell[cells], own_zz, len(pair.left))
            for at, pair in pattern.pairs.items()
        }
        blocks.append(Blocks(diagonal, cross))
        right.append([sum_by(c, own_zw, n) for c, n in zip(levels, pattern.n_levels, strict=True)])
    return pattern, blocks, right
