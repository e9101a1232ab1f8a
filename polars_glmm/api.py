"""The verbs that make or compare models, as typed functions: fit, explain, objective, anova.

Those that work with a fit on a frame (predict, augment, with_ranef, simulate) are functions of prediction/ already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import polars as pl

from polars_glmm.control import Control, as_control
from polars_glmm.errors import ModelError
from polars_glmm.foreign import answered
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.torn import whole_files
from polars_glmm.result.collection import TABLE_COLUMNS, FitCollection
from polars_glmm.result.fitted import Fit, starting_values
from polars_glmm.spec.call import Call, Groups, Missing, ModelArguments

if TYPE_CHECKING:
    import numpy as np

    from polars_glmm.families.base import Family
    from polars_glmm.likelihood.objective import NaturalObjective
    from polars_glmm.result.explanation import Explanation
    from polars_glmm.result.explanation_by import KeyedExplanation
    from polars_glmm.result.products import Products
    from polars_glmm.spec.method import Method
    from polars_glmm.spec.relation import KnownLevels
    from polars_glmm.typing import FamilyName, LinkName, MethodName

AnyFrame = pl.DataFrame | pl.LazyFrame


class FitArguments(ModelArguments, total=False):
    """Keyword arguments of `fit` besides by."""

    start: Mapping[str, float] | Fit | str | PathLike[str] | None
    fixed: Mapping[str, float] | None
    control: Control | None


@overload
def fit(frame: AnyFrame, *formulas: str, by: None = ..., **arguments: Unpack[FitArguments]) -> Fit: ...
@overload
def fit(
    frame: AnyFrame, *formulas: str, by: str | Sequence[str], **arguments: Unpack[FitArguments]
) -> FitCollection: ...
@answered
def fit(
    frame: AnyFrame,
    *formulas: str,
    groups: Groups = None,
    family: FamilyName | Family = "gaussian",
    link: LinkName | None = None,
    method: MethodName | Method | None = None,
    trials: str | None = None,
    offset: str | None = None,
    frequency: str | None = None,
    precision: str | None = None,
    by: str | Sequence[str] | None = None,
    missing: Missing = "drop",
    residual: str | None = None,
    known: Mapping[str, KnownLevels | Any] | None = None,
    start: Mapping[str, float] | Fit | str | PathLike[str] | None = None,
    fixed: Mapping[str, float] | None = None,
    control: Control | None = None,
) -> Fit | FitCollection:
    """Fit a linear or generalized linear mixed model to a DataFrame or LazyFrame.

    Parameters
    ----------
    frame
        Data; never changed. Columns are named by string.
    *formulas
        First `response ~ fixed + (random | group)`; further ones name a family parameter, as `"phi ~ x"`. Rows in
        several levels of one factor: `(1 | mm(s1, s2, weights=(w1, w2)))`.
    groups
        Shorthand for random effects: `"g"` is `(1 | g)`, a list is several factors, a tuple one composite key,
        `{"g": "1 + x"}` is `(1 + x | g)`.
    family, link
        Name or object: `"poisson"`, `Binomial(link="probit")`.
    method
        `"reml"`, `"ml"`, `"laplace"`, or `REML() ML() Laplace(curvature=…) AGQ(nodes=…)`. By default REML for gaussian
        models with identity link, Laplace for the rest, ML without random effects (gaussian identity: REML).
    trials
        Column of binomial trials; the response is the number of successes.
    offset
        Column added to the linear predictor of the mean.
    frequency
        Column of whole numbers: the row stands for that many identical rows.
    precision
        Column by which the variance of the row is divided (gaussian, gamma, inverse gaussian).
    by
        Column or columns: one model per key, returned as a FitCollection.
    missing
        `"drop"` rows with a null or NaN in a used column (a note counts them), or `"error"`.
    residual
        Residuals of a gaussian model that are correlated within groups: `"ar1(time | id)"` (whole steps of time, gaps
        allowed), `"car1(time | id)"` (any times), `"cs(1 | id)"`, `"toep(time | id)"`, `"us(time | id)"` (with a
        variance of its own for each time), `"exp(x + y | id)"` and `"gau(x + y | id)"` (coordinates).
    known
        Grouping factors whose levels know each other (relatives, species, places): `{"animal": A}`, b ~ N(0, σ²A).
        A is a frame with the columns level, other_level and value, one row a pair; `KnownLevels(A, kind="precision")`
        where it is the inverse. Levels of A without rows have effects too.
    start, fixed
        Natural parameters by name to start from, or to hold. `start` may be a Fit, or the file of one: of its fixed
        effects, standard deviations and phi those are used that the new model has; the rest start as usual.
    control
        How it is computed: a `Control`.

    Raises
    ------
    GlmmError
        Of the kind that fits: FormulaError, ColumnError, ResponseError, ModelError, IdentifiabilityError.

    Examples
    --------
    >>> df.glmm.fit("Reaction ~ Days + (Days | Subject)")
    >>> df.glmm.fit("TICKS ~ YEAR", groups=["BROOD", "LOCATION"], family="poisson")
    """
    call = Call(
        formulas, groups, family, link, method, trials, offset, frequency, precision, missing,
        starting_values(start), fixed, residual, known,
    )  # fmt: skip
    chosen = as_control(control)
    if by is not None:
        from polars_glmm.fitting.by_key_elsewhere import fit_by_frame

        with whole_files():
            return FitCollection.of(fit_by_frame(_where(frame, formulas), by, call, chosen, TABLE_COLUMNS))
    from polars_glmm.fitting.elsewhere import fit_frame

    with whole_files():
        return Fit.of(fit_frame(_where(frame, formulas), call, chosen))


class ExplainArguments(ModelArguments, total=False):
    """Keyword arguments of `explain` besides by."""

    control: Control | None


@overload
def explain(
    frame: AnyFrame, *formulas: str, by: None = ..., **arguments: Unpack[ExplainArguments]
) -> Explanation: ...
@overload
def explain(
    frame: AnyFrame, *formulas: str, by: str | Sequence[str], **arguments: Unpack[ExplainArguments]
) -> KeyedExplanation: ...
@answered
def explain(
    frame: AnyFrame,
    *formulas: str,
    groups: Groups = None,
    family: FamilyName | Family = "gaussian",
    link: LinkName | None = None,
    method: MethodName | Method | None = None,
    trials: str | None = None,
    offset: str | None = None,
    frequency: str | None = None,
    precision: str | None = None,
    by: str | Sequence[str] | None = None,
    missing: Missing = "drop",
    residual: str | None = None,
    known: Mapping[str, KnownLevels | Any] | None = None,
    control: Control | None = None,
) -> Explanation | KeyedExplanation:
    """What `fit` would do with the same arguments, without doing it.

    Rows, columns, levels and group sizes, the way to the likelihood, how often the source is read, and estimates of
    memory, passes and time by measured cost laws. Prints as text; `.frame` is the same as a table. With `by=` the keys,
    how many of their models are fitted together, and the same of the largest, `.largest`.
    """
    from polars_glmm.result.explanation import explain_call
    from polars_glmm.result.explanation_by import explain_by

    call = Call(
        formulas, groups, family, link, method, trials, offset, frequency, precision, missing, residual=residual,
        known=known,
    )  # fmt: skip
    with whole_files():
        if by is not None:
            return explain_by(_where(frame, formulas), by, call, as_control(control), TABLE_COLUMNS)
        return explain_call(_where(frame, formulas), call, as_control(control))


@answered
def objective(
    frame: AnyFrame,
    *formulas: str,
    groups: Groups = None,
    family: FamilyName | Family = "gaussian",
    link: LinkName | None = None,
    method: MethodName | Method | None = None,
    trials: str | None = None,
    offset: str | None = None,
    frequency: str | None = None,
    precision: str | None = None,
    missing: Missing = "drop",
    residual: str | None = None,
    known: Mapping[str, KnownLevels | Any] | None = None,
    control: Control | None = None,
) -> NaturalObjective:
    """The log-likelihood as a function of natural parameters (fixed effects, sd, correlation, dispersion).

    The result has `.names`, `.loglik(params)` and `.gradient(params)`.
    """
    from polars_glmm.fitting.flow import objective_of

    call = Call(
        formulas, groups, family, link, method, trials, offset, frequency, precision, missing, residual=residual,
        known=known,
    )  # fmt: skip
    with whole_files():
        return objective_of(_checked(frame, formulas), call, as_control(control))


@answered
def products(
    frame: AnyFrame,
    *formulas: str,
    groups: Groups = None,
    method: MethodName | Method | None = None,
    offset: str | None = None,
    frequency: str | None = None,
    precision: str | None = None,
    missing: Missing = "drop",
    residual: str | None = None,
    like: Products | None = None,
    levels: Mapping[str, Sequence[Any]] | None = None,
) -> Products:
    """The cross-products of a gaussian model over the rows of a frame: a small record that can be added and stored.

    `a + b` is the products of the rows of both, whatever levels their groups have; `.fit()` is the fit of those rows,
    `.write_parquet(path)` and `polars_glmm.read_products(path)` keep it. So a year can be fitted from its months, and a
    model from the parts of data that never meet. The frame is read by aggregation queries; no row is collected.

    Parameters
    ----------
    frame, formulas, groups, method, offset, frequency, precision, missing
        As in `fit`.
    like
        Products whose recipe to use instead of a formula: the same columns with the same constants. Parts can only be
        added if their recipes agree in all but the levels of the groups.
    levels
        All labels of categorical fixed effects, by column, where this frame may not have every one of them.

    Raises
    ------
    GlmmError
        As `fit`; ModelError for a model that is not gaussian with identity link and one dispersion; UnknownLevelError
        for a label of a fixed effect that the recipe of `like` does not know.

    Examples
    --------
    >>> january = polars_glmm.products(pl.scan_parquet("january.parquet"), "y ~ x + (x | g)")
    >>> february = polars_glmm.products(pl.scan_parquet("february.parquet"), like=january)
    >>> (january + february).fit()
    """
    from polars_glmm.result.products import make_products

    if like is not None and (formulas or groups or offset or frequency or precision or levels):
        msg = "like= brings its own formula, offset, weights and levels: leave out the others."
        raise ModelError(msg)
    call = Call(
        formulas, groups, "gaussian", None, method, None, offset, frequency, precision, missing, residual=residual
    )
    with whole_files():
        return make_products(_where(frame, formulas), call, like=like, levels=levels)


def read_products(path: str | Path) -> Products:
    """Products from a file that `Products.write_parquet` wrote. Raises DatasetError for any other file."""
    from polars_glmm.result.stored_products import read_stored

    return read_stored(path)


def read_fit(path: str | PathLike[str]) -> Fit | FitCollection:
    """The fit, or the collection, of a file that `fit.write(path)` wrote; it answers as the one that was written.

    Nothing in the file is executed. Rows are not stored: what needs them takes a frame, as after `keep="none"`.
    Raises ModelFileError for any other file, for one that is broken, and for one of a later version.
    """
    from polars_glmm.result.stored import read_model

    return read_model(path)


@answered
def anova(
    *fits: Fit,
    method: Literal["asymptotic", "bootstrap"] = "asymptotic",
    n: int = 1000,
    rng: np.random.Generator | int | None = None,
) -> pl.DataFrame:
    """Likelihood-ratio tests of nested fits, from the smallest to the largest model.

    Columns: model, df_model, loglik, deviance, aic, bic, chisq, df, p_value, distribution. A variance on the boundary
    is tested against the right mixture of χ² distributions where it is known, else conservatively; `distribution` says
    which.

    Parameters
    ----------
    fits
        Two or more fits of the same response.
    method
        "bootstrap" adds p_bootstrap, mc_error, n_draws and seed: responses are drawn from each smaller model, and both
        models fitted to them. It needs the data of the fits.
    n, rng
        Number of draws, and a seed or numpy Generator (None: a fresh seed).

    Raises
    ------
    ModelError
        If the fits stand on different data, were made by different methods, are REML fits with different fixed effects,
        or are visibly not nested.
    """
    from polars_glmm.inference.compare import anova as _anova

    for k, one in enumerate(fits, start=1):
        if not isinstance(one, Fit):
            msg = f"anova compares fits; argument {k} is a {type(one).__name__}."
            raise ModelError(msg)
    if method == "asymptotic":
        return _anova(fits)
    if method != "bootstrap":
        msg = f"method={method!r} is not known: use 'asymptotic' or 'bootstrap'. For REML refit: fit.update(method=…)."
        raise ModelError(msg)
    from polars_glmm.inference.resampling import anova_bootstrap

    return anova_bootstrap(fits, n, rng)


def _checked(frame: Any, formulas: tuple[object, ...]) -> AnyFrame:
    """A frame of any library as one of Polars, of which the rows of an engine are read when they are needed."""
    found = _where(frame, formulas)
    return found.lazy() if isinstance(found, EngineFrame) else found


def _where(frame: Any, formulas: tuple[object, ...]) -> AnyFrame | EngineFrame:
    """A frame of any library: of Polars, or of the engine that holds its rows."""
    from polars_glmm.frames.elsewhere import take

    if isinstance(frame, pl.DataFrame | pl.LazyFrame):
        return frame
    if isinstance(frame, str) and any(isinstance(one, pl.DataFrame | pl.LazyFrame) for one in formulas):
        msg = f"The frame comes first, then the formula: fit(frame, {frame!r})."
        raise ModelError(msg)
    if isinstance(frame, str):
        msg = f"The first argument is a frame, not text: fit(frame, {frame!r}), or frame.glmm.fit({frame!r})."
        raise ModelError(msg)
    taken = take(frame)
    if taken is not None:
        return taken.frame if taken.engine is None else taken.engine
    kind = f"{type(frame).__module__.partition('.')[0]}.{type(frame).__name__}"
    msg = (
        f"The data are a {kind}; pass a frame of Polars, pandas, PyArrow, DuckDB, Ibis, Dask or Spark. "
        f"Other data become one through pl.DataFrame(data)."
    )
    raise ModelError(msg)
