"""Many models made ready for computing: bases per model, rows in blocks, and which of them are out of the ordinary.

The bases are those of parameters.basis and parameters.effects, model by model. A model that needs a second look (an
unusual basis, a structure that the data cannot determine) is marked and left to the single fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.design.by_key.records import KeyedDesign, starts
from polars_glmm.design.records import Term
from polars_glmm.families.base import Family
from polars_glmm.likelihood.identify import LONE_SHARE, RANK_TOLERANCE
from polars_glmm.likelihood.many.rows import BatchCodes, BatchRows
from polars_glmm.linalg.pattern import Pattern, gather_blocks
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec

_SPAN_TOLERANCE = 1e-7
"""A constant that the columns of a model come this near without the others doing so is left to the single fit."""
_DEPENDENT = 1e-8
"""Pivot of decorrelated random columns, in units of their size, below which the single fit decides."""
_LARGE_MEAN = 1e4
"""Mean of a random column, in its standard deviations, beyond which the single fit, which centres, decides."""


class BatchFactor(NamedTuple):
    """A grouping factor: its name, its place in the order of elimination, its rows of Λ, and its terms."""

    name: str
    place: int
    own: slice
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True, eq=False)
class BatchModel:
    """Models ready for computing.

    a (M, p, p)        working fixed columns = a · x; constant (p,) with constant'x = 1 in every model, or None
    terms              of all factors one after the other, in the order of elimination; factors: the rows of each
    outward (M, r, r)  b on the columns the user named = outward · b on the working columns, of all factors
    regular (M,)       models that the batch can answer for
    lone (M,)          models with one Bernoulli trial in most of their levels
    named              the factors in the order of the formula
    """

    rows: BatchRows
    terms: tuple[Term, ...]
    a: Cube
    constant: Vec | None
    outward: Cube
    regular: BoolVec
    lone: BoolVec
    factors: tuple[slice, ...] = ()
    named: tuple[BatchFactor, ...] = ()

    @property
    def in_formula(self) -> tuple[Term, ...]:
        """The terms in the order of the formula."""
        return tuple(term for factor in self.named for term in factor.terms)

    @property
    def level_counts(self) -> tuple[IntVec, ...]:
        """How many levels of every factor of the formula each model has (M,)."""
        counts = [self.rows.model_levels, *(one.model_levels for one in self.rows.others)]
        return tuple(counts[factor.place] for factor in self.named)

    def of_formula(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """Ranks by term, in the order of the formula from that of elimination."""
        own = {t.start: rank for t, rank in zip(self.terms, ranks, strict=True)}
        return tuple(own[t.start] for t in self.in_formula)

    def take(self, keep: BoolVec) -> BatchModel:
        if keep.all():
            return self
        return BatchModel(
            self.rows.take(keep), self.terms, self.a[keep], self.constant, self.outward[keep], self.regular[keep],
            self.lone[keep], self.factors, self.named,
        )  # fmt: skip


def prepare_batch(design: KeyedDesign, family: Family) -> BatchModel:
    """The models of a keyed design; `gaussian` structures are judged as likelihood.identify does."""
    first = starts(design.model_rows)
    n = design.model_rows.astype(float)

    def per_row(v: Mat) -> Mat:
        return np.repeat(v, design.model_rows, axis=-1)

    def mean(v: Mat) -> Mat:
        return np.asarray(np.add.reduceat(v, first, axis=-1) / n)

    constant = _constant(design.x)
    regular = np.ones(design.n_models, dtype=bool)
    if constant is None and len(design.x):
        regular &= ~_own_constant(design.x, mean)
    a, x = _centred(design.x, constant, per_row, mean)
    effects = _Effects.none(design.n_models)
    if design.z is not None:
        effects = _effects(design, per_row, mean)
        regular &= effects.usual
    others = tuple(BatchCodes(one.codes, one.model_levels) for one in design.others)
    rows = BatchRows(
        design.rows, design.frequency, design.offset, x, effects.z,
        design.model_rows, design.model_levels, design.level_rows, constant_phi=family.has_phi,
        others=others, uses=effects.uses if others else (),
    )  # fmt: skip
    fine, lone = _identified(rows, design, family)
    return BatchModel(
        rows, effects.terms, a, constant, effects.outward, regular & fine, lone, effects.factors,
        _named(design, effects),
    )  # fmt: skip


def _named(design: KeyedDesign, effects: _Effects) -> tuple[BatchFactor, ...]:
    """The factors in the order of the formula."""
    if design.group is None:
        return ()
    names, found = design.groups, []
    for f in design.in_formula:
        own = effects.factors[f]
        terms = tuple(t for t in effects.terms if own.start <= t.start < own.stop)
        found.append(BatchFactor(names[f], f, own, terms))
    return tuple(found)


class _Effects(NamedTuple):
    """Random effects of all factors: terms one after the other, outward (M, r, r), working columns or None for ones.

    factors   the effects of each;  uses: its columns among those of z;  usual (M,) models that need no second look
    """

    terms: tuple[Term, ...]
    outward: Cube
    z: Mat | None
    factors: tuple[slice, ...]
    uses: tuple[tuple[int, ...], ...]
    usual: BoolVec

    @classmethod
    def none(cls, n_models: int) -> _Effects:
        return cls((), np.ones((n_models, 0, 0)), None, (), (), np.ones(n_models, dtype=bool))


def _effects(design: KeyedDesign, per_row, mean) -> _Effects:  # type: ignore[no-untyped-def]
    """The working columns of all factors, those that are alike once."""
    assert design.z is not None  # there are random effects
    every = [(design.terms, design.z), *((one.terms, one.z) for one in design.others)]
    made = [_working(z, terms, per_row, mean) for terms, z in every]
    if len(made) == 1:
        outward, z, usual = made[0]
        own = slice(0, len(design.z))
        return _Effects(design.terms, outward, z, (own,), (tuple(range(own.stop)),), usual)
    ones = np.ones((1, len(design.y)))
    distinct: list[Vec] = []
    terms: list[Term] = []
    factors, uses = [], []
    usual, start = np.ones(design.n_models, dtype=bool), 0
    for (own_terms, raw), (_, z, fine) in zip(every, made, strict=True):
        usual &= fine
        use = []
        for column in ones if z is None else z:
            found = next((i for i, other in enumerate(distinct) if np.array_equal(other, column)), len(distinct))
            if found == len(distinct):
                distinct.append(column)
            use.append(found)
        uses.append(tuple(use))
        terms += [replace(t, start=t.start + start, stop=t.stop + start) for t in own_terms]
        factors.append(slice(start, start + len(raw)))
        start += len(raw)
    whole = np.zeros((design.n_models, start, start))
    for own, (outward, _, _) in zip(factors, made, strict=True):
        whole[:, own, own] = outward
    plain = len(distinct) == 1 and bool((distinct[0] == 1.0).all())
    return _Effects(tuple(terms), whole, None if plain else np.array(distinct), tuple(factors), tuple(uses), usual)


def _constant(x: Mat) -> Vec | None:
    """Weights that make the constant from the columns of all models alike."""
    p = len(x)
    for j in range(p):
        if x[j, 0] == 1.0 and x[j, -1] == 1.0 and (x[j] == 1.0).all():
            return np.asarray(np.eye(p)[j])
    if not p:
        return None
    weights: Vec = np.asarray(np.linalg.lstsq(x @ x.T, x.sum(1), rcond=None)[0])
    weights[np.abs(weights) < 1e-9] = 0.0
    return weights if bool((np.abs(weights @ x - 1.0) < 1e-9).all()) else None


def _own_constant(x: Mat, mean) -> BoolVec:  # type: ignore[no-untyped-def]  # a closure over the models
    """Models whose own columns make a constant that the columns of all models together do not."""
    p = len(x)
    gram = np.array([[mean(x[i] * x[j]) for j in range(p)] for i in range(p)]).transpose(2, 0, 1)
    sums = mean(x).T
    share = np.einsum("mp,mp->m", sums, np.linalg.solve(gram, sums[..., None])[..., 0])
    return np.asarray(~(share < 1.0 - _SPAN_TOLERANCE))


def _centred(x: Mat, constant: Vec | None, per_row, mean) -> tuple[Cube, Mat]:  # type: ignore[no-untyped-def]
    """parameters.basis.centred of every model: a (M, p, p) and the working columns (p, n)."""
    p = len(x)
    if not p:
        return np.zeros((len(mean(np.ones((1, x.shape[1])))[0]), 0, 0)), x
    n_models = mean(x).shape[1]
    a = np.tile(np.eye(p), (n_models, 1, 1))
    columns = x
    if constant is not None:
        means = mean(x)
        means[constant != 0.0] = 0.0
        a -= means.T[:, :, None] * constant
        columns = np.array([c - per_row(m) if m.any() else c for c, m in zip(x, means, strict=True)])
    out = np.empty_like(columns)
    for j, column in enumerate(columns):
        if constant is not None and constant[j] == 1.0 and (column[0] == 1.0 and (column == 1.0).all()):
            out[j] = column
            continue
        scale = np.sqrt(mean(column * column))
        scale[scale == 0.0] = 1.0
        out[j] = column / per_row(scale)
        a[:, j] /= scale[:, None]
    return a, out


def _working(z: Mat, terms: tuple[Term, ...], per_row, mean) -> tuple[Cube, Mat | None, BoolVec]:  # type: ignore[no-untyped-def]
    """parameters.effects.map_effects of every model: outward (M, r, r), working columns (None: ones), who is usual."""
    r = len(z)
    n_models = mean(z).shape[1]
    usual = np.ones(n_models, dtype=bool)
    if r == 1 and bool((z == 1.0).all()):
        return np.ones((n_models, 1, 1)), None, usual
    centre, square = mean(z), np.array([mean(c * c) for c in z])
    spread = np.sqrt(np.maximum(square - centre**2, 0.0))
    flat = spread <= 1e-7 * np.abs(centre)
    usual &= (flat | (np.abs(centre) <= _LARGE_MEAN * spread)).all(0)
    outward = np.zeros((n_models, r, r))
    for t in terms:
        own = slice(t.start, t.stop)
        size = np.sqrt(square[own])
        usual &= (size > 0.0).all(0)
        size[size == 0.0] = 1.0
        if STRUCTURES[t.structure].correlated and t.stop - t.start > 1:
            inverse, fine = _decorrelated(z[own], size, mean)
            outward[:, own, own] = inverse
            usual &= fine
        else:
            places = np.arange(t.start, t.stop)
            outward[:, places, places] = (1.0 / size).T
    working = np.zeros_like(z)
    for j in range(r):
        for k in range(r):
            weight = outward[:, k, j]
            if weight.any():
                working[j] += z[k] if (weight == 1.0).all() else per_row(weight) * z[k]
    return outward, working, usual


def _decorrelated(z: Mat, size: Mat, mean) -> tuple[Cube, BoolVec]:  # type: ignore[no-untyped-def]
    """R⁻¹ of every model, with R'R = the mean of zz', R upper triangular; and where its pivots are comfortable."""
    r = len(z)
    gram = np.array([[mean(z[i] * z[j]) for j in range(r)] for i in range(r)])
    scaled = (gram / (size[:, None] * size[None])).transpose(2, 0, 1)
    eye = np.eye(r)
    fine = np.linalg.eigvalsh(scaled)[:, 0] > _DEPENDENT
    low = np.linalg.cholesky(np.where(fine[:, None, None], scaled, eye))
    inverse = np.linalg.inv(low).swapaxes(1, 2)
    return inverse / size.T[:, :, None], fine


def _identified(rows: BatchRows, design: KeyedDesign, family: Family) -> tuple[BoolVec, BoolVec]:
    """Models that likelihood.identify has no note about, and those with one trial in most levels."""
    n, p, r = rows.observations(), len(design.x), 0 if design.z is None else len(design.z)
    fine = np.asarray(~((n <= p) & family.has_phi))
    lone = np.zeros(len(n), dtype=bool)
    if design.z is None:
        return fine, lone
    for levels, own in zip(design.counts, [r, *(len(one.z) for one in design.others)], strict=True):
        fine &= levels > 1
        if family.residual:
            fine &= levels * own < n
    if family.takes_trials:
        trials = np.ones(len(design.y)) if design.trials is None else design.trials
        if design.frequency is not None:
            trials = trials * design.frequency
        both = zip(design.codes, design.counts, strict=True)
        of_levels = [np.bincount(codes, trials, int(counts.sum())) for codes, counts in both]
        for total, at in zip(of_levels, rows.levels, strict=True):
            share = at.totals((total <= 1.0).astype(np.float64)) / at.counts
            fine &= share < 1.0
            lone |= share > LONE_SHARE
    if design.others:
        fine &= ~_redundant_factors(rows, design, n, gaussian=family.residual)
    elif r > 1:
        fine &= ~_redundant(rows, design, n, gaussian=family.residual)
    return fine, lone


def _level_sums(v: Mat, level_rows: IntVec) -> Mat:
    first = starts(level_rows)
    return np.asarray(np.add.reduceat(v, first, axis=-1))


def _redundant(rows: BatchRows, design: KeyedDesign, n: IntVec, *, gaussian: bool) -> BoolVec:
    """Models in which the Gram matrix of likelihood.identify is near a null space."""
    assert rows.z is not None  # several random columns
    r = len(rows.z)
    s = np.array([[_level_sums(rows.z[i] * rows.z[j], rows.level_rows) for j in range(r)] for i in range(r)])
    pairs = [
        (a, b)
        for t in design.terms
        for a in range(t.start, t.stop)
        for b in (range(t.start, a + 1) if STRUCTURES[t.structure].correlated else (a,))
    ]
    k, levels = len(pairs), rows.levels[0]
    gram = np.empty((k + 1, k + 1, rows.n_models))
    for i, (a, b) in enumerate(pairs):
        for j, (c, d) in enumerate(pairs[: i + 1]):
            gram[i, j] = gram[j, i] = levels.totals(s[a, c] * s[b, d] + s[a, d] * s[b, c])
        gram[i, k] = gram[k, i] = 2.0 * levels.totals(s[a, b])
    gram[k, k] = 2.0 * n
    if not gaussian:
        gram = gram[:k, :k]
    return _near_null(gram)


def _near_null(gram: Cube) -> BoolVec:
    """Which Gram matrices (K, K, M) have next to a null space."""
    diag = np.sqrt(np.maximum(np.einsum("kkm->km", gram), 1e-300))
    values = np.linalg.eigvalsh((gram / (diag[:, None] * diag[None])).transpose(2, 0, 1))
    return np.asarray(values[:, 0] < 10.0 * RANK_TOLERANCE * values[:, -1])


def _alike(pattern: Pattern, rows: BatchRows) -> BoolVec:
    """Models of which two factors divide the rows in the same way."""
    found, levels = np.zeros(rows.n_models, dtype=bool), rows.levels
    for (f, g), pair in pattern.pairs.items():
        met = levels[f].sums(np.ones(len(pair.left)), pair.left)
        found |= (met == levels[f].counts) & (met == levels[g].counts)
    return found


def _redundant_factors(rows: BatchRows, design: KeyedDesign, n: IntVec, *, gaussian: bool) -> BoolVec:
    """Models of which two factors are alike, or the Gram matrix of all is near a null space.

    For effects (a, b) of factor f and (c, d) of g its sum is over their meeting pairs.
    """
    cells, of_factor = rows.cells, rows.levels
    pattern = rows.pattern(cells)
    assert pattern is not None  # there are several factors
    z = np.ones((1, len(rows.data.y))) if rows.z is None else rows.z
    every = [design.terms, *(one.terms for one in design.others)]
    products = np.array([[np.add.reduceat(a * b, cells.first) for b in z] for a in z])
    blocks = gather_blocks(pattern, products)
    pairs = [
        (f, rows.uses[f][a], rows.uses[f][b])
        for f, terms in enumerate(every)
        for t in terms
        for a in range(t.start, t.stop)
        for b in (range(t.start, a + 1) if STRUCTURES[t.structure].correlated else (a,))
    ]
    k = len(pairs)
    gram = np.empty((k + 1, k + 1, rows.n_models))
    for i, (f, a, b) in enumerate(pairs):
        for j, (g, c, d) in enumerate(pairs[: i + 1]):
            low, high = min(f, g), max(f, g)
            s = blocks.diagonal[f] if f == g else blocks.cross[low, high]
            levels = np.arange(s.shape[-1]) if f == g else pattern.pairs[low, high].left
            gram[i, j] = gram[j, i] = of_factor[low].sums(s[a, c] * s[b, d] + s[a, d] * s[b, c], levels)
        gram[i, k] = gram[k, i] = 2.0 * of_factor[f].totals(blocks.diagonal[f][a, b])
    gram[k, k] = 2.0 * n
    return _alike(pattern, rows) | _near_null(gram if gaussian else gram[:k, :k])
