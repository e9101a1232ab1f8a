"""Unordered categories: each but the baseline has a linear predictor, its log odds against it (McFadden 1974)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.families.base import Degrees, Density, Expected, Parameter, Predictors, Rows, Tensor
from polars_glmm.families.densities import wanted_degrees
from polars_glmm.families.links import Link
from polars_glmm.families.of_categories import OfCategories
from polars_glmm.typing import Mat, Vec

_RESERVED = frozenset({"mu", "phi", ""})
"""What no predictor of a category can be called: these are of other families."""


class Shares(NamedTuple):
    """Probabilities p of all categories, the baseline first, and log p; both (C, …, n).

    rest   1 − p, to its own relative precision
    """

    log: Vec
    p: Vec
    rest: Vec


@dataclass(frozen=True, init=False, repr=False)
class Categorical(OfCategories):
    """log p(y) = eta_y − log(1 + Σ_k exp eta_k): y is the number of a category, 0 the baseline, with eta_0 = 0.

    Predictors have the same terms, coefficients and random effects of their own. Which categories there are the rows
    tell: `of_categories` makes the family of them.

    baseline     the category that the others are compared with; None: the first, of an Enum in its order, else sorted
    labels       of all categories, baseline first; empty as long as no rows have been seen
    """

    baseline: str | None
    labels: tuple[str, ...]  # type: ignore[misc]

    name = "categorical"
    links = ("logit",)
    canonical_link = "logit"
    concave_links = frozenset({"logit"})
    unordered = True

    def __init__(self, link: str | Link | None = None, *, baseline: object = None) -> None:
        super().__init__(link)
        if baseline is not None and not isinstance(baseline, str | int):
            msg = f"Categorical(baseline={baseline!r}) takes the label of a category, not {type(baseline).__name__}."
            raise ModelError(msg)
        text = str(baseline).lower() if isinstance(baseline, bool) else str(baseline)
        object.__setattr__(self, "baseline", None if baseline is None else text)
        object.__setattr__(self, "labels", ())

    def __repr__(self) -> str:
        more = "" if self.baseline is None else f", baseline={self.baseline!r}"
        return f"Categorical(link={self.link.name!r}{more})"

    def of_categories(self, labels: Sequence[str]) -> Categorical:
        """The family of these categories, in their order but for the baseline, which comes first.

        Raises ModelError for a baseline that is none of them, and for labels that cannot name predictors.
        """
        if len(set(labels)) < max(len(labels), 2):
            given = enumerate_names(labels, limit=10) or "none"
            msg = f"Categories are two labels or more, each once, and not {given}."
            raise ModelError(msg)
        first = labels[0] if self.baseline is None else self.baseline
        if first not in labels:
            msg = f"baseline={first!r} is no category of the response, which has {enumerate_names(labels, limit=10)}."
            raise ModelError(msg + suggest(first, list(labels)))
        taken = sorted(_RESERVED & set(labels))
        if taken:
            msg = f"A category cannot be called {taken[0]!r}, as a parameter of other families is: rename it."
            raise ModelError(msg)
        made = without_categories(self)
        object.__setattr__(made, "labels", (first, *(label for label in labels if label != first)))
        return made

    @property
    def plain(self) -> Categorical:
        """The family before it has seen rows."""
        return without_categories(self)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """A predictor for each category but the first, called as the category is."""
        if not self.labels:
            return (Parameter("mu", self.link, "log odds of a category against the baseline"),)
        first, *others = self.labels
        return tuple(Parameter(one, self.link, f"log odds of {one} against {first}") for one in others)

    @property
    def n_parameters(self) -> int:
        return len(self.parameters)

    @property
    def options(self) -> Mapping[str, str]:
        return {} if self.baseline is None else {"baseline": self.baseline}

    @property
    def separable(self) -> bool:
        """A category may have no rows, or all rows, where a column says so."""
        return True

    def pulls(self, rows: Rows, place: int) -> Vec:
        """1 in rows of the category of the predictor, −1 in all others; place −1: of the baseline, if it had one."""
        return np.where(rows.y == place + 1.0, 1.0, -1.0)

    def density(self, rows: Rows, at: Predictors, order: int, degrees: Degrees | None = None) -> Density:
        """At the predictors of all categories but the first, each (…, n)."""
        m = len(at)
        most = (order,) * m if degrees is None else tuple(degrees)
        shares = shares_of(at, rows.y)
        y = rows.y.astype(np.intp)
        f = np.take_along_axis(shares.log, np.broadcast_to(y, (1, *shares.log.shape[1:])), axis=0)[0]
        if order == 0:
            return Density(f)
        p, rest = shares.p[1:], shares.rest[1:]
        g = tuple(np.where(y == k + 1, rest[k], -p[k]) if most[k] else None for k in range(m))
        if order == 1:
            return Density(f, g)
        still = tuple(k for k in range(m) if most[k] < order)
        w: Tensor = {
            (a, b): p[a] * rest[a] if a == b else -p[a] * p[b] for a, b in wanted_degrees(m, 2, most, still)
        }
        if order == 2:
            return Density(f, g, w)
        third: Tensor = {place: _third(place, p, rest) for place in wanted_degrees(m, 3, most, still)}
        return Density(f, g, w, third)

    def expected(self, rows: Rows, at: Predictors) -> Expected:
        """The curvature, which does not depend on the response."""
        found = self.density(rows, at, 3)
        return Expected(found.w, found.third)

    def simulate_categories(self, rng: np.random.Generator, at: Predictors) -> Vec:
        """One category per row, as a number; NaN where a predictor is."""
        p = shares_of(at, np.zeros(1)).p
        drawn = (rng.uniform(size=p.shape[1:]) > np.cumsum(p[:-1], axis=0)).sum(0).astype(np.float64)
        return np.asarray(np.where(np.isnan(p).any(0), np.nan, drawn))

    def start(self, rows: Rows) -> Vec:
        """log odds of the second category, half a row added to each."""
        return np.full(len(rows.y), _log_odds(rows, 1))

    def start_further(self, rows: Rows, mu: Vec) -> tuple[float, ...]:  # noqa: ARG002
        return tuple(_log_odds(rows, k) for k in range(2, len(self.labels)))


def without_categories(family: Categorical) -> Categorical:
    """The family with its link and baseline, and without categories."""
    return Categorical(family.link, baseline=family.baseline)


def shares_of(at: Predictors, y: Vec) -> Shares:
    """Probabilities at the predictors (…, n) of all categories but the first, beside rows y (n,)."""
    shape = np.broadcast_shapes(y.shape, *(np.shape(one) for one in at))
    eta = np.zeros((len(at) + 1, *shape))
    for k, one in enumerate(at):
        eta[k + 1] = one
    with np.errstate(all="ignore"):
        below = eta - eta.max(0)
        size = np.exp(below)  # 1 of the likeliest, below which the others are summed: no difference is taken
        rest = np.zeros_like(size)
        above = np.zeros_like(size[0])
        for k in range(1, len(size)):
            np.add(rest[k - 1], size[k - 1], out=rest[k])
        for k in range(len(size) - 1, 0, -1):
            above += size[k]
            rest[k - 1] += above
        others = rest.min(0)
        log, whole = below - np.log1p(others), 1.0 + others
        return Shares(log, size / whole, rest / whole)


def probability_slopes(p: Mat, rest: Mat, k: int) -> Mat:
    """∂p_k/∂η_j for every predictor j, (C − 1, n), from probabilities of all categories (C, n)."""
    slopes: Mat = -p[k] * p[1:]
    if k:
        slopes[k - 1] = p[k] * rest[k]
    return slopes


def _third(place: tuple[int, ...], p: Vec, rest: Vec) -> Vec:
    """∂w_ab/∂η_c: the third cumulant of the indicators of three categories."""
    a, b, c = place
    if a == b == c:
        return np.asarray(p[a] * rest[a] * (rest[a] - p[a]))
    if a in (b, c) or b == c:
        twice, once = (a, c) if a == b else (b, a) if b == c else (a, b)
        return np.asarray(-p[twice] * p[once] * (rest[twice] - p[twice]))
    return np.asarray(2.0 * p[a] * p[b] * p[c])


def _log_odds(rows: Rows, k: int) -> float:
    """Of a category against the baseline, half a row added to each."""
    own, first = float((rows.y == k).sum()), float((rows.y == 0.0).sum())
    return float(np.log(own + 0.5) - np.log(first + 0.5))
