"""Coverage of intervals over simulated data of five stated designs, every replicate a key of one fit with by=.

`python -m tests.inference.coverage` prints the table of docs/explanation/coverage.md.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

import polars_glmm
from polars_glmm.errors import FitWarning, GlmmError

KEY = "replicate"
LEVEL = 0.95


@dataclass(frozen=True)
class Study:
    """A design with known truth.

    make        a generator of numbers → the rows of one replicate; w varies between groups, x within them
    w           the coefficient of w;  sd that of the intercepts of the first group
    population  mean over the population at x = w = 0, or None where it is the intercept
    """

    name: str
    formula: str
    family: str
    make: Callable[[np.random.Generator], pl.DataFrame]
    w: float
    sd: float
    population: float | None = None


class Covered(NamedTuple):
    """How often an interval held the truth, of how many replicates that had one."""

    design: str
    target: str
    method: str
    covered: int
    n: int

    @property
    def share(self) -> float:
        return self.covered / self.n

    @property
    def std_error(self) -> float:
        """Monte Carlo, were coverage nominal."""
        return float(np.sqrt(LEVEL * (1 - LEVEL) / self.n))


def _grouped(sizes: list[int], sd: float, rng: np.random.Generator) -> tuple[Any, Any, Any, Any]:
    """Group, covariate of groups (0 and 1 in turn), covariate of rows, and the groups' intercepts by row."""
    g = np.repeat(np.arange(len(sizes)), sizes)
    return g, (g % 2).astype(float), rng.normal(size=len(g)), rng.normal(size=len(sizes))[g] * sd


def _gaussian(sizes: list[int]) -> Callable[[np.random.Generator], pl.DataFrame]:
    def make(rng: np.random.Generator) -> pl.DataFrame:
        g, w, x, b = _grouped(sizes, 1.0, rng)
        return pl.DataFrame({"g": g, "w": w, "x": x, "y": 1 + 0.5 * w + 0.3 * x + b + rng.normal(size=len(g))})

    return make


def _binary(rng: np.random.Generator) -> pl.DataFrame:
    g, w, x, b = _grouped([4] * 40, 1.0, rng)
    eta = 0.5 * w + 0.5 * x + b
    return pl.DataFrame({"g": g, "w": w, "x": x, "y": (rng.random(len(g)) < 1 / (1 + np.exp(-eta))).astype(int)})


def _counts(rng: np.random.Generator) -> pl.DataFrame:
    g, w, x, b = _grouped([6] * 20, 0.6, rng)
    return pl.DataFrame({"g": g, "w": w, "x": x, "y": rng.poisson(np.exp(0.5 + 0.4 * w + 0.2 * x + b))})


def _crossed(rng: np.random.Generator) -> pl.DataFrame:
    g, item = (part.ravel() for part in np.meshgrid(np.arange(10), np.arange(6), indexing="ij"))
    w, x = (g % 2).astype(float), rng.normal(size=60)
    y = 1 + 0.5 * w + 0.3 * x + rng.normal(size=10)[g] + 0.7 * rng.normal(size=6)[item] + rng.normal(size=60)
    return pl.DataFrame({"g": g, "item": item, "w": w, "x": x, "y": y})


def _logistic_mean(sd: float) -> float:
    """E 1/(1 + exp(−sd z)), which is one half."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    return float(weights @ (1 / (1 + np.exp(-sd * nodes))) / weights.sum())


UNBALANCED = [2, 2, 3, 3, 4, 5, 6, 8, 10, 12, 15, 20]
STUDIES = {
    study.name: study
    for study in (
        Study("few groups", "y ~ w + x + (1 | g)", "gaussian", _gaussian([5] * 6), 0.5, 1.0),
        Study("unbalanced", "y ~ w + x + (1 | g)", "gaussian", _gaussian(UNBALANCED), 0.5, 1.0),
        Study("binary, clusters of 4", "y ~ w + x + (1 | g)", "binomial", _binary, 0.5, 1.0, _logistic_mean(1.0)),
        Study("counts", "y ~ w + x + (1 | g)", "poisson", _counts, 0.4, 0.6, float(np.exp(0.5 + 0.5 * 0.36))),
        Study("crossed", "y ~ w + x + (1 | g) + (1 | item)", "gaussian", _crossed, 0.5, 1.0),
    )
}


def simulated(study: Study, n: int, seed: int) -> pl.DataFrame:
    """n replicates, one under the other."""
    return pl.concat(
        study.make(np.random.default_rng([seed, k])).with_columns(pl.lit(k).alias(KEY)) for k in range(n)
    )


def _tally(study: Study, target: str, method: str, table: pl.DataFrame, truth: float | pl.Expr) -> Covered:
    """Of a table with conf_low and conf_high; an interval open at an end is one."""
    value = truth if isinstance(truth, pl.Expr) else pl.lit(truth)
    known = table.filter(pl.col("conf_low").is_not_null() | pl.col("conf_high").is_not_null())
    low, high = pl.col("conf_low").fill_null(-np.inf), pl.col("conf_high").fill_null(np.inf)
    inside = known.select(inside=((low <= value) & (value <= high)).sum()).item()
    return Covered(study.name, target, method, int(inside), known.height)


def coverage(study: Study, n: int, seed: int, *, bootstraps: int = 0, draws: int = 199) -> Iterator[Covered]:
    """All intervals that the design has; profiles and bootstraps of the first `bootstraps` replicates only."""
    frame = simulated(study, n, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        many = polars_glmm.fit(frame, study.formula, family=study.family, by=KEY)
        of_w = pl.col("term") == "w"
        gaussian, one = study.family == "gaussian", "item" not in frame.columns
        kinds: dict[str, dict[str, Any]] = {"Wald, normal": {"df": "normal"}}
        if gaussian:
            kinds |= {"Satterthwaite": {"df": "satterthwaite"}, "Kenward–Roger": {"df": "kenward_roger"}}
        if one:
            kinds["CR2"] = {"vcov": "CR2"}
        for name, how in kinds.items():
            yield _tally(study, "w", name, _each(many, lambda fit, how=how: fit.fixef(**how)).filter(of_w), study.w)
        if study.population is not None:
            at = pl.DataFrame({KEY: range(n), "w": [0.0] * n, "x": [0.0] * n})
            means = many.predict(at, random="integrate", interval="confidence", name="m")
            means = means.rename({"m_low": "conf_low", "m_high": "conf_high"})
            yield _tally(study, "population mean", "delta method", means, study.population)
        if one and study.family != "binomial":  # of one trial there is nothing to cover
            yield _new_responses(study, many, n, seed)
        if bootstraps:
            some = polars_glmm.fit(
                frame.filter(pl.col(KEY) < bootstraps), study.formula, family=study.family, by=KEY
            )
            asked = ["w", "sd(g: Intercept)"]
            profile = _each(some, lambda fit: fit.confint("profile", asked))
            yield _tally(study, "w", "profile", profile.filter(of_w), study.w)
            sd = profile.filter(pl.col("quantity") == "sd")
            yield _tally(study, "sd", "profile", sd, study.sd)
            if one:
                boot = _each(some, lambda fit: fit.confint("bootstrap", asked, n=draws, rng=seed))
                yield _tally(study, "w", "bootstrap", boot.filter(of_w), study.w)
                yield _tally(study, "sd", "bootstrap", boot.filter(pl.col("quantity") == "sd"), study.sd)


def _each(many: Any, question: Callable[[Any], pl.DataFrame]) -> pl.DataFrame:
    """The tables of all fits that have one: a replicate without an interval is counted by its absence."""
    tables = []
    for _, fit in many:
        try:
            tables.append(question(fit))
        except GlmmError:
            continue
    return pl.concat(tables)


def _new_responses(study: Study, many: Any, n: int, seed: int) -> Covered:
    """A response of a new group of the next replicates of the same law."""
    new = pl.concat(
        study.make(np.random.default_rng([seed + 1, k])).head(1).with_columns(g=pl.lit(-1), **{KEY: pl.lit(k)})
        for k in range(n)
    )
    found = many.predict(new, interval="prediction", new_levels="zero", name="m")
    found = found.rename({"m_low": "conf_low", "m_high": "conf_high"})
    return _tally(study, "new response, new group", "prediction", found, pl.col("y"))


def as_markdown(found: list[Covered]) -> str:
    """The table of the page."""
    lines = ["| design | of | interval | coverage | replicates | MC error |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {c.design} | {c.target} | {c.method} | {100 * c.share:.1f} % | {c.n} | {100 * c.std_error:.1f} |"
        for c in found
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--bootstraps", type=int, default=200)
    parser.add_argument("--design", action="append", choices=sorted(STUDIES))
    asked = parser.parse_args()
    for name in asked.design or STUDIES:
        print(as_markdown(list(coverage(STUDIES[name], asked.n, 1, bootstraps=asked.bootstraps))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
