"""Notes that a fit earns: what collapsed, what ran away, what was not reached."""

from __future__ import annotations

import numpy as np

from polars_glmm.errors import brief, enumerate_names
from polars_glmm.likelihood.effects import Effects, FactorMap, TermMap
from polars_glmm.likelihood.state import Rank, State, natural_sigma
from polars_glmm.notes import Note
from polars_glmm.typing import IntVec, Mat

CONVERGED = 1e-6
"""Newton decrement, in log-likelihood, above which a fit is not called converged."""
MOST_PARTS = 5
"""Effects that a combination without variance is spelled out in; the others are counted."""
_ROUNDING = 1e-10
"""Share of what an effect's standard deviation could be that counts as zero."""


def convergence_notes(decrement: float) -> list[Note]:
    """A note where the certificate fails."""
    if decrement < CONVERGED:
        return []
    text = f"The search stopped at a Newton decrement of {decrement:.2g}; an optimum has less than {CONVERGED:g}."
    advice = (
        "Estimates may be off by a share of their standard errors: simplify the model, rescale columns, or set start=."
    )
    return [Note("not_converged", text, advice)]


def singular_notes(effects: Effects, state: State, ranks: list[Rank]) -> list[Note]:
    """One note per term whose covariance matrix is on the boundary, naming the direction that collapsed."""
    notes = []
    for rank in ranks:
        f = effects.factors[rank.factor]
        t = f.terms[rank.term]
        if rank.rank == t.r:
            continue
        sigma = natural_sigma(f, t, state.factors[rank.factor])
        named = rank._replace(zero=_without_variance(f, t, state.factors[rank.factor]))
        notes.append(Note("singular", collapse(f, t, sigma, named), ADVICE))
    return notes


def _without_variance(f: FactorMap, t: TermMap, factor: Mat) -> IntVec:
    """The effects of a term, as the user named them, that do not vary (those of the working columns are others)."""
    own = slice(t.start, t.stop)
    block = f.outward[own, own] @ factor[own, own]
    reach = np.linalg.norm(f.outward[own, own], axis=1) * np.linalg.norm(factor[own, own])
    return np.flatnonzero(np.linalg.norm(block, axis=1) <= _ROUNDING * reach)


ADVICE = "The fit stands (it is an optimum on the boundary); a smaller random part would fit as well."


def collapse(f: FactorMap, t: TermMap, sigma: Mat, rank: Rank) -> str:
    """What a covariance matrix of lower rank means, in words."""
    zero = [t.names[i] for i in rank.zero]
    if len(zero) == t.r:
        what = "variance" if t.r == 1 else "variances"
        verb = "is" if t.r == 1 else "are"
        return f"group '{f.name}': the {what} of {enumerate_names(zero)} {verb} estimated at zero."
    if zero:
        return f"group '{f.name}': the variance of {enumerate_names(zero)} is estimated at zero."
    sd = np.sqrt(np.diag(sigma))
    correlation = sigma / np.outer(sd, sd)
    if t.r == 2:  # a pair
        sign = "+1" if correlation[0, 1] > 0 else "−1"
        return f"group '{f.name}': the correlation of {enumerate_names(t.names)} is estimated at {sign}."
    values, vectors = np.linalg.eigh(correlation)
    direction = vectors[:, int(np.argmin(values))] / sd
    direction = direction / np.abs(direction).max()
    parts = [f"{w:+.3g}·{brief(name)}" for w, name in zip(direction, t.names, strict=True) if abs(w) > 0.01]
    terms = " ".join(parts[:MOST_PARTS]) + (f" … ({len(parts)} in all)" if len(parts) > MOST_PARTS else "")
    lost = t.r - rank.rank
    what = f"a combination has no variance, {terms}" if lost == 1 else f"{lost} combinations have no variance"
    return (
        f"group '{f.name}': the covariance matrix of {enumerate_names(t.names)} has rank {rank.rank} of {t.r}; {what}."
    )


def separation_note(terms: tuple[str, ...]) -> list[Note]:
    """A note naming the fixed effects along which the likelihood rises for ever."""
    if not terms:
        return []
    text = (
        f"separation: along {enumerate_names(terms)} the response is predicted without error, "
        f"so estimates run to infinity."
    )
    advice = "Their estimates and standard errors mean nothing; drop or merge the columns or levels concerned."
    return [Note("separation", text, advice)]


def flat_note(names: list[str]) -> list[Note]:
    """A note naming parameters in whose direction the likelihood is flat."""
    if not names:
        return []
    text = f"The likelihood is flat in the direction of {enumerate_names(names)}: no standard error."
    return [Note("flat_direction", text, "The data do not determine these parameters singly; simplify the model.")]


def no_overdispersion_note() -> Note:
    """The negative binomial has no finite size."""
    text = (
        "no overdispersion: the likelihood rises to the Poisson limit, phi = inf, and its log-likelihood is Poisson's."
    )
    return Note("no_overdispersion", text, "Fit family='poisson'; counts may even be underdispersed.")
