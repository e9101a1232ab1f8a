"""Ordered categories: a latent variable between thresholds, P(y ≤ k) = F(α_k − eta) (McCullagh 1980)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.families.base import Cuts, Degrees, Density, Expected, Parameter, Predictors, Rows
from polars_glmm.families.distributions import DISTRIBUTIONS, Distribution
from polars_glmm.families.links import LINKS, Link
from polars_glmm.families.of_categories import OfCategories
from polars_glmm.families.ordinal_kernels import interval_density, logistic_density
from polars_glmm.typing import Mat, Vec

_THRESHOLDS = "P(y ≤ k) = F(threshold k - linear predictor)"
_DISCRIMINATION = "thresholds and linear predictor are multiplied by the discrimination disc"
Spacing = Literal["flexible", "equidistant", "symmetric"]
SPACINGS: tuple[Spacing, ...] = ("flexible", "equidistant", "symmetric")


@dataclass(frozen=True, init=False, repr=False)
class Cumulative(OfCategories):
    """log p = log[F(α_y − eta) − F(α_{y−1} − eta)], α_{−1} = −∞, α_{C−1} = ∞: y is the number of a category, from 0.

    eta has no intercept; its coefficients move the latent variable, so that larger ones make higher categories
    likelier. With `"disc ~ x"` all is divided by a standard deviation exp(−delta), log of the discrimination delta.

    thresholds   "flexible": C − 1 numbers;  "equidistant": the first one and the spacing;  "symmetric": the central one
                 (or two) and the distances of the others from it
    """

    thresholds: Spacing

    name = "cumulative"
    links = ("logit", "probit", "cloglog", "loglog", "cauchit")
    canonical_link = None
    concave_links = frozenset({"logit", "probit", "cloglog", "loglog"})
    knows_information = False

    def __init__(self, link: str | Link | None = None, *, thresholds: Spacing = "flexible") -> None:
        super().__init__(link)
        if thresholds not in SPACINGS:
            hint = suggest(thresholds, SPACINGS, listed=True) if isinstance(thresholds, str) else ""
            msg = f"Cumulative(thresholds={thresholds!r}) is not known; there are {enumerate_names(SPACINGS)}.{hint}"
            raise ModelError(msg)
        object.__setattr__(self, "thresholds", thresholds)

    def __repr__(self) -> str:
        more = "" if self.thresholds == "flexible" else f", thresholds={self.thresholds!r}"
        return f"Cumulative(link={self.link.name!r}{more})"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The latent variable's predictor, its thresholds, and the logarithm of its discrimination."""
        return (
            Parameter("mu", self.link, "position of the latent variable"),
            Parameter("thresholds", LINKS["identity"], _THRESHOLDS, picked=True, random=False),
            Parameter("disc", LINKS["log"], _DISCRIMINATION, optional=True, random=False),
        )

    def cuts(self, labels: Sequence[str]) -> Cuts:
        return Cuts(self.threshold_names(labels), self.jacobian(len(labels)))

    @property
    def options(self) -> Mapping[str, str]:
        return {} if self.thresholds == "flexible" else {"thresholds": self.thresholds}

    @property
    def distribution(self) -> Distribution:
        """Of the latent variable about eta."""
        return DISTRIBUTIONS[self.link.name]

    def density(self, rows: Rows, at: Predictors, order: int, degrees: Degrees | None = None) -> Density:
        """At eta (…, n), the thresholds of each row (2, n), upper and lower, and delta where it has a formula."""
        del rows, degrees  # the thresholds say which category it is
        eta, thresholds = np.asarray(at[0], dtype=np.float64), np.asarray(at[1])
        delta = at[2] if len(at) > 2 else None
        with np.errstate(all="ignore"):
            if delta is None and self.link.name == "logit":
                return logistic_density(eta, thresholds, order)
            return interval_density(self.distribution, eta, thresholds, delta, order)

    def expected(self, rows: Rows, at: Predictors) -> Expected:
        """The observed curvature."""
        found = self.density(rows, at, 3)
        return Expected(found.w, found.third)

    def jacobian(self, n_categories: int) -> Mat:
        """J (C − 1, p) with thresholds α = Jτ for the coefficients τ that are estimated."""
        m = n_categories - 1
        if self.thresholds == "equidistant" and m > 1:
            return np.stack([np.ones(m), np.arange(m, dtype=np.float64)]).T
        if self.thresholds == "symmetric" and m > 2:
            half, odd = m // 2, m % 2
            central = 1 if odd else 2
            out = np.zeros((m, central + (m - central) // 2))
            out[:half, 0] = 1.0
            out[half:, central - 1] = 1.0
            for away in range(1, (m - central) // 2 + 1):
                column = central + away - 1
                out[half + away, column], out[half - 1 + odd - away, column] = 1.0, -1.0
            return out
        return np.eye(m)

    def threshold_names(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Names of τ for categories in their order."""
        p = self.jacobian(len(labels)).shape[1]
        if p == len(labels) - 1 and self.thresholds != "equidistant":
            return tuple(f"{a}|{b}" for a, b in pairwise(labels))
        if self.thresholds == "equidistant":
            return (f"{labels[0]}|{labels[1]}", "spacing")[:p]
        m = len(labels) - 1
        central = ("central",) if m % 2 else ("central.1", "central.2")
        return (*central, *(f"spacing.{k + 1}" for k in range(p - len(central))))

    def category_density(self, eta: Vec, thresholds: Vec, delta: Vec | float | None) -> tuple[Vec, tuple[Vec, ...]]:
        """Log density and its slopes in the predictors; see `density`."""
        with np.errstate(all="ignore"):
            found = interval_density(self.distribution, eta, thresholds, delta, 1)
        return found.f, tuple(part for part in found.g if part is not None)

    def probabilities(self, eta: Vec, alpha: Mat, delta: Vec | float = 0.0) -> Mat:
        """P(y = k) for thresholds alpha (C − 1, n): (C, n), each to its own relative precision."""
        n = len(eta)
        open_end = np.full((1, n), np.inf)
        bounds = np.concatenate([-open_end, np.broadcast_to(alpha, (len(alpha), n)), open_end])
        at = np.broadcast_to(delta, (n,))
        with np.errstate(all="ignore"):
            return np.array(
                [
                    np.exp(interval_density(self.distribution, eta, np.stack([high, low]), at, 0).f)
                    for low, high in pairwise(bounds)
                ]
            )

    def simulate_categories(self, rng: np.random.Generator, at: Predictors) -> Vec:
        """One category per row, as a number; NaN where eta is. At eta, thresholds (C − 1, n), and delta if any."""
        eta, alpha, delta = np.asarray(at[0]), np.asarray(at[1]), at[2] if len(at) > 2 else 0.0
        z = self.link.forward(np.clip(rng.uniform(size=np.shape(eta)), 1e-300, 1.0 - 1e-16))
        latent = eta + z * np.exp(-np.asarray(delta))
        drawn: Vec = (latent > alpha).sum(0).astype(np.float64)
        return np.where(np.isnan(eta), np.nan, drawn)

    def start_further(self, rows: Rows, mu: Vec) -> tuple[float, ...]:  # noqa: ARG002
        """Thresholds have `first_thresholds`; the discrimination is one."""
        return 0.0, 0.0

    def start(self, rows: Rows) -> Vec:
        return np.zeros(len(rows.y))
