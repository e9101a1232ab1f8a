"""Random effects on a common footing: distinct columns shared by all terms, and the map θ → effective factors.

Every column of every term is a combination of d distinct columns, z_f = T_f'z, so that row sums are taken once per
distinct product. T_f carries an internal change of basis that leaves each term's model untouched: the scale of every
column (θ is then in units of the linear predictor), centring where a mean is large against the spread, and for an
unstructured term, which any linear map of its columns leaves unstructured, their decorrelation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.linalg as sl

from polars_glmm.covariance.scaled import Scaled
from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.design.records import Factor
from polars_glmm.likelihood.parameters.parts import label
from polars_glmm.linalg.coupled import Prior, coupled
from polars_glmm.linalg.elimination import Eliminator, eliminator
from polars_glmm.linalg.membership import Membership, level_sums
from polars_glmm.linalg.pattern import Pattern
from polars_glmm.typing import IntVec, Mat, Vec

_DEPENDENT = 1e-10
"""Share of a column that must be its own for a term to be decorrelated."""
_LEAST_SHARE, _MOST_TIMES = 0.2, 1e3
"""Share of itself that a standard deviation keeps in one step of the covariances, and how many times it may become."""
NOTICEABLE = 0.1
"""Standard deviation from which a search may start: at zero the likelihood is flat in it."""
_FARTHEST_TURN = 0.5
"""Change of an angle in one step of the covariances."""
_SMALL_PIVOT = 1e-3
"""Share of the largest pivot of Λ below which relative steps mean nothing."""
_CONSTANT = 1e-14
"""Spread, as a share of the mean, that is rounding error of a column that does not vary."""
_LARGE_MEAN = 10.0  # |mean| / sd beyond which a column is centred


@dataclass(frozen=True, slots=True)
class TermMap:
    """Where one term lives: its rows start..stop of the factor's r effects, its slice of θ; whose its columns are."""

    start: int
    stop: int
    structure: str
    theta: slice
    names: tuple[str, ...]
    part_of: tuple[int, ...]
    parameter_of: tuple[str, ...]

    @property
    def r(self) -> int:
        return self.stop - self.start

    @property
    def labels(self) -> tuple[str, ...]:
        """Names that tell effects of several predictors apart."""
        return tuple(label(name, on) for name, on in zip(self.names, self.parameter_of, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class FactorMap:
    """One grouping factor: its basis T (d, r), the way back to its own columns, its terms, and place in the design.

    basis (d, r): working columns = basis'z, with unit mean square and, within an unstructured term, uncorrelated
    outward (r, r): b on the columns the user named = outward · b in the working columns; block diagonal over terms
    prior: how levels know each other, of effects in units of `size`, so that those of a usual level are near 1
    sets: of rows in several levels what they have of each; codes are then those of sets
    """

    name: str
    basis: Mat
    outward: Mat
    terms: tuple[TermMap, ...]
    n_levels: int
    codes: IntVec
    place: int
    prior: Prior | None = None
    size: float = 1.0
    sets: Membership | None = None

    @property
    def n_codes(self) -> int:
        """What rows are told apart by: levels, or sets of them."""
        return self.n_levels if self.sets is None else self.sets.n_sets

    @property
    def coupled(self) -> bool:
        """Whether its levels know each other, or share rows."""
        return self.prior is not None or self.sets is not None

    def level_sums(self, values: Vec) -> Vec:
        """Sums of values of rows (n,) over levels, by what each row has of them: (G,)."""
        return level_sums(self.codes, self.sets, values, self.n_levels)

    def square_sums(self, values: Vec | None) -> Vec:
        """The same by the squares of what each row has of them; None for ones."""
        return level_sums(self.codes, None if self.sets is None else self.sets.squared, values, self.n_levels)

    @property
    def r(self) -> int:
        return len(self.outward)


@dataclass(frozen=True, slots=True, eq=False)
class Effects:
    """All random effects of a model; factors in order of elimination (most levels first).

    columns (d, n) distinct columns in the order of the design's rows, or None for one column of ones
    part_of (d,)   the linear predictor that each of them belongs to
    units          per linear predictor a row's spread, which its effects are measured in; empty: they are not
    """

    factors: tuple[FactorMap, ...]
    columns: Mat | None
    n_theta: int
    part_of: tuple[int, ...] = (0,)
    units: tuple[float, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether effects are in units of a row's spread in their predictor."""
        return bool(self.units)

    @property
    def moving(self) -> tuple[int, ...]:
        """Linear predictors with random effects, in order."""
        return tuple(sorted(set(self.part_of)))

    @property
    def coupled(self) -> bool:
        """Whether levels of some factor know each other, or share rows."""
        return any(f.coupled for f in self.factors)

    @property
    def sets(self) -> tuple[Membership | None, ...]:
        """Per factor its sets, where rows have several levels."""
        return tuple(f.sets for f in self.factors)

    def eliminator(self, pattern: Pattern) -> Eliminator:
        """The elimination that suits a pattern of their levels."""
        return coupled(pattern, tuple(f.prior for f in self.factors)) if self.coupled else eliminator(pattern)

    @property
    def d(self) -> int:
        return 1 if self.columns is None else len(self.columns)

    def in_units(self, units: Sequence[float]) -> Effects:
        """The same effects, those of a predictor in units of its own: Λ of several predictors has one scale then."""
        maps = []
        for f in self.factors:
            size = np.array([units[k] for t in f.terms for k in t.part_of])
            maps.append(replace(f, basis=f.basis * size, outward=f.outward * size))
        return replace(self, factors=tuple(maps), units=tuple(units))

    def lambdas(self, theta: Vec) -> list[Mat]:
        """Scaled factors Λ_f (r_f, r_f), block diagonal over the terms of a factor."""
        return [
            _block_diagonal([STRUCTURES[t.structure].factor(theta[t.theta], t.r) for t in f.terms])
            for f in self.factors
        ]

    def effective(self, lambdas: list[Mat]) -> list[Mat]:
        """T_f Λ_f (d, r_f): from spherical effects to the coefficients of the distinct columns."""
        return [f.basis @ lam for f, lam in zip(self.factors, lambdas, strict=True)]

    def inward(self, effective_gradients: list[Mat]) -> list[Mat]:
        """∂ℓ/∂Λ_f (r_f, r_f) from ∂ℓ/∂(T_f Λ_f)."""
        return [f.basis.T @ g for f, g in zip(self.factors, effective_gradients, strict=True)]

    def pullback(self, theta: Vec, gradients: list[Mat]) -> Vec:
        """∂ℓ/∂θ at θ from ∂ℓ/∂Λ_f."""
        out = np.empty(self.n_theta)
        for f, gradient in zip(self.factors, gradients, strict=True):
            for t in f.terms:
                block = gradient[t.start : t.stop, t.start : t.stop]
                out[t.theta] = STRUCTURES[t.structure].pull(theta[t.theta], t.r, block)
        return out

    def along(self, theta: Vec, step: Vec) -> Vec:
        """θ after a step δ taken in the covariances: Σ = ΛΛ' + Λδ' + δΛ'.

        In Σ the likelihood is nearly quadratic, so that one scoring step from anywhere is near (the MINQUE estimate;
        Rao 1971); in Λ it halves the distance. No direction of Λ keeps less than a share of its size.
        """
        out = theta.copy()
        for f in self.factors:
            for t in f.terms:
                out[t.theta] = _along(t, theta[t.theta], step[t.theta])
        return out

    def times(self, theta: Vec, factor: float) -> Vec:
        """θ of factor · Λ."""
        out = factor * theta
        for f in self.factors:
            for t in f.terms:
                structure = STRUCTURES[t.structure]
                if isinstance(structure, Scaled):
                    out[t.theta] = structure.times(theta[t.theta], t.r, factor)
        return out

    def apart(self, theta: Vec) -> Vec:
        """θ of independent effects with the same standard deviations, none of them next to nothing."""
        out = np.zeros(self.n_theta)
        for f, lam in zip(self.factors, self.lambdas(theta), strict=True):
            for t in f.terms:
                sizes = np.linalg.norm(lam[t.start : t.stop, t.start : t.stop], axis=1)
                out[t.theta] = STRUCTURES[t.structure].start(t.r, np.maximum(sizes, NOTICEABLE))
        return out

    def start(self, size: float = 1.0) -> Vec:
        """θ with Λ = size · I, or as near as may be: every variance away from the stationary point at zero."""
        theta = np.zeros(self.n_theta)
        for f in self.factors:
            for t in f.terms:
                theta[t.theta] = STRUCTURES[t.structure].start(t.r, np.full(t.r, size))
        return theta


def _along(t: TermMap, theta: Vec, step: Vec) -> Vec:
    """One term of Effects.along; where Λ is nearly singular θ + δ, no entry by more than the largest pivot."""
    structure = STRUCTURES[t.structure]
    if isinstance(structure, Scaled):
        k = structure.scales(t.r)
        turned = theta[k:] + np.clip(step[k:], -_FARTHEST_TURN, _FARTHEST_TURN)
        return np.concatenate([_multiplied(theta[:k], step[:k], 4.0 if structure.squared else 2.0), turned])
    if not structure.correlated or t.r == 1:
        return _multiplied(theta, step)
    factor, change = structure.factor(theta, t.r), structure.factor(step, t.r)
    pivots = np.abs(np.diag(factor))
    if pivots.min() <= _SMALL_PIVOT * pivots.max():
        return theta + step * min(1.0, float(pivots.max() / max(np.abs(step).max(), 1e-300)))
    relative = sl.solve_triangular(factor, change, lower=True)
    values, vectors = np.linalg.eigh(np.eye(t.r) + relative + relative.T)
    moved = (vectors * np.clip(values, _LEAST_SHARE**2, _MOST_TIMES**2)) @ vectors.T
    return np.asarray((factor @ np.linalg.cholesky(moved))[structure.entries(t.r)])


def _multiplied(theta: Vec, step: Vec, power: float = 2.0) -> Vec:
    """Standard deviations, or roots of them, after a step in the variances, their powers."""
    relative = 1.0 + power * step / np.where(theta == 0.0, 1.0, theta)
    times = np.clip(relative, _LEAST_SHARE**2, _MOST_TIMES**2) ** (1.0 / power)
    return np.where(theta == 0.0, step, theta * times)


def _block_diagonal(blocks: list[Mat]) -> Mat:
    if len(blocks) == 1:
        return blocks[0]
    r = sum(len(b) for b in blocks)
    out = np.zeros((r, r))
    start = 0
    for b in blocks:
        out[start : start + len(b), start : start + len(b)] = b
        start += len(b)
    return out


def map_effects(factors: tuple[Factor, ...], n_rows: int) -> Effects:
    """The random effects of a design, factors by falling number of levels."""
    if not factors:
        return Effects((), None, 0)
    distinct: list[Vec] = []
    parts: list[int] = []
    uses: list[list[int]] = []
    for factor in factors:
        use = []
        for column, part in zip(factor.z, factor.part_of, strict=True):
            alike = (i for i, other in enumerate(distinct) if parts[i] == part and np.array_equal(other, column))
            found = next(alike, None)
            if found is None:
                found = len(distinct)
                distinct.append(column)
                parts.append(part)
            use.append(found)
        uses.append(use)
    if len(distinct) == 1 and bool((distinct[0] == 1.0).all()):
        return assemble(factors, uses, np.eye(1), None, np.eye(1), (parts[0],))
    means, spreads = np.array([c.mean() for c in distinct]), np.array([c.std() for c in distinct])
    working = working_columns(means, spreads, parts)
    columns = working.made(distinct, n_rows)
    gram = columns @ columns.T / columns.shape[1]
    return assemble(factors, uses, working.transfer, columns, root_of(gram, working.part_of), working.part_of)


def assemble(
    factors: tuple[Factor, ...],
    uses: list[list[int]],
    transfer: Mat,
    columns: Mat | None,
    root: Mat,
    part_of: tuple[int, ...],
) -> Effects:
    """The maps of all factors; uses[f] are its distinct columns, root'root the mean zz' of the working columns."""
    sizes, theta = [], 0
    for factor in factors:
        terms = []
        for t in factor.terms:
            size = STRUCTURES[t.structure].size(t.stop - t.start)
            own = slice(theta, theta + size)
            terms.append(TermMap(t.start, t.stop, t.structure, own, t.names, t.part_of, t.parameter_of))
            theta += size
        sizes.append(tuple(terms))
    maps = []
    for place, (factor, use) in enumerate(zip(factors, uses, strict=True)):
        basis, outward = _working(transfer[:, use], root, sizes[place])
        codes, prior, unit = factor.codes.astype(np.intp, copy=False), factor.prior, 1.0
        if prior is not None:
            unit = prior.size
            prior, outward = prior.in_units(unit), outward / unit
        made = FactorMap(factor.name, basis, outward, sizes[place], factor.n_levels, codes, place, prior, unit)
        maps.append(made if factor.sets is None else replace(made, sets=factor.sets))
    maps.sort(key=lambda f: -f.n_levels)
    return Effects(tuple(maps), columns, theta, part_of)


def root_of(gram: Mat, part_of: Sequence[int]) -> Mat:
    """R (d, d) with R'R = gram, in which columns of different predictors do not meet."""
    own = np.asarray(part_of)
    gram = np.where(own[:, None] == own, gram, 0.0)
    values, vectors = np.linalg.eigh(gram)
    return np.asarray((np.sqrt(np.maximum(values, 0.0)) * vectors).T)


def _working(transfer: Mat, root: Mat, terms: tuple[TermMap, ...]) -> tuple[Mat, Mat]:
    """Basis and outward map of one factor, term by term."""
    r = transfer.shape[1]
    basis, outward = np.empty_like(transfer), np.zeros((r, r))
    for t in terms:
        own = slice(t.start, t.stop)
        sizes = np.linalg.norm(root @ transfer[:, own], axis=0)
        sizes[sizes == 0.0] = 1.0
        if not STRUCTURES[t.structure].free_scale:
            sizes[:] = np.sqrt(np.mean(sizes**2))
        inverse = np.diag(1.0 / sizes)
        if STRUCTURES[t.structure].invariant and t.r > 1:
            triangle = np.asarray(np.linalg.qr(root @ transfer[:, own], mode="r"))
            triangle = triangle * np.where(np.diag(triangle) < 0, -1.0, 1.0)[:, None]
            if len(triangle) == t.r and np.diag(triangle).min() > _DEPENDENT * sizes.min():
                inverse = sl.solve_triangular(triangle, np.eye(t.r))
        outward[own, own] = inverse
        basis[:, own] = transfer[:, own] @ inverse
    return basis, outward


class WorkingBasis(NamedTuple):
    """How distinct columns become the ones for computing.

    transfer (d, k)   distinct = transfer'working
    sources           per working column the distinct one it is made of and what is taken from that; −1: ones
    part_of           per working column the linear predictor it belongs to
    """

    transfer: Mat
    sources: tuple[tuple[int, float], ...]
    part_of: tuple[int, ...]

    def made(self, distinct: Sequence[Vec], n_rows: int) -> Mat:
        """The working columns (d, n)."""
        columns = [
            np.ones(n_rows) if k < 0 else distinct[k] - shift if shift else distinct[k] for k, shift in self.sources
        ]
        return np.ascontiguousarray(np.array(columns))


def working_columns(means: Vec, spreads: Vec, parts: Sequence[int]) -> WorkingBasis:
    """Ones first where present or needed; a column whose mean is large against its spread is centred.

    Predictor by predictor: a column is centred on ones of its own.
    """
    spreads = np.where(spreads <= _CONSTANT * np.abs(means), 0.0, spreads)
    is_constant = (spreads == 0.0) & (means != 0.0)
    shift = np.where((np.abs(means) > _LARGE_MEAN * spreads) & (spreads > 0.0), means, 0.0)
    sources: list[tuple[int, float]] = []
    owners: list[int] = []
    weights: list[tuple[int, int, float]] = []
    for part in sorted(set(parts)):
        own = [k for k, other in enumerate(parts) if other == part]
        ones = len(sources)
        if any(is_constant[k] or shift[k] for k in own):
            sources.append((-1, 0.0))
            owners.append(part)
        for k in own:
            if is_constant[k]:
                weights.append((ones, k, float(means[k])))
                continue
            weights.append((len(sources), k, 1.0))
            if shift[k]:
                weights.append((ones, k, float(shift[k])))
            sources.append((k, float(shift[k])))
            owners.append(part)
    transfer = np.zeros((len(sources), len(means)))
    for row, column, weight in weights:
        transfer[row, column] = weight
    return WorkingBasis(transfer, tuple(sources), tuple(owners))
