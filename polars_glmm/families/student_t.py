"""Responses with heavy tails: Student's t around the mean, its degrees of freedom held or estimated; phi its scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from polars_glmm.errors import ModelError
from polars_glmm.families import jet
from polars_glmm.families.base import Expected, Parameter, Predictors, Rows
from polars_glmm.families.jet import Jet
from polars_glmm.families.links import LINKS, Link
from polars_glmm.families.mean_family import Further, Mean, MeanFamily
from polars_glmm.typing import BoolVec, Vec

FAR = 12.0
"""log df beyond which the law is gaussian to 1e-6 a row."""
FIRST = 8.0
"""Degrees of freedom from which a search begins."""
LOG_TWO = float(np.log(2.0))


@dataclass(frozen=True, init=False, repr=False)
class StudentT(MeanFamily):
    """log p = log Γ(½(ν+1)) − log Γ(½ν) − ½ log πν − log φ − ½(ν+1) log(1 + (y − mu)²/νφ²), ν = df.

    df is held at the number given, 4 unless said otherwise, or with None a parameter of its own, estimated on the log
    scale (Lange, Little & Taylor 1989, J. Am. Stat. Assoc. 84); where that runs to infinity y is gaussian.
    mu is the mean for df > 1, the median for any; the variance is φ²ν/(ν − 2) for df > 2.
    """

    df: float | None

    name = "student_t"
    has_phi = True
    phi_definition = "scale: variance phi²·df/(df − 2)"
    links = ("identity",)
    canonical_link = None
    concave_links = frozenset()
    mean_range = "real"

    def __init__(self, link: str | Link | None = None, *, df: float | None = 4.0) -> None:
        super().__init__(link)
        if df is not None and not (np.isfinite(df) and df > 0.0):
            msg = f"StudentT(df={df!r}): degrees of freedom are a number above 0; family='gaussian' has no end of them."
            raise ModelError(msg)
        object.__setattr__(self, "df", None if df is None else float(df))

    def __repr__(self) -> str:
        return f"StudentT(df={self.df})" if self.df is None else f"StudentT(df={self.df:g})"

    @property
    def held(self) -> Mapping[str, float]:
        return {} if self.df is None else {"df": self.df}

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Of mean and log scale, and of log df where it is estimated."""
        if self.df is not None:
            return super().parameters
        return (*super().parameters, Parameter("df", LINKS["log"], "degrees of freedom", FAR, "gaussian"))

    @property
    def knows_information(self) -> bool:  # type: ignore[override]
        return self.df is not None

    @property
    def n_parameters(self) -> int:
        return 2 if self.df is not None else 3

    def _split(self, phi: Any) -> Any:
        """phi and df."""
        return phi if self.df is None else (phi, np.float64(self.df))

    @property
    def phi_words(self) -> tuple[str, str]:
        if self.df is None:
            return "Scale", "The variance is phi^2*df/(df - 2)."
        of = f"phi^2*{self.df / (self.df - 2.0):.4g}" if self.df > 2.0 else "infinite"
        return "Scale", f"{self.df:g} degrees of freedom, held: the variance is {of}."

    def least_log_phi(self, log_share: float, log_square: float) -> float:
        return 0.5 * (log_share + log_square)

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        if self.df is not None:
            (zeta,) = further
            z = jet.square(rows.y - mu.value) * jet.exp(-2.0 * zeta)
            return -0.5 * (self.df + 1.0) * jet.log(z * (1.0 / self.df) + 1.0) - zeta
        zeta, delta = further
        q = jet.square(rows.y - mu.value) * jet.exp(-2.0 * zeta - delta)
        return self._level(delta) - 0.5 * (jet.exp(delta) + 1.0) * jet.log1p(q) - zeta

    def _level(self, delta: Jet) -> Jet:
        """log Γ(½(ν+1)) − log Γ(½ν) − ½ log ν at δ = log ν, less its limit: a log(1 + 1/2a) − ½ + R(a + ½) − R(a).

        R is what Stirling's series adds, a = ½ν, so that nothing cancels where ν is large.
        """
        rests = jet.stirling(jet.softplus(delta) - LOG_TWO) - jet.stirling(delta - LOG_TWO)
        return 0.5 * jet.exp(delta) * jet.softplus(-delta) - 0.5 + rests

    def constant(self, rows: Rows) -> Vec:
        if self.df is None:
            return np.full_like(rows.y, -0.5 * np.log(2.0 * np.pi))
        half = 0.5 * self.df
        level = special.gammaln(half + 0.5) - special.gammaln(half) - 0.5 * np.log(np.pi * self.df)
        return np.full_like(rows.y, level)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """(ν + 1)/((ν + 3)φ²)."""
        df = 4.0 if self.df is None else self.df  # its share moves the size of a step by little
        w = (df + 1.0) / (df + 3.0) * np.exp(-2.0 * np.asarray(zeta)) + np.zeros_like(eta)
        return Expected.of(w, np.zeros_like(w), -2.0 * w)

    def touching(self, rows: Rows, at: Predictors) -> Vec:
        """(ν + 1)/(νφ² + (y − mu)²), weights of Lange, Little & Taylor (1989): a logarithm lies below its tangent."""
        share = 1.0 / self.df if self.df is not None else np.exp(-np.asarray(at[2]))
        return np.asarray((1.0 + share) / (np.exp(2.0 * np.asarray(at[1])) + share * np.square(rows.y - at[0])))

    def cdf(self, rows: Rows, mu: Vec, phi: Any, *, upper: bool = False) -> Vec:
        phi, df = self._split(phi)
        z = (rows.y - mu) / phi
        return np.asarray(special.stdtr(df, -z if upper else z), dtype=np.float64)

    def variance(self, mu: Vec, phi: Any) -> Vec:
        """phi²·df/(df − 2), infinite for df ≤ 2."""
        phi, df = self._split(phi)
        with np.errstate(all="ignore"):
            ratio = np.where(df > 2.0, 1.0 / (1.0 - 2.0 / np.asarray(df)), np.inf)
        return np.asarray(np.square(phi) * ratio + np.zeros_like(mu))

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Any) -> Vec:
        """(df + 1) log(1 + (y − mu)²/(df·phi²))."""
        phi, df = self._split(phi)
        z = np.square((rows.y - mu) / phi)
        heavy = (df + 1.0) * np.log1p(z / np.where(np.isinf(df), 1.0, df))
        return np.asarray(np.where(np.isinf(df), z, heavy))

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Any, rows: Rows) -> Vec:  # noqa: ARG002
        phi, df = self._split(phi)
        drawn = rng.standard_t(np.minimum(df, 1e12), size=np.shape(mu))
        return np.asarray(mu + phi * drawn)

    def start_further(self, rows: Rows, mu: Vec) -> tuple[float, ...]:
        own = float(np.log(self.start_phi(rows, mu)))
        return (own,) if self.df is not None else (own, float(np.log(FIRST)))

    def outside_support(self, rows: Rows) -> BoolVec:
        return ~np.isfinite(rows.y)

    def first_mean(self, rows: Rows) -> Vec:
        return rows.y

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """From the median distance to the mean, kept positive when half of the rows fit perfectly."""
        least = 1e-8 * (float(np.sqrt(np.mean(rows.y**2))) or 1.0)
        df = FIRST if self.df is None else self.df
        middle = float(np.median(np.abs(rows.y - mu))) / float(special.stdtrit(df, 0.75))
        return max(middle, least)
