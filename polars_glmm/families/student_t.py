"""Responses with heavy tails: Student's t around the mean, with its degrees of freedom given; phi is its scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from polars_glmm.errors import ModelError
from polars_glmm.families import jet
from polars_glmm.families.base import Expected, Rows
from polars_glmm.families.jet import Jet
from polars_glmm.families.links import Link
from polars_glmm.families.mean_family import Further, Mean, MeanFamily
from polars_glmm.typing import BoolVec, Vec


@dataclass(frozen=True, init=False, repr=False)
class StudentT(MeanFamily):
    """log p = log Γ(½(ν+1)) − log Γ(½ν) − ½ log πν − log φ − ½(ν+1) log(1 + (y − mu)²/νφ²), ν = df.

    df is held at the number given; 4 unless said otherwise (Lange, Little & Taylor 1989, J. Am. Stat. Assoc. 84).
    mu is the mean for df > 1, the median for any; the variance is φ²ν/(ν − 2) for df > 2.
    """

    df: float

    name = "student_t"
    has_phi = True
    phi_definition = "scale: variance phi²·df/(df − 2)"
    links = ("identity",)
    canonical_link = None
    concave_links = frozenset()
    mean_range = "real"

    def __init__(self, link: str | Link | None = None, *, df: float = 4.0) -> None:
        super().__init__(link)
        if not (np.isfinite(df) and df > 0.0):
            msg = f"StudentT(df={df!r}): degrees of freedom are a number above 0; family='gaussian' has no end of them."
            raise ModelError(msg)
        object.__setattr__(self, "df", float(df))

    def __repr__(self) -> str:
        return f"StudentT(df={self.df:g})"

    @property
    def held(self) -> Mapping[str, float]:
        return {"df": self.df}

    @property
    def phi_words(self) -> tuple[str, str]:
        of = f"phi^2*{self.df / (self.df - 2.0):.4g}" if self.df > 2.0 else "infinite"
        return "Scale", f"{self.df:g} degrees of freedom, held: the variance is {of}."

    def least_log_phi(self, log_share: float, log_square: float) -> float:
        return 0.5 * (log_share + log_square)

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        (zeta,) = further
        z = jet.square(rows.y - mu.value) * jet.exp(-2.0 * zeta)
        return -0.5 * (self.df + 1.0) * jet.log(z * (1.0 / self.df) + 1.0) - zeta

    def constant(self, rows: Rows) -> Vec:
        half = 0.5 * self.df
        level = special.gammaln(half + 0.5) - special.gammaln(half) - 0.5 * np.log(np.pi * self.df)
        return np.full_like(rows.y, level)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """(ν + 1)/((ν + 3)φ²)."""
        w = (self.df + 1.0) / (self.df + 3.0) * np.exp(-2.0 * np.asarray(zeta)) + np.zeros_like(eta)
        return Expected.of(w, np.zeros_like(w), -2.0 * w)

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        assert phi is not None
        z = (rows.y - mu) / phi
        return np.asarray(special.stdtr(self.df, -z if upper else z), dtype=np.float64)

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        """phi²·df/(df − 2), infinite for df ≤ 2."""
        assert phi is not None
        ratio = self.df / (self.df - 2.0) if self.df > 2.0 else np.inf
        return np.square(phi) * ratio + np.zeros_like(mu)

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:  # noqa: ARG002
        assert phi is not None
        return mu + phi * rng.standard_t(self.df, size=np.shape(mu))

    def outside_support(self, rows: Rows) -> BoolVec:
        return ~np.isfinite(rows.y)

    def first_mean(self, rows: Rows) -> Vec:
        return rows.y

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """From the median distance to the mean, kept positive when half of the rows fit perfectly."""
        least = 1e-8 * (float(np.sqrt(np.mean(rows.y**2))) or 1.0)
        middle = float(np.median(np.abs(rows.y - mu))) / float(special.stdtrit(self.df, 0.75))
        return max(middle, least)
