"""What families of categories share: a response is the number of one of them, and has no mean or variance."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from polars_glmm.errors import ModelError
from polars_glmm.families.base import Expected, ResponseKind, Rows
from polars_glmm.families.jet import Jet
from polars_glmm.families.mean_family import MeanFamily
from polars_glmm.typing import BoolVec, Vec


class OfCategories(MeanFamily):
    """A family whose y is the number of a category, from 0."""

    mean_range = "unit"
    response: ClassVar[ResponseKind] = "category"
    first_size = 1.0

    def constant(self, rows: Rows) -> Vec:
        return np.zeros_like(rows.y)

    def saturated(self, rows: Rows) -> Vec | None:
        """Every category fitted exactly."""
        return np.zeros_like(rows.y)

    def outside_support(self, rows: Rows) -> BoolVec:
        return np.asarray(~((rows.y >= 0.0) & (rows.y == np.round(rows.y))))

    def log_density(self, *_: object) -> Jet:
        raise self._no_number()

    def information(self, *_: object) -> Expected:
        raise self._no_number()

    def draw(self, *_: object) -> Vec:
        raise self._no_number()

    def cdf(self, *_: object, upper: bool = False) -> Vec:  # noqa: ARG002
        raise self._no_number()

    def variance(self, *_: object) -> Vec:
        raise self._no_number()

    @staticmethod
    def _no_number() -> ModelError:
        return ModelError("A category is no number: it has probabilities, and no mean or variance.")

    def first_mean(self, rows: Rows) -> Vec:
        """One half: eta is zero."""
        return np.full(len(rows.y), 0.5)
