"""What a prediction is of: a function of the linear predictor, and for some families of phi, with its slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.prediction.inverse_links import mean_of, slope_of
from polars_glmm.prediction.rows import PHI, beyond

if TYPE_CHECKING:
    from polars_glmm.families.base import Family


@dataclass(frozen=True, slots=True)
class ResponseScale:
    """The scale of a link, or the mean of a family whose mu is not its mean.

    expects   the family of which the mean is asked, where phi takes part in it
    """

    link: str
    expects: Family | None = None

    @classmethod
    def of_link(cls, link: str) -> ResponseScale:
        """mu itself."""
        return cls(link)

    @property
    def needs_phi(self) -> bool:
        """Whether the frame must hold PHI."""
        return self.expects is not None

    def value(self, eta: pl.Expr, phi: pl.Expr | None = None) -> pl.Expr:
        """On the scale, from the linear predictor, and PHI if not another."""
        return mean_of(self.link, eta) if self.expects is None else self._expectation(eta, 0, phi)

    def slope(self, eta: pl.Expr) -> pl.Expr:
        """∂value/∂eta."""
        if self.expects is None:
            return slope_of(self.link, eta)
        return self._expectation(eta, 1) * slope_of(self.link, eta)

    def _expectation(self, eta: pl.Expr, part: int, phi: pl.Expr | None = None) -> pl.Expr:
        family = self.expects
        assert family is not None

        def of(batch: pl.Series) -> pl.Series:
            rows = batch.struct.unnest()
            eta = rows["eta"].cast(pl.Float64).to_numpy()
            phi = beyond(rows["phi"], family)
            found = family.expectation(family.mean(eta), phi)[part]
            # without a mean, as of times with heavy tails, there is none to predict
            return pl.Series(batch.name, np.where(np.isinf(found), np.nan, found), nan_to_null=True)

        both = pl.struct(eta.alias("eta"), (pl.col(PHI) if phi is None else phi).alias("phi"))
        value = both.map_batches(of, return_dtype=pl.Float64, is_elementwise=True)
        return pl.when(eta.is_not_null()).then(value)


def on_scale(link: str, mean_range: str, value: pl.Expr) -> tuple[str, pl.Expr, pl.Expr]:
    """A scale on which limits of a number are made, the number there and its slope: that of a link, or of the range."""
    known = {
        "logit": ((value / (1.0 - value)).log(), 1.0 / (value * (1.0 - value))),
        "log": (value.log(), 1.0 / value),
        "identity": (value, pl.lit(1.0)),
    }
    name = link if link in known else {"unit": "logit", "positive": "log", "real": "identity"}[mean_range]
    return (name, *known[name])


def scale_of(family: Family) -> ResponseScale:
    """The scale of the response."""
    return ResponseScale(family.link.name, None if family.mu_is_mean else family)
