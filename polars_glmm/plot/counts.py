"""Counts: how often each was observed and expected, and the mixture over levels beside the law of one of them."""

from __future__ import annotations

import numpy as np
import polars as pl

from polars_glmm.answer.record import Answer
from polars_glmm.columns.named import columns
from polars_glmm.design.response import response_arrays
from polars_glmm.errors import ModelError
from polars_glmm.families.base import Family, Rows
from polars_glmm.frames.thin import thinned
from polars_glmm.linalg.quadrature import gauss_hermite
from polars_glmm.plot import chart
from polars_glmm.plot.chart import FIRST, HIGH, QUIET, SECOND, WIDE, Chart
from polars_glmm.prediction.parameters import refuse_several
from polars_glmm.prediction.predictions import predict
from polars_glmm.prediction.rows import sizes_of
from polars_glmm.prediction.simulations import simulate
from polars_glmm.typing import Mat, Vec

DRAWS, MOST_ROWS, MOST_BARS = 100, 20_000, 60
NODES = 101
_MOST_VALUE = 400


def count_frame(fit: Answer, data: pl.DataFrame | pl.LazyFrame, n: int = DRAWS, rng: int = 1) -> pl.DataFrame:
    """How often each count occurs in the data, and in n data sets drawn from the model with new levels.

    The last count stands for all that are larger: draws go far where levels differ much.
    Columns value, width (of a bar: 1, or more where the counts are large), observed, expected (the mean of the draws),
    low, high (their 2.5 and 97.5 %), n_rows (taken), n_all.
    Raises ModelError for a response that is no count.
    """
    require_counts(fit)
    used = [name for name in fit.spec.columns() if name in data.lazy().collect_schema()]
    rows, n_all = thinned(data.lazy().select(columns(used)).drop_nulls(), MOST_ROWS)
    observed = np.asarray(response_arrays(fit.recipe, rows).y)
    drawn = simulate(rows, fit, n, rng).select(pl.col("^sim_\\d+$").cast(pl.Float64)).to_numpy()
    top = int(max(observed.max(), np.quantile(drawn, 0.99)))
    width = -(-(top + 1) // MOST_BARS)
    bars = top // width + 1

    def often(values: Vec) -> Vec:
        return np.bincount(np.minimum(values // width, bars - 1).astype(np.int64), minlength=bars).astype(np.float64)

    expected = np.array([often(drawn[:, k]) for k in range(n)])
    low, high = np.quantile(expected, [0.025, 0.975], axis=0)
    return pl.DataFrame(
        {
            "value": np.arange(bars) * width,
            "width": np.full(bars, width),
            "observed": often(observed),
            "expected": expected.mean(0),
            "low": low,
            "high": high,
            "n_rows": np.full(bars, rows.height),
            "n_all": np.full(bars, n_all),
        }
    )


def count_chart(frame: pl.DataFrame, *, hanging: bool = False) -> Chart:
    """Bars for what was observed, points with intervals for what the model expects.

    hanging   a rootogram: roots of counts, the bars hang from the expected ones and should end at zero
    """
    alt = chart.altair()
    width = int(frame["width"][0])
    some = chart.some_of(frame["n_rows"][0], frame["n_all"][0], "rows")
    note = "; ".join(filter(None, (some, "the last bar: that many or more")))
    shown = frame.with_columns(end=pl.col("value") + 0.85 * width, middle=pl.col("value") + 0.425 * width)
    if hanging:
        shown = shown.with_columns(pl.col("observed", "expected", "low", "high").sqrt())
        shown = shown.with_columns(foot=pl.col("expected") - pl.col("observed"), top=pl.col("expected"))
    else:
        shown = shown.with_columns(foot=pl.lit(0.0), top=pl.col("observed"))
    x = alt.X("value:Q", title="count", scale=alt.Scale(nice=False), axis=alt.Axis(grid=False, tickMinStep=1))
    y = alt.Y("foot:Q", title="root of rows" if hanging else "rows")
    tooltip = ["value", "observed", "expected", "low", "high"]
    base, dot = alt.Chart(), alt.OverlayMarkDef(color=SECOND, size=24)
    layers = [
        base.mark_rect(color=QUIET, opacity=0.55).encode(x=x, x2="end", y=y, y2="top", tooltip=tooltip),
        base.mark_rule(color=SECOND, strokeWidth=1.5).encode(x="middle:Q", y="low:Q", y2="high"),
        base.mark_line(color=SECOND, point=dot).encode(x="middle:Q", y="expected:Q"),
    ]
    if hanging:
        layers.append(chart.reference(0.0))
    title = chart.titled("Counts: observed (bars) and expected", note)
    return alt.layer(*layers, data=shown).properties(title=title, width=WIDE * 1.3, height=HIGH)


def mixture_frame(fit: Answer, at: pl.DataFrame, share: float = 0.99) -> pl.DataFrame:
    """For each row of `at` the law of a level with all random effects at zero, and the mixture over levels.

    Columns case (number of the row), value, unit, mixture: the probabilities of every count. The mixture is the
    integral of p(y | η + z'b) N(b; 0, Σ) by Gauss–Hermite quadrature along z'b, which is normal with variance z'Σz;
    counts that have no end stop where it has this share.
    Raises ModelError for a response that is no count.
    """
    require_counts(fit)
    refuse_several(fit.recipe, "This picture", "fit.distribution() has the probabilities, as numbers")
    family = fit.spec.family
    eta = predict(at, fit, kind="link", random="none", name="plot")["plot"].to_numpy()
    phi = predict(at, fit, kind="phi", random="none", name="plot")["plot"].to_numpy() if family.has_phi else None
    spread, sizes = np.sqrt(random_variance(fit, at)), sizes_of(fit.recipe, at)
    rule = gauss_hermite(NODES, 1)
    weights = np.exp(rule.log_weights - 0.5 * rule.nodes[0] ** 2)
    parts = []
    for k in range(at.height):
        trials = None if sizes.trials is None else float(np.broadcast_to(sizes.trials, at.height)[k])
        if family.takes_trials and trials is None:
            trials = 1.0
        values = np.arange((trials if trials is not None else _MOST_VALUE) + 1.0)
        zeta = None if phi is None else float(np.log(phi[k]))
        points = eta[k] + spread[k] * np.concatenate([[0.0], rule.nodes[0]])
        mass = np.array([_probabilities(family, values, trials, point, zeta) for point in points])
        mixture = weights @ mass[1:]
        stop = len(values) if trials is not None else int(np.searchsorted(np.cumsum(mixture), share)) + 1
        case, value = np.full(stop, k + 1), values[:stop].astype(np.int64)
        parts.append(pl.DataFrame({"case": case, "value": value, "unit": mass[0, :stop], "mixture": mixture[:stop]}))
    return pl.concat(parts)


def mixture_chart(frame: pl.DataFrame) -> Chart:
    """Both laws as points and lines; a picture for each case."""
    alt = chart.altair()
    names = {"unit": "one level at zero", "mixture": "mixture over levels"}
    long = frame.unpivot(index=["case", "value"], on=[*names], variable_name="law", value_name="probability")
    long = long.with_columns(pl.col("law").replace(names))
    colour = alt.Color("law:N", title=None, scale=alt.Scale(domain=[*names.values()], range=[QUIET, FIRST]))
    base = alt.Chart(long).encode(
        x=alt.X("value:Q", title="count", axis=alt.Axis(tickMinStep=1, grid=False)),
        y=alt.Y("probability:Q"), color=colour,
        tooltip=["law", "value", "probability"],
    )  # fmt: skip
    picture = base.mark_line(point=alt.OverlayMarkDef(size=28), strokeWidth=1.5).properties(width=WIDE, height=HIGH)
    if frame["case"].n_unique() > 1:
        small = picture.properties(width=WIDE * 0.7, height=HIGH * 0.7)
        picture = small.facet(facet=alt.Facet("case:O", title="row"), columns=3)
    return picture.properties(title=chart.titled("The law of one level, and the mixture over levels"))


def random_variance(fit: Answer, at: pl.DataFrame) -> Vec:
    """z'Σz of every row, (n,): how much the linear predictor varies between levels there."""
    total = np.zeros(at.height)
    for recipe, estimate in zip(fit.recipe.factors, fit.estimate.factors, strict=True):
        for term, sigma in zip(recipe.terms, estimate.covariances, strict=True):
            on_mean = np.array([not part for part in term.parts or (0,) * len(term.columns)])
            made = [at.select(own.node.to_expr().alias("z")).to_series() for own in term.columns]
            z: Mat = np.array([np.resize(own.to_numpy(), at.height) for own in made])
            total += np.einsum("rn,rs,sn->n", z[on_mean], sigma[np.ix_(on_mean, on_mean)], z[on_mean])
    return total


def require_counts(fit: Answer) -> None:
    """Raise ModelError unless the response is a number of events."""
    if not fit.spec.family.discrete or fit.recipe.response.proportion:
        msg = f"Counts are drawn of binomial, poisson and negative binomial responses; this one is {fit.family}: "
        msg += "use plot.residuals(), or fit.distribution()."
        raise ModelError(msg)


def _probabilities(family: Family, values: Vec, trials: float | None, eta: float, zeta: float | None) -> Vec:
    rows = Rows(values, None if trials is None else np.full(len(values), trials))
    at = (np.full(len(values), eta), *(() if zeta is None else (zeta,)))
    with np.errstate(all="ignore"):
        log_mass = family.density(rows, at, 0).f + family.constant(rows)
    return np.asarray(np.nan_to_num(np.exp(log_mass), nan=0.0))
