"""Notes that a fit earns: what collapsed, what ran away, what was not reached."""

from __future__ import annotations

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES, over_points, plain_name
from polars_glmm.errors import brief, enumerate_names
from polars_glmm.families.base import Family, asked_for, spoken
from polars_glmm.likelihood.parameters.effects import Effects, TermMap
from polars_glmm.likelihood.parameters.state import Rank, lost_rank, natural_sigma
from polars_glmm.notes import Note
from polars_glmm.typing import BoolVec, Mat

CONVERGED = 1e-6
"""Newton decrement, in log-likelihood, above which a fit is not called converged."""
_TAKES_PART = 0.01
"""Share of the largest contribution to a combination, in standard deviations, from which an effect is named."""
MOST_PARTS = 5
"""Effects that a combination without variance is spelled out in; the others are counted."""


LOST_PEAK = (
    "Laplace's approximation has no bound here: it rises to where the conditional mode of a level is about to vanish, "
    "as its rows take away the curvature that random effects have by themselves."
)
INTEGRATE = "Use method=AGQ(nodes=9) (one grouping factor, or nested ones), or fewer random effects."


def convergence_notes(decrement: float, *, peaked: bool = True) -> list[Note]:
    """A note where the certificate fails; not peaked: as Laplace's approximation lost the peak of some level."""
    if decrement < CONVERGED:
        return []
    if not peaked:
        text = f"{LOST_PEAK} Where the search stopped says nothing, nor does the log-likelihood there."
        return [Note("not_converged", text, INTEGRATE)]
    text = f"The search stopped at a Newton decrement of {decrement:.2g}; an optimum has less than {CONVERGED:g}."
    advice = (
        "Estimates may be off by a share of their standard errors: simplify the model, rescale columns, or set start=."
    )
    return [Note("not_converged", text, advice)]


def singular_notes(effects: Effects, factors: tuple[Mat, ...], ranks: list[Rank]) -> list[Note]:
    """One note per term whose covariance matrix is on the boundary, naming the direction that collapsed."""
    notes = []
    for rank in ranks:
        f = effects.factors[rank.factor]
        t = f.terms[rank.term]
        sigma = natural_sigma(f, t, factors[rank.factor])
        if not lost_rank(effects, rank):
            if over_points(t.structure) and not np.any(sigma - np.diag(np.diag(sigma))):
                notes.append(Note("no_range", at_limit(f.name, t, sigma), INDEPENDENT))
            continue
        scaled = STRUCTURES[t.structure].bends and bool(sigma.any(1).all())
        said = at_limit(f.name, t, sigma) if scaled else collapse(f.name, t.labels, sigma, rank.rank)
        notes.append(Note("singular", said, ADVICE))
    return notes


INDEPENDENT = "The fit stands; effects of points as levels of a grouping factor of their own are the same model."
ADVICE = "The fit stands (it is an optimum on the boundary); a smaller random part would fit as well."


def at_limit(group: str, t: TermMap, sigma: Mat) -> str:
    """What it means, in words, that the correlations of a structure are where they make no other matrix."""
    rows, columns = STRUCTURES[t.structure].vech(t.r)
    pairs = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if i != j]
    name = plain_name(t.structure)
    if len(pairs) > 1:
        return f"group '{group}': the correlations of {name}() are estimated at a limit of what correlations can be."
    (i, j), *_ = pairs
    rho = float(sigma[i, j] / np.sqrt(sigma[i, i] * sigma[j, j]))
    if over_points(t.structure):
        said = "at 0: effects of points are independent" if rho < 0.5 else "without end: all points have one effect"
        return f"group '{group}': the range of {name}() is {said}."
    at = f"{rho:+.3g}".replace("-", "−").removesuffix(".0")
    return f"group '{group}': the correlation of {name}() is estimated at {at}, its limit."


def collapse(group: str, names: tuple[str, ...], sigma: Mat, rank: int) -> str:
    """What a covariance matrix (r, r) of lower rank means, in words."""
    varies: BoolVec = np.asarray(sigma.any(1))
    zero = [name for name, v in zip(names, varies, strict=True) if not v]
    if len(zero) > 1 and len(zero) == len(names):
        return f"group '{group}': the variances of {enumerate_names(zero)} are estimated at zero."
    found = [f"the variance of {name!r} is estimated at zero" for name in zero]
    lost = len(names) - len(zero) - rank
    if lost > 0:
        rest = tuple(name for name, v in zip(names, varies, strict=True) if v)
        found.append(_combination(rest, sigma[np.ix_(varies, varies)], lost))
    return f"group '{group}': {'; '.join(found)}."


def _combination(names: tuple[str, ...], sigma: Mat, lost: int) -> str:
    """The combinations of varying effects that do not vary; effects are named by what they add to it, not by units."""
    sd = np.sqrt(np.diag(sigma))
    correlation = sigma / np.outer(sd, sd)
    if len(names) == 2:  # a pair
        sign = "+1" if correlation[0, 1] > 0 else "−1"
        return f"the correlation of {enumerate_names(names)} is estimated at {sign}"
    share = np.linalg.eigh(correlation)[1][:, 0]
    weight = share / sd
    weight = weight / np.abs(weight[np.argmax(np.abs(share))])
    takes_part = np.abs(share) > _TAKES_PART * np.abs(share).max()
    parts = [f"{w:+.3g}·{brief(name)}" for w, name, p in zip(weight, names, takes_part, strict=True) if p]
    terms = " ".join(parts[:MOST_PARTS]) + (f" … ({len(parts)} in all)" if len(parts) > MOST_PARTS else "")
    what = f"a combination has no variance, {terms}" if lost == 1 else f"{lost} combinations have no variance"
    return f"the covariance matrix of {enumerate_names(names)} has rank {len(names) - lost} of {len(names)}; {what}"


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


def no_overdispersion_note(family: Family) -> Note:
    """A family has no finite phi of its own: a negative binomial is Poisson's."""
    assert family.limit is not None
    name = spoken(family.limit)
    text = (
        f"no overdispersion: the likelihood rises to the {name} limit, phi = {family.limit_phi:g}, "
        f"and its log-likelihood is {name}'s."
    )
    advice = f"Fit family={asked_for(family.limit)!r}; counts may even be underdispersed."
    return Note("no_overdispersion", text, advice)


def reproduced_text(effects: Effects, spread: str) -> str:
    """The levels leave nothing of the response, or less than arithmetic can tell from nothing."""
    names = [f.name for f in sorted(effects.factors, key=lambda f: f.place)]
    group = "group" if len(names) == 1 else "groups"
    return (
        f"The fixed effects and the levels of {group} {enumerate_names(names)} together reproduce the response "
        f"exactly, or to within rounding, so the {spread} is zero or cannot be told from it, and the likelihood has no "
        f"bound. If the response belongs to the level, use one row per level; else look for a copy of the response."
    )


def digits_text(share: float) -> str:
    """Sums hold next to nothing of what the model leaves of the response."""
    return (
        f"The model leaves about {share:.0e} of the response's sum of squares, and sums of all rows have 16 "
        f"digits: too few for the rest. Take from the response what is known of it, as the means of its levels, or "
        f"fit the rows themselves."
    )


def unbounded_note(effects: Effects, runaway: list[bool]) -> Note:
    """The likelihood has no maximum: it rises with the standard deviations of the factors marked."""
    names = [f.name for f, away in zip(effects.factors, runaway, strict=True) if away]
    group, its = ("group", "its") if len(names) == 1 else ("groups", "their")
    text = (
        f"unbounded: the likelihood does not fall however large the standard deviations of {group} "
        f"{enumerate_names(names)} become, so it has no maximum; the fixed effects grow with them."
    )
    advice = (
        f"Within {its} levels the model predicts the response without error: the size of the estimates means nothing. "
        f"Use fewer random or fixed effects, or one row per level if the response belongs to the level."
    )
    return Note("unbounded", text, advice)


_APPROXIMATION = "Compare with method=AGQ(nodes=25) (one grouping factor, or nested ones), or use fewer random effects."


def artefact_note(value: float, size: float, excess: float) -> Note:
    """Another optimum of the approximated likelihood is higher, but not by the integrated one."""
    text = (
        f"The approximated log-likelihood has a higher optimum, {value:.2f} at random effects of size {size:.3g}, but "
        f"exceeds the integrated one by {excess:.2g} there. The fit is the optimum that integration prefers."
    )
    return Note("approximation", text, _APPROXIMATION)


def overstated_note(excess: float) -> Note:
    """The approximated likelihood is too high at the answer."""
    text = (
        f"At the estimates the approximated log-likelihood exceeds the integrated one by {excess:.2g}: "
        f"it is not to be compared with that of other models."
    )
    return Note("approximation", text, _APPROXIMATION)


def elsewhere_note(excess: float, better: float, here: float, there: float) -> Note:
    """The integrated likelihood is higher at other estimates."""
    side = "exceeds" if excess > 0 else "falls short of"
    text = (
        f"The approximated log-likelihood {side} the integrated one by {abs(excess):.2g}, which is {better:.2g} higher "
        f"at random effects of size {there:.3g} than at the estimates, of size {here:.3g}."
    )
    return Note("approximation", text, _APPROXIMATION)
