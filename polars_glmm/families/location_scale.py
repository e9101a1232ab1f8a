"""Families that know the logarithms of their tails; those of a place and a scale times a standard variable by jets."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, TypeAlias

from polars_glmm.families import jet
from polars_glmm.families.base import Degrees, Density, Predictors, Rows
from polars_glmm.families.distributions import Distribution
from polars_glmm.families.jet import Jet
from polars_glmm.families.mean_family import Further, Mean, MeanFamily, log_of
from polars_glmm.typing import Vec

Side: TypeAlias = Literal["above", "below", "between"]
"""Of what a probability is taken: Y > y, Y ≤ y, y < Y ≤ upper."""


class Tailed(MeanFamily):
    """A family that knows the logarithms of its tails: all that is known of a response which is not seen itself."""

    censorable = True
    direction = 1.0
    """Whether responses rise or fall with eta."""

    @property
    def concave_tails(self) -> bool:
        """The logarithms of all such probabilities are concave in eta."""
        return False

    @abstractmethod
    def log_tail(self, rows: Rows, mu: Mean, further: Further, side: Side) -> Jet:
        """The logarithm of a probability of y; between y and the upper end of its censoring."""

    def log_probability(
        self, side: Side, rows: Rows, at: Predictors, order: int, degrees: Degrees | None = None
    ) -> Density:
        """`log_tail` at predictors, with derivatives as those of `density`."""

        def log_tail(rows: Rows, mu: Mean, further: Further) -> Jet:
            return self.log_tail(rows, mu, further, side)

        return self.definition(rows, at, order, degrees, log_tail)

    def second(self, phi: Vec | float) -> Vec:
        """The predictor of the parameter beside the mean, phi, from its value."""
        return log_of(phi)

    def quantile(self, p: Vec | float, mu: Vec, phi: Vec | float | None) -> Vec:
        """The value with a share p of responses below it."""
        raise NotImplementedError


class LocationScale(Tailed):
    """Y ≤ y where a standard variable Z ≤ z(y)."""

    @property
    @abstractmethod
    def distribution(self) -> Distribution:
        """That of Z."""

    @abstractmethod
    def standardised(self, y: Vec, rows: Rows, mu: Mean, further: Further) -> Jet:
        """z(y)."""

    @abstractmethod
    def width(self, low: Vec, high: Vec, rows: Rows, further: Further) -> Jet | Vec:
        """z(high) − z(low), without the digits that a difference of both would lose."""

    @property
    def concave_tails(self) -> bool:
        """Concave in z where the log density of Z is (Prékopa 1973)."""
        return self.distribution.log_concave

    def log_tail(self, rows: Rows, mu: Mean, further: Further, side: Side) -> Jet:
        z = self.standardised(rows.y, rows, mu, further)
        if side == "above":
            return z.through(*self.distribution.log_sf(z.f, z.order))
        if side == "below":
            return z.through(*self.distribution.log_cdf(z.f, z.order))
        assert rows.censoring is not None
        assert rows.censoring.upper is not None
        width = self.width(rows.y, rows.censoring.upper, rows, further)
        centre = z + 0.5 * width
        found = self.distribution.log_interval(centre.f, width.f if isinstance(width, Jet) else width, z.order)
        return jet.through_both(found, centre, width)
