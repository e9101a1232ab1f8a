"""Which parts of a model the design can determine, found before any fitting: a certificate cannot tell.

For terms t on one factor, the covariance of rows i, j of a level is Σ_t z_ti'Σ_t z_tj, linear in the entries of all Σ_t.
Its Gram matrix over all pairs of rows of a level needs only S_l = Z_l'Z_l: the pair (a, b) against the pair (c, d) gives
Σ_l S_ac S_bd + S_ad S_bc. A null vector of it is a change of the Σ_t that no data could show.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.design.records import Design, Factor
from polars_glmm.errors import IdentifiabilityError
from polars_glmm.families.base import Family
from polars_glmm.likelihood.effects import Effects, FactorMap
from polars_glmm.notes import Note
from polars_glmm.typing import BoolVec, Cube, Mat, Vec

_RANK_TOLERANCE = 1e-9


class Findings(NamedTuple):
    """Notes, and per factor of the design the terms without identified covariances: a mark for each term."""

    notes: tuple[Note, ...]
    unidentified: tuple[tuple[bool, ...], ...]


def check(design: Design, family: Family, effects: Effects) -> Findings:
    """Structural findings of a design; raises IdentifiabilityError where no fit makes sense."""
    n, p = design.n_obs, len(design.mu.names)
    if n <= p and family.has_phi:
        msg = f"{n} observations cannot determine {p} fixed effects and a {_spread_name(family)}; use fewer terms."
        raise IdentifiabilityError(msg)
    for factor in design.factors:
        if factor.n_levels == 1:
            msg = (
                f"group '{factor.name}' has one level only, so its variance cannot be estimated. "
                f"Leave it out, or group by another column."
            )
            raise IdentifiabilityError(msg)
    notes: list[Note] = []
    unidentified = [[False] * len(f.terms) for f in design.factors]
    if family.name == "gaussian":
        _refuse_saturated(design)
    for number, factor in enumerate(design.factors):
        loose = _redundant_terms(design, effects, number, gaussian=family.name == "gaussian" and design.phi is None)
        if any(loose):
            names = " + ".join(_term_text(factor, k) for k, flag in enumerate(loose) if flag)
            text = (
                f"{names}: different covariances of these terms give the same model, so they are not determined singly."
            )
            advice = (
                "The likelihood, fixed effects and fitted values stand; drop one of the terms to read its variances."
            )
            notes.append(Note("redundant_terms", text, advice))
            unidentified[number] = [a or b for a, b in zip(unidentified[number], loose, strict=True)]
        if family.name == "binomial" and _one_trial_per_level(design, factor):
            text = (
                f"group '{factor.name}' has one Bernoulli trial per level: its variance cannot be told from the data, "
                f"and its estimate is an artefact of the approximation."
            )
            notes.append(Note("not_identified", text, "Use a group with several trials per level."))
            unidentified[number] = [True] * len(factor.terms)
    for a in range(len(design.factors)):
        for b in range(a):
            if _same_partition(design.factors[a], design.factors[b]):
                first, second = design.factors[b].name, design.factors[a].name
                text = f"groups '{first}' and '{second}' divide the rows in the same way: only the sum of their variances is determined."
                notes.append(Note("same_partition", text, f"Keep one of '{first}' and '{second}'."))
                unidentified[a] = [True] * len(design.factors[a].terms)
                unidentified[b] = [True] * len(design.factors[b].terms)
    return Findings(tuple(notes), tuple(tuple(u) for u in unidentified))


def _spread_name(family: Family) -> str:
    return "residual variance" if family.name == "gaussian" else "dispersion"


def _term_text(factor: Factor, k: int) -> str:
    names = ["1" if name == "Intercept" else name for name in factor.terms[k].names]
    if "1" not in names:
        names = ["0", *names]
    return f"({' + '.join(names)} | {factor.name})"


def _refuse_saturated(design: Design) -> None:
    n = design.n_obs
    for factor in design.factors:
        r = len(factor.z)
        if factor.n_levels * r >= n:
            effects = f"{factor.n_levels} levels × {r} effects" if r > 1 else f"{factor.n_levels} levels"
            msg = (
                f"group '{factor.name}' has {effects} for {n} observations: its variance and the residual variance "
                f"cannot be told apart. Use fewer effects per level, or a group with several rows per level."
            )
            raise IdentifiabilityError(msg)


def _one_trial_per_level(design: Design, factor: Factor) -> bool:
    trials = np.ones(design.n_rows) if design.trials is None else design.trials
    if design.frequency is not None:
        trials = trials * design.frequency
    return bool(np.bincount(factor.codes, trials, factor.n_levels).max() <= 1.0)


def _same_partition(a: Factor, b: Factor) -> bool:
    if a.n_levels != b.n_levels:
        return False
    key = a.codes.astype(np.int64) * b.n_levels + b.codes
    return len(np.unique(key)) == a.n_levels


def _level_products(effects: Effects, f: FactorMap) -> Cube:
    """S_l = Z_l'Z_l of the working columns: (r, r, G)."""
    columns = effects.columns
    if columns is None:
        return np.bincount(f.codes, minlength=f.n_levels)[None, None] * (f.basis.T @ f.basis)[:, :, None]
    z = f.basis.T @ columns
    r = len(z)
    out = np.empty((r, r, f.n_levels))
    for j in range(r):
        for k in range(j + 1):
            out[j, k] = out[k, j] = np.bincount(f.codes, z[j] * z[k], f.n_levels)
    return out


def _redundant_terms(design: Design, effects: Effects, number: int, *, gaussian: bool) -> list[bool]:
    """Marks the terms whose covariances the rows cannot determine."""
    f = next(f for f in effects.factors if f.place == number)
    if f.r == 1:
        return [False]
    s = _level_products(effects, f)
    pairs: list[tuple[int, int, int]] = []
    for position, t in enumerate(f.terms):
        for a in range(t.start, t.stop):
            others = range(t.start, a + 1) if t.structure == "us" else (a,)
            pairs.extend((position, a, b) for b in others)
    k = len(pairs)
    gram = np.empty((k + 1, k + 1))
    for i, (_, a, b) in enumerate(pairs):
        for j, (_, c, d) in enumerate(pairs[: i + 1]):
            gram[i, j] = gram[j, i] = float((s[a, c] * s[b, d] + s[a, d] * s[b, c]).sum())
        gram[i, k] = gram[k, i] = 2.0 * float(s[a, b].sum())
    gram[k, k] = 2.0 * design.n_rows
    if not gaussian:
        gram = gram[:k, :k]
    null = _null_space(gram)
    loads: BoolVec = (np.abs(null) > 1e-6).any(1)[:k]  # noqa: PLR2004  # rounding of the eigenvectors
    marks = [False] * len(f.terms)
    for flag, (position, _, _) in zip(loads, pairs, strict=True):
        marks[position] = marks[position] or bool(flag)
    return marks


def _null_space(gram: Mat) -> Mat:
    scale: Vec = np.sqrt(np.maximum(np.diag(gram), 1e-300))
    values, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    return vectors[:, values < _RANK_TOLERANCE * values[-1]]
