"""Tests of what a model assumes of its rows and of its random effects, one row of a table each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.columns.named import column, columns
from polars_glmm.design.known import used_columns
from polars_glmm.design.response import response_arrays
from polars_glmm.errors import ColumnError, ModelError, counted, enumerate_names, suggest
from polars_glmm.fitting.again import rows_of
from polars_glmm.fitting.flow import data_of
from polars_glmm.frames.batches import whole
from polars_glmm.frames.elsewhere import read
from polars_glmm.inference.mode_normality import normality_of_modes
from polars_glmm.inference.schemas import Schema, table
from polars_glmm.prediction.categories import labels_of
from polars_glmm.prediction.correlated import add_normalized
from polars_glmm.prediction.given import INNER, Given, add_distribution, inner_of, probability_of
from polars_glmm.prediction.leverage import leverage_of
from polars_glmm.prediction.parameters import of_fit
from polars_glmm.prediction.predictions import predict
from polars_glmm.prediction.residuals import NORMALIZED, augment
from polars_glmm.prediction.rows import response_inputs
from polars_glmm.prediction.seeds import seed_of
from polars_glmm.prediction.simulations import simulate

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.typing import Vec

_REAL, _TEXT = pl.Float64(), pl.String()
CHECK: Schema = {
    "test": _TEXT, "group": _TEXT, "term": _TEXT, "seed": pl.UInt64(), "method": _TEXT, "note": _TEXT,
    "statistic": _REAL, "expected": _REAL, "std_error": _REAL, "p_value": _REAL,
}  # fmt: skip
_PREFIX = "check_"
_TAIL = 0.005
"""Probability beyond each limit outside which a response is an outlier."""
_SHRUNK = "residuals at the modes are less spread than the model's; given='integrate' has the law, but groups depend"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table."""

    test: str
    statistic: float
    expected: float
    std_error: float
    p_value: float
    method: str
    note: str | None = None
    group: str | None = None
    term: str | None = None


@dataclass(frozen=True, eq=False)
class Checked:
    """What the tests are about: the fit, its rows, how often to simulate, and where the draws begin."""

    fit: Answer
    rows: pl.DataFrame
    n: int
    seed: int
    given: Given
    time: str | None

    @cached_property
    def augmented(self) -> pl.DataFrame:
        """The rows with residuals, incomplete ones left out; of categories those that augment() has.

        Correlated residuals about given effects are whitened: they are independent and normal if the model holds.
        """
        if self.fit.recipe.spec.family.unordered:
            told = augment(self.rows, self.fit, _PREFIX)
            return told.filter(column(f"{_PREFIX}fitted").is_not_null())
        made = augment(self.rows, self.fit, _PREFIX, quantile=True, given=self.given, rng=self.seed)
        if self.fit.recipe.residual is not None and self.given != "integrate":
            scores = f"{_PREFIX}resid_quantile"  # of gaussian rows they are (y - mu) / sd
            made = whole(add_normalized(made.lazy(), of_fit(self.fit), scores, scores))
        return made.filter(column(f"{_PREFIX}resid_quantile").is_not_null())

    def of(self, name: str) -> Vec:
        """One of the added columns."""
        return self.augmented[f"{_PREFIX}{name}"].to_numpy()

    def generator(self, stream: int) -> np.random.Generator:
        """Random numbers of one test, whatever others are asked for."""
        return np.random.default_rng([self.seed, stream])


def check(  # noqa: PLR0913  the arguments of the public verb
    fit: Answer,
    tests: str | Sequence[str] = "all",
    frame: pl.DataFrame | pl.LazyFrame | None = None,
    *,
    n: int = 250,
    rng: np.random.Generator | int | None = None,
    given: Given = "modes",
    time: str | None = None,
) -> pl.DataFrame:
    """One row per test: test, group, term, seed, method, note, statistic, expected, std_error, p_value.

    dispersion          Pearson's χ² over n − tr(H), against responses simulated at the modes (`n` of them)
    zero_inflation      zeros observed, against those of the marginal distribution; simulated with new random effects
    outliers            quantile residuals in the outer 1 %: binomial
    uniformity          Kolmogorov's distance of the quantile residuals from their law
    heteroscedasticity  Spearman's correlation of |quantile residual| with the fitted value
    autocorrelation     of quantile residuals of one step of the column `time`, within the first grouping factor
    ranef_normality     Anderson & Darling's distance of the standardised modes û/√Var(û) from normal, simulated

    "all" are those that the model has something for (counts have zeros; autocorrelation needs `time=`; categories have
    dispersion, of Pearson's χ² over the categories of each row, and, without an order, no quantile residuals). Quantile
    residuals are those of augment(quantile=True, given=given); with residual= whitened, as dispersion takes them, but
    for given="integrate", where rows of a group depend anyhow. `frame` None: the rows of the fit. p-values are
    two-sided and no verdicts: with many rows everything is significant; statistic beside expected says by how much.
    Raises ModelError for tests that are not known, where the rows of the fit are gone, for n below 1.
    """
    names = _chosen(fit, tests, time)
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        msg = f"n={n!r}: the number of simulations is a whole number of at least 1."
        raise ModelError(msg)
    used = [*used_columns(fit.recipe), *([] if time is None else [time])]
    if frame is None:
        rows_of_fit = rows_of(fit, "check()") if time is None else whole(_with(data_of(fit), used))
    else:
        rows_of_fit = whole(_with(frame, used))
    seed = seed_of(rng)
    asked = Checked(fit, rows_of_fit, n, seed, given, time)
    rows = [row for name in names for row in TESTS[name](asked)]
    return table(CHECK, {name: [getattr(row, name, seed) for row in rows] for name in CHECK})


def _with(frame: pl.DataFrame | pl.LazyFrame, used: list[str]) -> pl.LazyFrame:
    lazy = read(frame, "check()").lazy()
    absent = [name for name in used if name not in lazy.collect_schema()]
    if absent:
        msg = f"check needs {enumerate_names(absent)}, which the frame does not have."
        raise ColumnError(msg)
    return lazy.select(columns(list(dict.fromkeys(used))))


def _chosen(fit: Answer, tests: str | Sequence[str], time: str | None) -> list[str]:
    family = fit.recipe.spec.family
    of_categories = OF_CATEGORIES if family.unordered else OF_ORDERED
    possible = of_categories if family.response == "category" else tuple(TESTS)
    if tests == "all":
        left_out = {
            "dispersion": family.is_censored,
            "zero_inflation": not family.discrete,
            "autocorrelation": time is None,
            "ranef_normality": not fit.recipe.factors,
        }
        return [name for name in TESTS if name in possible and not left_out.get(name, False)]
    names = [tests] if isinstance(tests, str) else list(tests)
    for name in names:
        if name not in TESTS:
            hint = suggest(str(name), TESTS, listed=True)
            msg = f"check() has no test {name!r}: use 'all' or some of {enumerate_names(list(TESTS), limit=9)}.{hint}"
            raise ModelError(msg)
    apart = [name for name in names if name not in possible]
    if apart:
        msg = (
            f"{enumerate_names(apart)}: of responses that are numbers, or have quantile residuals, and these are "
            f"categories. Use {enumerate_names(list(possible), 'or')}; augment() has residuals."
        )
        raise ModelError(msg)
    if "autocorrelation" in names and time is None:
        msg = "autocorrelation needs time=, the column that orders the rows of a group."
        raise ModelError(msg)
    return names


def _dispersion(asked: Checked) -> list[Finding]:
    fit, family = asked.fit, asked.fit.recipe.spec.family
    if family.is_censored:
        msg = "dispersion is of Pearson residuals, which censored responses have none of."
        raise ModelError(msg)
    rows = asked.augmented
    if family.response == "category":
        return [_dispersion_of_categories(asked, rows)]
    residuals = "resid_pearson" if fit.recipe.residual is None else NORMALIZED
    observed = float(np.square(asked.of(residuals)).sum())
    effective = float(leverage_of(fit, rows.select(columns(used_columns(fit.recipe)))).found.value.sum())
    count = rows.height
    left = count - effective
    drawn = _pearson_of_draws(asked, rows)
    ratio, expected = observed / left, float(drawn.mean()) / count
    spread = float(drawn.std(ddof=1)) / count if asked.n > 1 else np.nan
    note = None
    if family.has_phi and not len(fit.estimate.gamma):
        note = "the dispersion is estimated from these rows, so the ratio is near 1 by construction"
    method = f"Pearson's chi-squared over {left:.1f} = {count} rows - {effective:.1f} effective parameters"
    return [Finding("dispersion", ratio, expected, spread, _two_sided(ratio, drawn / count), method, note)]


def _dispersion_of_categories(asked: Checked, rows: pl.DataFrame) -> Finding:
    """Σ_k (1[y = k] − p_k)²/p_k = 1/p_y − 1 of every row, against categories drawn at the modes."""
    told = predict(rows, asked.fit, name=f"{_PREFIX}p")
    p = told.select(columns([f"{_PREFIX}p_{label}" for label in labels_of(asked.fit.recipe)])).to_numpy().T
    effective = float(leverage_of(asked.fit, rows.select(columns(used_columns(asked.fit.recipe)))).found.value.sum())
    if not asked.fit.recipe.spec.family.unordered:  # thresholds are beside the leverage of eta
        effective += len(asked.fit.estimate.gamma)
    count = (len(p) - 1) * rows.height
    left = count - effective
    rng, below = asked.generator(1), np.cumsum(p[:-1], axis=0)
    drawn = np.empty(asked.n)
    for i in range(asked.n):
        chosen = (rng.uniform(size=rows.height) > below).sum(0)
        drawn[i] = (1.0 / np.take_along_axis(p, chosen[None], axis=0) - 1.0).sum()
    ratio, expected = float((1.0 / asked.of("fitted") - 1.0).sum()) / left, float(drawn.mean()) / count
    spread = float(drawn.std(ddof=1)) / count if asked.n > 1 else np.nan
    method = f"Pearson's chi-squared over {left:.1f} = {count} free categories of rows - {effective:.1f} parameters"
    return Finding("dispersion", ratio, expected, spread, _two_sided(ratio, drawn / count), method)


def _pearson_of_draws(asked: Checked, rows: pl.DataFrame) -> Vec:
    """Pearson's χ² of responses drawn at the modes."""
    recipe, family = asked.fit.recipe, asked.fit.recipe.spec.family
    lazy = rows.lazy().select(columns(used_columns(recipe)))
    response = response_inputs(recipe)
    lazy = add_distribution(lazy, lazy.collect_schema(), of_fit(asked.fit), "modes", verb="check", also_used=response)
    used = whole(lazy.select(columns([*INNER, *sorted(response)])))
    read, (eta, _, phi) = response_arrays(recipe, used), inner_of(used, family)
    mu, rng = family.mean(eta), asked.generator(1)
    trials = 1.0 if read.trials is None else read.trials
    precision = 1.0 if read.precision is None else read.precision
    variance = family.variance(mu, phi) / (trials * precision)
    return np.array(
        [np.sum((family.simulate(rng, mu, phi, read) / trials - mu) ** 2 / variance) for _ in range(asked.n)]
    )


def _zero_inflation(asked: Checked) -> list[Finding]:
    fit, recipe, family = asked.fit, asked.fit.recipe, asked.fit.recipe.spec.family
    if not family.discrete:
        msg = f"zero_inflation is of counts, and {family.name} is not."
        raise ModelError(msg)
    rows = asked.augmented.select(columns(used_columns(recipe)))
    response = response_inputs(recipe)
    lazy = add_distribution(
        rows.lazy(), rows.schema, of_fit(fit), "integrate", verb="check", also_used=response
    )  # fmt: skip
    used = whole(lazy.select(columns([*INNER, *sorted(response)])))
    read = response_arrays(recipe, used)
    w = np.ones(rows.height)
    if recipe.spec.frequency is not None:
        w = rows[recipe.spec.frequency].cast(pl.Float64).to_numpy()
    zero = probability_of(family, read._replace(y=np.zeros(rows.height)), inner_of(used, family))
    observed, expected = float(w @ (read.y == 0.0)), float(w @ zero)
    made = simulate(rows, fit, asked.n, asked.generator(2))
    drawn = np.array([float(w @ _is_zero(made[f"sim_{i + 1}"])) for i in range(asked.n)])
    spread = float(drawn.std(ddof=1)) if asked.n > 1 else np.nan
    method = "zeros, expected with the random effects integrated out; spread of simulated responses"
    return [Finding("zero_inflation", observed, expected, spread, _two_sided(observed, drawn), method)]


def _is_zero(drawn: pl.Series) -> Vec:
    """1.0 where a simulated response is zero, whatever its dtype: False, or the first of two labels."""
    if drawn.dtype == pl.Boolean or drawn.dtype.is_numeric():
        return (drawn.cast(pl.Float64) == 0.0).cast(pl.Float64).to_numpy()
    return (drawn.to_physical() == drawn.to_physical().min()).cast(pl.Float64).to_numpy()


def _outliers(asked: Checked) -> list[Finding]:
    from scipy.special import bdtr, ndtri  # noqa: PLC0415

    score, limit = asked.of("resid_quantile"), -float(ndtri(_TAIL))
    count, found = len(score), int((np.abs(score) > limit).sum())
    p = 2.0 * _TAIL
    below, above = float(bdtr(found, count, p)), 1.0 - (float(bdtr(found - 1, count, p)) if found else 0.0)
    spread = float(np.sqrt(count * p * (1.0 - p)))
    method = f"quantile residuals beyond ±{limit:.2f} (1 %), binomial"
    return [Finding("outliers", found, count * p, spread, min(1.0, 2.0 * min(below, above)), method, _note(asked))]


def _uniformity(asked: Checked) -> list[Finding]:
    from scipy.special import kolmogorov, ndtr  # noqa: PLC0415

    u = np.sort(ndtr(asked.of("resid_quantile")))
    n = len(u)
    i = np.arange(1, n + 1)
    distance = float(max((i / n - u).max(), (u - (i - 1) / n).max()))
    root = np.sqrt(n)
    p = float(kolmogorov((root + 0.12 + 0.11 / root) * distance))  # Stephens (1970)
    law = 0.8687311606361593 / root, 0.2603328 / root  # mean and deviation of Kolmogorov's distribution
    return [Finding("uniformity", distance, *law, p, "Kolmogorov's distance of the quantile residuals", _note(asked))]


def _heteroscedasticity(asked: Checked) -> list[Finding]:
    from scipy.special import ndtr  # noqa: PLC0415

    score, fitted = np.abs(asked.of("resid_quantile")), asked.of("fitted")
    rho, n = _correlation(_ranks(score), _ranks(fitted)), len(score)
    spread = 1.0 / np.sqrt(max(n - 1, 1))
    p = float(2.0 * ndtr(-abs(rho) / spread))
    return [Finding("heteroscedasticity", rho, 0.0, spread, p, "Spearman's correlation of |residual| with fitted")]


def _autocorrelation(asked: Checked) -> list[Finding]:
    from scipy.special import ndtr  # noqa: PLC0415

    assert asked.time is not None  # checked
    factors, series = asked.fit.recipe.factors, asked.fit.spec.residual
    keys = list(factors[0].level_columns) if factors else [] if series is None else list(series.keys)
    residual = column(f"{_PREFIX}resid_quantile")
    ordered = asked.augmented.sort(columns([*keys, asked.time]))
    before = residual.shift(1).over(columns(keys)) if keys else residual.shift(1)
    pairs = ordered.select(now=residual, before=before).drop_nulls()
    rho, n = _correlation(pairs["now"].to_numpy(), pairs["before"].to_numpy()), pairs.height
    spread = 1.0 / np.sqrt(max(n, 1))
    p = float(2.0 * ndtr(-abs(rho) / spread))
    where = f"within {factors[0].name if factors else ':'.join(keys)}" if keys else "over all rows"
    note = "residuals about estimated effects go against each other in short series"
    method = f"correlation of {counted(n, 'pair')} one step of {asked.time!r} apart, {where}"
    return [Finding("autocorrelation", rho, 0.0, spread, p, method, note if keys else None)]


def _ranef_normality(asked: Checked) -> list[Finding]:
    if not asked.fit.recipe.factors:
        msg = "ranef_normality is about random effects, and this model has none."
        raise ModelError(msg)
    rows = normality_of_modes(asked.fit, asked.n, lambda: asked.generator(3))
    return [
        Finding("ranef_normality", *one.numbers, one.method, one.note, one.group, one.term) for one in rows
    ]  # fmt: skip


def _two_sided(value: float, drawn: Vec) -> float:
    """Share of draws as far out as the value, on the nearer side and twice (Davison & Hinkley 1997, eq. 4.11)."""
    n = len(drawn)
    above, below = int((drawn >= value).sum()), int((drawn <= value).sum())
    return min(1.0, 2.0 * (1 + min(above, below)) / (n + 1))


def _note(asked: Checked) -> str | None:
    return _SHRUNK if asked.given == "modes" and asked.fit.recipe.factors else None


def _ranks(v: Vec) -> Vec:
    return pl.Series(v).rank("average").to_numpy()


def _correlation(a: Vec, b: Vec) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0.0 else 0.0


OF_CATEGORIES = ("dispersion", "ranef_normality")
OF_ORDERED = ("dispersion", "outliers", "uniformity", "autocorrelation", "ranef_normality")
"""Tests of responses that are categories, without an order and with one."""
TESTS: dict[str, Callable[[Checked], list[Finding]]] = {
    "dispersion": _dispersion,
    "zero_inflation": _zero_inflation,
    "outliers": _outliers,
    "uniformity": _uniformity,
    "heteroscedasticity": _heteroscedasticity,
    "autocorrelation": _autocorrelation,
    "ranef_normality": _ranef_normality,
}
