"""Random effects that the fixed effects have as well, level by level: REML knows nothing of their variance.

The restricted likelihood sees rows through M = I − X(X'X)⁻¹X'. Where Σ_l N'Z_l'MZ_lN = 0 for directions N of a term's
columns, MZ_lN = 0 in every level l, and it is the same for every variance along N: (1 | f) beside the fixed effects of
f, as in f + (1 | f/g). The variance is left at zero, where maximum likelihood puts it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.errors import enumerate_names
from polars_glmm.likelihood.identify import RANK_TOLERANCE, Findings
from polars_glmm.likelihood.parameters.effects import Effects, FactorMap, TermMap
from polars_glmm.likelihood.parameters.state import Rank
from polars_glmm.likelihood.products.cross import CrossProducts
from polars_glmm.linalg.cholesky import quadratic
from polars_glmm.notes import Note
from polars_glmm.typing import BoolVec, Cube, Mat, Vec


class Absorbed(NamedTuple):
    """A term (factor and term by their numbers), and N (r, k) of its working columns."""

    factor: int
    term: int
    directions: Mat

    def idle(self, t: TermMap) -> BoolVec:
        """The parameters of the term that are zero: of independent effects, and of a term absorbed as a whole."""
        structure = STRUCTURES[t.structure]
        n_theta = t.theta.stop - t.theta.start
        if self.directions.shape[1] == t.r and not structure.bends:
            return np.ones(n_theta, dtype=bool)
        return np.asarray(self.directions.any(1)) if _independent(t) else np.zeros(n_theta, dtype=bool)


def absorbed(stats: CrossProducts, effects: Effects) -> tuple[Absorbed, ...]:
    """The terms of which the fixed columns have some direction in every level."""
    xx = stats.ww[:-1, :-1]
    found = []
    for number, f in enumerate(effects.factors):
        zz = quadratic(f.basis, stats.zz.diagonal[number], f.basis)
        if f.sets is not None or np.count_nonzero(np.einsum("aaG->G", zz)) > len(xx):
            continue  # effects of more levels than there are columns are no combination of them
        zx = np.einsum("da,dpG->apG", f.basis, stats.zw[number][:, :-1])
        for place, t in enumerate(f.terms):
            own = slice(t.start, t.stop)
            directions = _null(t, zz[own, own], zx[own], xx)
            if directions.shape[1]:
                found.append(Absorbed(number, place, directions))
    return tuple(found)


def may_absorb(effects: Effects, n_fixed: int) -> bool:
    """Whether some factor has no more levels than there are fixed columns."""
    return any(f.n_levels <= n_fixed for f in effects.factors)


def _null(t: TermMap, zz: Cube, zx: Cube, xx: Mat) -> Mat:
    """N (r, k), orthonormal; axes where effects are independent, and all or nothing where they share parameters."""
    total = zz.sum(-1)
    rows = zx.transpose(0, 2, 1).reshape(-1, len(xx))
    taken = np.linalg.solve(xx, rows.T).reshape(len(xx), t.r, -1)
    rest = total - np.einsum("apG,pbG->ab", zx, taken)
    size = np.sqrt(np.maximum(np.diag(total), 1e-300))
    scaled = rest / np.outer(size, size)
    structure = STRUCTURES[t.structure]
    if structure.correlated and structure.invariant and not structure.bends:
        values, vectors = np.linalg.eigh(0.5 * (scaled + scaled.T))
        null = vectors[:, values < RANK_TOLERANCE] / size[:, None]
        return np.asarray(np.linalg.qr(null)[0])
    gone = np.diag(scaled) < RANK_TOLERANCE
    return np.eye(t.r)[:, gone] if gone.all() or _independent(t) else np.zeros((t.r, 0))


def _independent(t: TermMap) -> bool:
    """Whether each effect of a term has a standard deviation of its own, and nothing else."""
    structure = STRUCTURES[t.structure]
    return not (structure.correlated or structure.bends) and structure.rank(t.r) == t.r == t.theta.stop - t.theta.start


def without(effects: Effects, theta: Vec, gone: tuple[Absorbed, ...]) -> Vec:
    """θ with no variance of what is absorbed, in terms that can lose it; a search does not leave there."""
    theta = theta.copy()
    for one in gone:
        t = effects.factors[one.factor].terms[one.term]
        theta[t.theta][one.idle(t)] = 0.0
    return theta


def with_absorbed(
    findings: Findings, effects: Effects, gone: tuple[Absorbed, ...], *, at_zero: bool = True
) -> Findings:
    """Findings with a note for each absorbed term, whose covariances are marked.

    at_zero   the search begins `without` them
    """
    if not gone:
        return findings
    marks = [list(own) for own in findings.unidentified]
    notes = []
    for one in gone:
        f = effects.factors[one.factor]
        marks[f.place][one.term] = True
        notes.append(_note(f, f.terms[one.term], one, at_zero=at_zero))
    return findings._replace(notes=(*findings.notes, *notes), unidentified=tuple(map(tuple, marks)))


def beside(ranks: list[Rank], gone: tuple[Absorbed, ...]) -> list[Rank]:
    """The ranks of the terms of which nothing is absorbed: those that may have lost one by themselves."""
    own = {(one.factor, one.term) for one in gone}
    return [rank for rank in ranks if (rank.factor, rank.term) not in own]


def _note(f: FactorMap, t: TermMap, one: Absorbed, *, at_zero: bool) -> Note:
    own = slice(t.start, t.stop)
    moved = np.abs(f.outward[own, own] @ one.directions).max(1)
    names = [name for name, size in zip(t.labels, moved, strict=True) if size > 1e-6 * moved.max()]
    left = "it is left at zero" if at_zero and one.idle(t).any() else "the one that is shown means nothing"
    text = (
        f"group '{f.name}': the fixed effects have {enumerate_names(names)} of every level, so that the restricted "
        f"likelihood is the same for every variance of it; {left}."
    )
    advice = (
        "Leave it out of the random part, as in (1 | a:b) for (1 | a/b), or the levels out of the fixed part; "
        "the likelihood and all other variances stand."
    )
    return Note("not_identified", text, advice)
