"""Which optimum is the answer, and whether there is one: a second look where random effects are out of all proportion.

Counts and categories bound what rows can tell: past a few units of the link's scale a larger standard deviation
changes no fitted mean that the rows could contradict. There the likelihood may rise without end: its limit along
t·(β, Λ), t → ∞, is Σ_g log P(every row of g on its own side of zero), finite if each level's rows can be parted. And
there Laplace's approximation, normal where the integrand is a normal density cut off, can have hills of its own. So
fits with such standard deviations, and those with mostly one trial a level, are judged by the integrated likelihood
(level_integrals):

    the answer      the highest optimum among those that no other excels in integrated likelihood
    no optimum      a level whose rows cannot be parted costs log t along a ray; where a ray from the answer costs
                    nothing, the likelihood has no maximum. With several factors it is their levels together that
                    part rows, or cannot, and the integral is followed by draws that walk along the ray (walks)
    an artefact     the approximation exceeds the integral by more than it gained, or the integral is higher elsewhere
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from polars_glmm.families.base import Family
from polars_glmm.likelihood.identify import Findings
from polars_glmm.likelihood.marginal.engine import RowEngine
from polars_glmm.likelihood.marginal.level_integrals import Integrated, integrated
from polars_glmm.likelihood.marginal.modes import Point
from polars_glmm.likelihood.marginal.value import Marginal
from polars_glmm.likelihood.marginal.walks import Change, changes, may_part, together
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.optimum.notes import artefact_note, elsewhere_note, overstated_note, unbounded_note
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.notes import Note
from polars_glmm.optimize.search import Found
from polars_glmm.typing import BoolVec, Mat, Vec

LARGE = 3.0
"""Units of the link's scale beyond which a standard deviation deserves a second look."""
_FAR = 1e3
LARGE_FOR_LONE = 0.7
"""The same where most levels have one Bernoulli trial: on those alone Laplace's optimum is near one unit."""
_A_LOT = 2.0
"""Log-likelihood by which the approximation errs a lot: the penalty of a parameter and its effect on most tests."""
_EQUAL = 1.0
"""Integrated log-likelihood within which two places are as good, and the approximation decides."""
_PER_LEVEL = 0.1
"""Log-likelihood per level by which the approximation errs a lot in all of them."""
_SURE = 3.0
"""Standard errors of an integral that are granted to it."""
_RAY = (4.0, 32.0)
_STEPS = (1.4, 2.0, 4.0, 8.0, 16.0, 32.0)
"""The same with the places between, for draws that walk along."""
_FALLS = 0.5
"""Log-likelihood that a ray must lose from place to place for a maximum to exist; one level that cannot be parted costs
log 4 and log 8."""
_BESIDE = (0.25, 0.5, 1.0, 2.0)
"""Shares of the fixed effects, and of the factors, at which the integral is looked at where quadrature is no way."""
_MOST_ROWS = 200_000
"""Rows up to which searches start from several places."""


class Coordinates(NamedTuple):
    """How a search vector [β_c, θ] is read: effects, and which of the p coefficients are on their scale, (p,)."""

    effects: Effects
    beside: BoolVec

    @property
    def p(self) -> int:
        return len(self.beside)

    def factors(self, x: Vec) -> list[Mat]:
        """Λ_f (r_f, r_f) of a vector."""
        return self.effects.lambdas(x[self.p :])

    def scaled(self, x: Vec, fixed: float, spread: float) -> Vec:
        """The vector with its fixed effects and its factors multiplied."""
        p = self.p
        return np.concatenate([np.where(self.beside, fixed, 1.0) * x[:p], self.effects.times(x[p:], spread)])

    def point(self, x: Vec, factors: list[Mat] | None = None) -> Point:
        return Point(x[: self.p], self.effects.effective(factors or self.factors(x)))

    def sizes(self, x: Vec) -> Vec:
        """Root mean square of every factor's random effects, in units of the linear predictor."""
        lambdas, units = self.factors(x), self.effects.units
        if units:
            own = [[units[k] for t in f.terms for k in t.part_of] for f in self.effects.factors]
            lambdas = [np.array(u)[:, None] * lam for u, lam in zip(own, lambdas, strict=True)]
        return np.array([np.linalg.norm(lam) for lam in lambdas])


def coordinates(model: Model) -> Coordinates:
    """Those of a model's search: thresholds, and every predictor of unordered categories, go with the mean."""
    picked = {one.name for one in model.family.parameters if one.picked}
    beside = np.zeros(model.n_coefficients, dtype=bool)
    for k, part in enumerate(model.parts):
        beside[part.own] = k == 0 or model.family.unordered or part.parameter in picked
    return Coordinates(model.effects, beside)


class Hill(NamedTuple):
    """An optimum of the approximation, and the integrated likelihood there."""

    found: Found
    integral: Integrated

    @property
    def value(self) -> float:
        """ℓ as maximised."""
        return -self.found.evaluation.value

    @property
    def overstated(self) -> float:
        """By how much it exceeds the integrated one, for sure."""
        return self.value - self.integral.value - _SURE * self.integral.std_error


class SecondLook(NamedTuple):
    """What a second look needs.

    search, quadrature   from a vector to an optimum of ℓ as it is, and of ℓ by quadrature (None where it is the same)
    base, null           the optimum without random effects, β_c and its ℓ
    constant             what is missing in every ℓ here
    """

    engine: RowEngine
    at: Coordinates
    unit: float
    search: Callable[[Vec], Found]
    quadrature: Callable[[Vec], Found] | None
    base: Vec
    null: float
    constant: float


def unit_of(family: Family) -> float | None:
    """A unit of the scale on which random effects of counts, or categories, are judged; None where they are not."""
    return family.unit if family.discrete or family.response == "category" else None


def doubtful(sizes: Vec, unit: float, lone: BoolVec) -> BoolVec:
    """Whether random effects of given sizes, in units of the linear predictor, deserve a second look.

    lone   per size: most levels have one Bernoulli trial
    """
    return np.asarray(sizes > np.where(lone, LARGE_FOR_LONE, LARGE) * unit)


def far(sizes: Vec, unit: float) -> bool:
    """Whether some factor's random effects are so large that larger ones change nothing."""
    return bool((sizes > _FAR * unit).any())


def second_look(look: SecondLook, found: Found, findings: Findings) -> tuple[Found, Findings]:
    """The optimum that is the answer, and the findings with what there is to say about it."""
    hills = list(_hills(look, found))
    highest = max(hills, key=lambda h: h.value)
    if not any(np.isfinite(h.integral.value) for h in hills):
        return highest.found, findings
    hill = _meaningful(hills)
    notes: list[Note] = []
    runaway = _runaway(look, hill)
    if any(runaway):
        notes.append(unbounded_note(look.at.effects, runaway))
    elif highest.value > hill.value + _EQUAL:
        size = float(look.at.sizes(highest.found.x).max())
        notes.append(artefact_note(highest.value + look.constant, size, highest.value - highest.integral.value))
    else:
        notes += _doubts(look, hill)
    if not notes:
        return hill.found, findings
    unidentified = list(findings.unidentified)
    for f, away in zip(look.at.effects.factors, runaway, strict=True):
        if away:
            unidentified[f.place] = (True,) * len(f.terms)
    return hill.found, Findings((*findings.notes, *notes), tuple(unidentified), findings.lone)


def _hills(look: SecondLook, first: Found) -> Iterator[Hill]:
    """The optimum found and the others that searches from larger and smaller random effects end at."""
    at, marginal = look.at, look.engine.marginal
    seen = [first]
    if marginal.rows.n_rows <= _MOST_ROWS:
        x = first.x
        shrink = look.unit / max(float(at.sizes(x).max()), look.unit)
        starts = [np.concatenate([look.base, at.effects.start(size * look.unit)]) for size in (0.1, 0.3, LARGE)]
        starts += [at.scaled(x, shrink, shrink), at.scaled(x, 4.0, 4.0)]
        for start in starts:
            other = look.search(start)
            value = other.evaluation.value
            if np.isfinite(value) and all(abs(value - s.evaluation.value) > 1e-6 for s in seen):
                seen.append(other)
    for found in seen:
        integral = integrated(marginal, at.point(found.x))
        yield Hill(found, integral)


def _meaningful(hills: list[Hill]) -> Hill:
    """The highest optimum among those as good as any by integrated likelihood."""
    known = [h for h in hills if np.isfinite(h.integral.value)]
    best = max(known, key=lambda h: h.integral.value).integral
    good = [
        h for h in known
        if h.integral.value >= best.value - _EQUAL - _SURE * np.hypot(best.std_error, h.integral.std_error)
    ]  # fmt: skip
    return max(good, key=lambda h: h.value)


def _runaway(look: SecondLook, hill: Hill) -> list[bool]:
    """Factors along whose random effects the integrated likelihood does not fall, however large they become."""
    x, at = hill.found.x, look.at
    large = [bool(one) for one in at.sizes(x) > LARGE * look.unit]
    owners = [(f, ray) for f, away in enumerate(large) if away for ray in _rays(at, x, f)]
    if not any(large):
        return large
    rays = [lambda t: at.point(at.scaled(x, t, t)), *(ray for _, ray in owners)]  # everything grows, or one factor
    endless = map(_endless, _changes(look, hill, rays))
    if next(endless):
        return large
    found = {f for (f, _), away in zip(owners, endless, strict=True) if away}
    return [f in found for f in range(len(large))]


def _rays(at: Coordinates, x: Vec, f: int) -> Iterator[Callable[[float], Point]]:
    """Ways from an optimum to infinity for one factor, or for its largest direction, with β or without."""
    lambdas = at.factors(x)
    top = np.linalg.svd(lambdas[f])[0][:, :1]
    top = top @ top.T

    def one(t: float, *, fixed: float, others: float) -> Point:
        grown = list(lambdas)
        grown[f] = others * lambdas[f] + (t - others) * top @ lambdas[f]
        return at.point(at.scaled(x, fixed, 1.0), grown)

    if len(lambdas) > 1:
        yield lambda t: one(t, fixed=t, others=t)
    if len(top) > 1:
        yield lambda t: one(t, fixed=t, others=1.0)
        yield lambda t: one(t, fixed=1.0, others=1.0)


def _endless(steps: Iterable[Change]) -> bool:
    """Whether the integrated likelihood loses nothing along a ray."""
    for number, step in enumerate(steps):
        if np.isnan(step.value):  # linear predictors beyond what numbers hold: the places before decide
            return number > 0
        if step.value < -_FALLS - min(_SURE * step.std_error, _FALLS):
            return False
    return True


def _changes(
    look: SecondLook, hill: Hill, rays: Sequence[Callable[[float], Point]]
) -> Iterator[Iterable[Change]]:
    """By ray the changes of integrated log-likelihood to its places, each from the one before."""
    marginal = look.engine.marginal
    if len(look.at.effects.factors) == 1:
        yield from (_stepwise(marginal, hill.integral.value, [ray(t) for t in _RAY]) for ray in rays)
        return
    start, paths = look.at.point(hill.found.x), [[ray(t) for t in _STEPS] for ray in rays]
    parted = [may_part(marginal, start, path) for path in paths]
    walked = [path for path, may in zip(paths, parted, strict=True) if may]
    found = iter(changes(marginal, start, walked) if walked else ())
    ends = [0, *(_STEPS.index(t) + 1 for t in _RAY)]
    for may in parted:
        steps = next(found) if may else []
        yield [together(steps[start:end]) for start, end in pairwise(ends)] if may else [Change(-np.inf, 0.0)]


def _stepwise(marginal: Marginal, last: float, places: Sequence[Point]) -> Iterator[Change]:
    """The changes of the integral of one factor's levels, which is exact."""
    for place in places:
        here = integrated(marginal, place)
        yield Change(here.value - last, here.std_error)
        last = here.value


def _elsewhere(look: SecondLook, hill: Hill) -> tuple[Integrated, float]:
    """The highest integrated likelihood met around an optimum and at those of quadrature; size of the effects there."""
    at, x = look.at, hill.found.x
    if look.quadrature is None:
        places = [at.scaled(x, fixed, t) for fixed, t in product((0.0, *_BESIDE), _BESIDE)]
    else:
        shrink = look.unit / max(float(at.sizes(x).max()), look.unit)
        searched = [look.quadrature(start) for start in (x, at.scaled(x, shrink, shrink))]
        places = [found.x for found in searched if np.isfinite(found.evaluation.value)]
    places.append(x)
    met = [(integrated(look.engine.marginal, at.point(place)), float(at.sizes(place).max())) for place in places]
    return max(met, key=lambda m: -np.inf if np.isnan(m[0].value) else m[0].value - _SURE * m[0].std_error)


def _doubts(look: SecondLook, hill: Hill) -> list[Note]:
    """A note where the approximation is not to be believed at an optimum, or leads away from a better place."""
    here, (there, size) = hill.integral, _elsewhere(look, hill)
    n_levels = sum(f.n_levels for f in look.at.effects.factors)
    excess = hill.value - here.value
    overstated = hill.overstated > max(_A_LOT, min(_PER_LEVEL * n_levels, 0.5 * (hill.value - look.null)))
    better = there.value - here.value
    if better < _EQUAL + _SURE * np.hypot(there.std_error, here.std_error):
        return [overstated_note(excess)] if overstated else []
    return [elsewhere_note(excess, better, float(look.at.sizes(hill.found.x).max()), size)]
