"""Which parts of a model the design can determine, found before any fitting: a certificate cannot tell.

For terms t on one factor, the covariance of rows i, j of a level is Σ_t z_ti'Σ_t z_tj, linear in the entries of all
Σ_t. Its Gram matrix over all pairs of rows of a level needs only S_l = Z_l'Z_l: the pair (a, b) against the pair (c, d)
gives Σ_l S_ac S_bd + S_ad S_bc. A null vector of it is a change of the Σ_t that no data could show.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations
from typing import NamedTuple, Protocol

import numpy as np

from polars_glmm.covariance.scaled import Scaled
from polars_glmm.covariance.structures import STRUCTURES, alone
from polars_glmm.errors import IdentifiabilityError, counted, enumerate_names
from polars_glmm.families.base import Family, spread_name
from polars_glmm.likelihood.parameters.effects import Effects, FactorMap
from polars_glmm.notes import Note
from polars_glmm.typing import BoolVec, Cube, Mat, Vec

RANK_TOLERANCE = 1e-9
LONE_SHARE = 0.5
"""Share of levels with one Bernoulli trial beyond which they rule the approximation of the likelihood."""


class Findings(NamedTuple):
    """Notes, and per factor of the design the terms without identified covariances: a mark for each term.

    lone   per factor in order of elimination: most levels have one Bernoulli trial; empty where that is not asked
    """

    notes: tuple[Note, ...]
    unidentified: tuple[tuple[bool, ...], ...]
    lone: tuple[bool, ...] = ()


class Residual(NamedTuple):
    """What is known of the residual variance (or dispersion): one for all rows, held at a value; all names held."""

    constant: bool
    held: bool
    fixed: Collection[str] = ()

    def holds(self, f: FactorMap) -> bool:
        """Whether nothing of a factor's variances is left to be told from it."""
        return all(f"sd({f.name}: {name})" in self.fixed for t in f.terms for name in t.labels)


class RowFacts(Protocol):
    """What the checks ask of a design, from its rows or from its cross-products."""

    @property
    def n_obs(self) -> int: ...
    @property
    def n_fixed(self) -> int: ...
    @property
    def effects(self) -> Effects: ...

    def level_products(self, f: FactorMap) -> Cube:
        """S_l = Z_l'DZ_l of the working columns of a factor, D the precisions: (r, r, G)."""

    def uneven(self, f: FactorMap) -> bool:
        """Whether the rows are known to have unequal precisions."""

    def same_partition(self, a: FactorMap, b: FactorMap) -> bool:
        """Whether two factors divide the rows in the same way."""

    def trials(self, f: FactorMap) -> Vec:
        """The number of trials of every level."""


def check(structure: RowFacts, family: Family, *, residual: Residual) -> Findings:
    """Structural findings of a design; raises IdentifiabilityError where no fit makes sense."""
    n, p = structure.n_obs, structure.n_fixed
    factors = sorted(structure.effects.factors, key=lambda f: f.place)
    if n <= p and family.has_phi and not residual.held:
        have, want = counted(n, "observation"), counted(p, "fixed effect")
        msg = f"{have} cannot determine {want} and a {spread_name(family)}; use fewer terms."
        raise IdentifiabilityError(msg)
    for f in factors:
        if f.n_levels == 1 and not all(alone(t.structure) for t in f.terms):
            msg = (
                f"group '{f.name}' has one level only, so its variance cannot be estimated. "
                f"Leave it out, or group by another column."
            )
            raise IdentifiabilityError(msg)
        if family.residual and not residual.held and not residual.holds(f):
            _refuse_saturated(structure, f)
    notes: list[Note] = []
    unidentified = [[False] * len(f.terms) for f in factors]
    lone = [False] * len(factors)
    for number, f in enumerate(factors):
        loose = _redundant_terms(structure, f, gaussian=family.residual and residual.constant and not residual.held)
        if any(loose):
            names = enumerate_names([_term_text(f, k) for k, flag in enumerate(loose) if flag])
            text = (
                f"{names}: different covariances of these terms give the same model, so they are not determined singly."
            )
            advice = (
                "The likelihood, fixed effects and fitted values stand; drop one of the terms to read its variances."
            )
            notes.append(Note("redundant_terms", text, advice))
            unidentified[number] = loose
        single = structure.trials(f) <= 1.0 if family.takes_trials and _alone(f) else np.zeros(1, dtype=bool)
        lone[number] = bool(LONE_SHARE < single.mean() < 1.0)  # all of them: there is a note already
        if single.all() and not residual.holds(f):
            text = (
                f"group '{f.name}' has one Bernoulli trial per level: its variance cannot be told from the data, "
                f"and its estimate is an artefact of the approximation."
            )
            notes.append(Note("not_identified", text, "Use a group with several trials per level."))
            unidentified[number] = [True] * len(f.terms)
    for a, b in combinations(range(len(factors)), 2):
        if not _meet(factors[a], factors[b]) or factors[a].n_levels != factors[b].n_levels:
            continue
        if _alone(factors[a]) == _alone(factors[b]) and structure.same_partition(factors[a], factors[b]):
            first, second = factors[a].name, factors[b].name
            text = (
                f"groups '{first}' and '{second}' divide the rows in the same way: "
                f"only the sum of their variances is determined."
            )
            notes.append(Note("same_partition", text, f"Keep one of '{first}' and '{second}'."))
            unidentified[a] = [True] * len(factors[a].terms)
            unidentified[b] = [True] * len(factors[b].terms)
    by_elimination = tuple(lone[f.place] for f in structure.effects.factors) if any(lone) else ()
    return Findings(tuple(notes), tuple(tuple(u) for u in unidentified), by_elimination)


def _alone(f: FactorMap) -> bool:
    """Whether nothing but its own rows tells of a level: relatives tell variances apart that single levels do not.

    So do other levels of the same rows.
    """
    if f.sets is not None:
        return f.sets.single
    return f.prior is None or f.prior.independent(np.unique(f.codes))


def _meet(a: FactorMap, b: FactorMap) -> bool:
    """Whether two factors have effects in one predictor."""
    own, others = ({part for t in f.terms for part in t.part_of} for f in (a, b))
    return bool(own & others)


def _term_text(f: FactorMap, k: int) -> str:
    names = ["1" if name == "Intercept" else name for name in f.terms[k].names]
    if "1" not in names:
        names = ["0", *names]
    where = "" if 0 in f.terms[k].part_of else " of phi"
    return f"({' + '.join(names)} | {f.name}){where}"


def _refuse_saturated(structure: RowFacts, f: FactorMap) -> None:
    """As many effects as observations, unless unequal precisions tell the variances apart."""
    n, r = structure.n_obs, sum(part == 0 for t in f.terms for part in t.part_of)  # effects on the mean
    if any(STRUCTURES[t.structure].bends for t in f.terms) or not _alone(f):
        return  # its effects are fewer than they look: `_loads` tells
    if r and f.n_levels * r >= n and not (structure.uneven(f) and not any(_loads(structure, f, gaussian=True))):
        effects = f"{counted(f.n_levels, 'level')} × {r} effects" if r > 1 else counted(f.n_levels, "level")
        msg = (
            f"group '{f.name}' has {effects} for {counted(n, 'observation')}: its variance and the residual variance "
            f"cannot be told apart. Use fewer effects per level, or a group with several rows per level."
        )
        raise IdentifiabilityError(msg)


def _redundant_terms(structure: RowFacts, f: FactorMap, *, gaussian: bool) -> list[bool]:
    """Marks the terms whose covariances the rows cannot determine."""
    if f.r == 1 and structure.effects.columns is None:
        return [False]
    if f.r > 1 and not _alone(f):
        return [False] * len(f.terms)
    if f.r == 1:  # a column of zeros says nothing of its variance
        return [not structure.level_products(f).any()]
    return _loads(structure, f, gaussian=gaussian)


def _loads(structure: RowFacts, f: FactorMap, *, gaussian: bool) -> list[bool]:
    """Marks the terms that take part in a change of covariances, and of a residual variance, that no rows show."""
    own = np.array([part for t in f.terms for part in t.part_of])
    s = np.where((own[:, None] == own)[..., None], structure.level_products(f), 0.0)  # predictors tell them apart
    if any(STRUCTURES[t.structure].bends for t in f.terms):
        return _bent_loads(s, f, structure.n_obs, gaussian=gaussian)
    pairs: list[tuple[int, int, int]] = []
    for position, t in enumerate(f.terms):
        for a in range(t.start, t.stop):
            others = range(t.start, a + 1) if STRUCTURES[t.structure].correlated else (a,)
            pairs.extend((position, a, b) for b in others)
    k = len(pairs)
    gram = np.empty((k + 1, k + 1))
    for i, (_, a, b) in enumerate(pairs):
        for j, (_, c, d) in enumerate(pairs[: i + 1]):
            gram[i, j] = gram[j, i] = float((s[a, c] * s[b, d] + s[a, d] * s[b, c]).sum())
        gram[i, k] = gram[k, i] = 2.0 * float(s[a, b].sum())
    gram[k, k] = 2.0 * structure.n_obs
    if not gaussian:
        gram = gram[:k, :k]
    null = _null_space(gram)
    loads: BoolVec = np.asarray((np.abs(null) > 1e-6).any(1))[:k]  # rounding of the eigenvectors
    marks = [False] * len(f.terms)
    for flag, (position, _, _) in zip(loads, pairs, strict=True):
        marks[position] = marks[position] or bool(flag)
    return marks


_INSIDE = 0.6
"""Angle of correlations at which their parameters are told apart: at none they may not be, from a residual."""


def _bent_loads(s: Cube, f: FactorMap, n: int, *, gaussian: bool) -> list[bool]:
    """The same where Σ is no linear function of its parameters: ½ Σ_g tr(∂Σ S_g ∂Σ S_g) at a place inside."""
    changes, owners = [], []
    for position, t in enumerate(f.terms):
        structure = STRUCTURES[t.structure]
        theta = structure.start(t.r, np.ones(t.r))
        if isinstance(structure, Scaled):
            theta[structure.scales(t.r) :] = _INSIDE
        lam, tangent = structure.factor(theta, t.r), structure.tangent(theta, t.r)
        half = tangent @ lam.T
        for change in half + half.swapaxes(1, 2):
            whole = np.zeros((f.r, f.r))
            whole[t.start : t.stop, t.start : t.stop] = change
            changes.append(whole)
            owners.append(position)
    products = [np.einsum("ab,bcG->acG", change, s) for change in changes]
    k = len(changes)
    gram = np.empty((k + 1, k + 1))
    for i, own in enumerate(products):
        for j, other in enumerate(products[: i + 1]):
            gram[i, j] = gram[j, i] = 0.5 * float(np.vdot(own, other.swapaxes(0, 1)))
        gram[i, k] = gram[k, i] = float(np.einsum("aaG->", own))
    gram[k, k] = 2.0 * n
    null = _null_space(gram if gaussian else gram[:k, :k])
    loads: BoolVec = np.asarray((np.abs(null) > 1e-6).any(1))[:k]
    return [any(flag and owner == position for flag, owner in zip(loads, owners, strict=True))
            for position in range(len(f.terms))]  # fmt: skip


def _null_space(gram: Mat) -> Mat:
    scale: Vec = np.sqrt(np.maximum(np.diag(gram), 1e-300))
    values, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    return vectors[:, values < RANK_TOLERANCE * values[-1]]
