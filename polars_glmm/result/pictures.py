"""`fit.plot`: every picture is the chart of a small frame, and both are here."""

from __future__ import annotations

import warnings
from typing import Any, NoReturn

import polars as pl
import polars.selectors as cs

from polars_glmm.columns.named import column as named
from polars_glmm.columns.named import columns
from polars_glmm.control import Control
from polars_glmm.errors import FitWarning, ModelError
from polars_glmm.fitting.by_key import fit_by
from polars_glmm.frames.elsewhere import take
from polars_glmm.frames.thin import thinned
from polars_glmm.inference.ranef import coef, find_factor, level_labels
from polars_glmm.plot import counts, effects, estimates, levels, residuals
from polars_glmm.plot.chart import Chart
from polars_glmm.prediction.categories import refuse_categories
from polars_glmm.prediction.predictions import predict
from polars_glmm.result.collection import FitCollection
from polars_glmm.result.fitted import Fit
from polars_glmm.spec.call import Call

AnyFrame = pl.DataFrame | pl.LazyFrame
MOST_ROWS = 200_000
"""Rows that are fitted level by level for a picture."""
_LEVEL, _COEF, _TERM, _OFFSET = "__plot_level", "__plot_coef_", "__plot_term_", "__plot_offset"


class Pictures:
    """Pictures of a fit as Altair charts (extra `plot`), each made of a frame of at most some hundred rows.

    `data` is what the rows are read from: the frame of the fit if it was kept, or one that is given.
    """

    def __init__(self, fit: Fit) -> None:
        self.fit = fit

    # of the fit alone

    def caterpillar(self, group: str | None = None, term: str | None = None, conf_level: float = 0.95) -> Chart:
        """Random effects from the smallest to the largest, with intervals."""
        return levels.caterpillar_chart(levels.caterpillar_frame(self.fit, group, term, conf_level))

    def qq_ranef(self, group: str | None = None, term: str | None = None, conf_level: float = 0.95) -> Chart:
        """Random effects against normal quantiles."""
        return levels.qq_chart(levels.caterpillar_frame(self.fit, group, term, conf_level))

    def forest(
        self,
        table: pl.DataFrame | None = None,
        *,
        label: str | None = None,
        color: str | None = None,
        zero: float = 0.0,
    ) -> Chart:
        """Estimates with intervals: of any table that has them, by default the fixed effects but the intercept."""
        shown = self.fit.fixef().filter(pl.col("term") != "Intercept") if table is None else table
        return estimates.forest_chart(estimates.forest_frame(shown, label, color), zero, color)

    # with rows

    def residuals(self, data: AnyFrame | None = None, residual: str = "pearson") -> Chart:
        """Residuals against fitted values, their size, their quantiles, and by level; many rows in bins."""
        return residuals.residual_chart(residuals.residual_frame(self.fit, self._rows(data), residual))

    def effects(
        self, variable: str, by: str | None = None, data: AnyFrame | None = None, conf_level: float = 0.95
    ) -> Chart:
        """The mean along a variable with its band, other columns at typical values, over some of the data.

        Of categories the probability of each.
        """
        frame = effects.effect_frame(self.fit, variable, self._rows(data), by, conf_level=conf_level)
        response = self.fit.recipe.response.name
        if self.fit.recipe.spec.family.response == "category":
            return effects.effect_chart(frame, variable, "probability", response)
        return effects.effect_chart(frame, variable, response, by)

    def trajectories(self, x: str, group: str | None = None, levels: int = 9, data: AnyFrame | None = None) -> Chart:
        """The first levels of a group: their rows, their own line, and that of the population."""
        frame = effects.trajectory_frame(self.fit, x, self._rows(data), group, levels)
        name = group or self.fit.recipe.factors[0].name
        return effects.trajectory_chart(frame, x, self.fit.recipe.response.name, name)

    def shrinkage(self, group: str | None = None, data: AnyFrame | None = None) -> Chart:
        """Each level's own estimates, from its rows alone, and what the model makes of them."""
        return levels.shrinkage_chart(shrinkage_frame(self.fit, self._rows(data), group))

    def counts(
        self, data: AnyFrame | None = None, *, hanging: bool = False, n: int = counts.DRAWS, rng: int = 1
    ) -> Chart:
        """How often each count was observed, and is expected in data drawn from the model."""
        return counts.count_chart(counts.count_frame(self.fit, self._rows(data), n, rng), hanging=hanging)

    def mixture(self, at: pl.DataFrame | None = None) -> Chart:
        """The law of a count at one level and over all, at the rows `at`; by default one row of typical values."""
        return counts.mixture_chart(counts.mixture_frame(self.fit, self._typical() if at is None else at))

    # of tables

    def profile(self, table: pl.DataFrame, conf_level: float = 0.95) -> Chart:
        """ζ of a table of profiles (columns value, zeta) against the parameters."""
        return estimates.profile_chart(table, conf_level)

    def influence(self, table: pl.DataFrame, measure: str = "cooks_distance") -> Chart:
        """The levels of a table of influence that matter most."""
        return estimates.influence_chart(table, measure)

    def bootstrap(self, table: pl.DataFrame) -> Chart:
        """The spread of a table of bootstrap draws (columns draw, value) for each parameter."""
        return estimates.bootstrap_chart(estimates.bootstrap_frame(table))

    def _rows(self, data: Any) -> AnyFrame:
        """The rows of the fit, or those that are given, whatever library has them. Raises ModelError for none."""
        if data is None:
            return self.fit.data()
        if (taken := take(data)) is None:
            msg = f"data= is a frame of Polars, pandas, PyArrow and others, not a {type(data).__name__}."
            raise ModelError(msg)
        return taken.frame

    def _typical(self) -> pl.DataFrame:
        """Typical values of all that one prediction and its effects need."""
        row = effects.typical(self.fit, self._rows(None), random=True)
        trials = self.fit.spec.trials
        return row if trials is None else row.with_columns(named(trials).round().cast(pl.Int64))


class KeyedPictures:
    """Pictures of a collection; those of one of its fits are `collection[key].plot`."""

    def __init__(self, made: FitCollection) -> None:
        self.made = made

    def __getattr__(self, name: str) -> NoReturn:
        """What is drawn of one fit only."""
        keys = ", ".join(self.made.keys.columns)
        drawn = f" Of one fit: collection[{keys}].plot.{name}(…)." if hasattr(Pictures, name) else ""
        raise AttributeError(f"There is no picture {name!r} of a collection, but forest().{drawn}")

    def forest(self, table: pl.DataFrame | None = None, *, label: str | None = None, zero: float = 0.0) -> Chart:
        """Estimates of all keys with intervals, coloured by key: of any table, by default the fixed effects."""
        keys = self.made.keys.columns
        shown = self.made.fixef().filter(pl.col("term") != "Intercept") if table is None else table
        color = ", ".join(keys)
        shown = shown.with_columns(pl.concat_str(columns(keys), separator=", ").alias(color))
        return estimates.forest_chart(estimates.forest_frame(shown, label, color), zero, color)


def shrinkage_frame(fit: Fit, data: AnyFrame, group: str | None = None) -> pl.DataFrame:
    """Each level's own estimates beside those of the model: level, term, own, conditional, population, n_levels.

    The own ones are those of the terms that vary between levels, by maximum likelihood from the rows of the level alone
    with everything else as in the model; levels whose rows do not suffice are left out, of many the first are taken.
    Raises ModelError where no fixed effect varies.
    """
    refuse_categories(fit.recipe, "This picture", "ranef() has the effects, and caterpillar() shows them")
    if fit.recipe.spec.family.curve is not None:
        msg = "This picture is of one linear predictor, and the model is nonlinear: use ranef(), or caterpillar()."
        raise ModelError(msg)
    names = [factor.name for factor in fit.recipe.factors]
    if not names:
        msg = "The model has no random effects that could shrink."
        raise ModelError(msg)
    recipe, estimate = find_factor(fit, names[0] if group is None else group)
    if recipe.members is not None:
        msg = f"Levels have own estimates where rows are in one, and they are in several of {recipe.name!r}: "
        msg += "use plot.caterpillar()."
        raise ModelError(msg)
    fixed = {own.name for own in fit.recipe.predictor("mu").columns}
    shown = [term for term in dict.fromkeys(estimate.term_names) if term in fixed]
    if not shown:
        msg = f"No random effect of {recipe.name!r} has a fixed effect of its name to shrink to."
        raise ModelError(msg)
    keys, n_levels = list(recipe.keys), recipe.levels.height
    conditional = coef(fit, recipe.name).with_columns(level_labels(recipe).alias(_LEVEL)).head(levels.MOST)
    rows = _with_offset(fit, data, conditional, keys, shown)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # of fits that nobody asked for
        alone = FitCollection.of(fit_by(rows, keys, _alone(fit, shown), Control()))
    names_of = {"Intercept": "Intercept"} | {f"{_TERM}{k}": term for k, term in enumerate(shown)}
    own = alone.fixef().filter(pl.col("std_error").is_not_null()).with_columns(pl.col("term").replace(names_of))
    long = conditional.select(columns([*keys, _LEVEL, *shown])).unpivot(
        index=cs.by_name(*keys, _LEVEL), on=cs.by_name(*shown), variable_name="term", value_name="conditional"
    )
    population = fit.fixef().filter(pl.col("parameter") == "mu").select("term", population="estimate")
    joined = own.select(*columns(keys), "term", own="estimate").join(long, on=columns([*keys, "term"]), how="inner")
    return joined.join(population, on="term", maintain_order="left").select(
        pl.col(_LEVEL).alias("level"), "term", "own", "conditional", "population",
        pl.lit(n_levels, pl.Int64).alias("n_levels"),
    )  # fmt: skip


def _with_offset(
    fit: Fit, data: AnyFrame, conditional: pl.DataFrame, keys: list[str], shown: list[str]
) -> pl.DataFrame:
    """The rows of some levels with an offset: the linear predictor but for the terms that vary between them."""
    nodes = {own.name: own.node for own in fit.recipe.predictor("mu").columns}
    own = conditional.select(*columns(keys), *(named(term).alias(f"{_COEF}{k}") for k, term in enumerate(shown)))
    rows, _ = thinned(data.lazy().join(own.lazy(), on=columns(keys), how="inner"), MOST_ROWS)
    told = predict(rows, fit, kind="link", name=_OFFSET)
    told = told.with_columns((pl.lit(1.0) * nodes[term].to_expr()).alias(f"{_TERM}{k}") for k, term in enumerate(shown))
    varying = [pl.col(f"{_COEF}{k}") * pl.col(f"{_TERM}{k}") for k in range(len(shown))]
    return told.with_columns(pl.col(_OFFSET) - pl.sum_horizontal(varying)).drop_nulls(_OFFSET)


def _alone(fit: Fit, terms: list[str]) -> Call:
    """The response by some terms without random effects, all else in the offset."""
    spec = fit.spec
    others = [f"{_TERM}{k}" for k, term in enumerate(terms) if term != "Intercept"]
    right = " + ".join(["1" if "Intercept" in terms else "0", *others])
    return Call(
        (f"{spec.response.text} ~ {right}",), None, spec.family, None, None, spec.trials, _OFFSET, spec.frequency,
        spec.precision,
    )  # fmt: skip
