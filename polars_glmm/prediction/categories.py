"""Probabilities of ordered categories beside the rows of a frame, with delta-method errors in all coefficients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import polars as pl

from polars_glmm.design.recipe import cuts_of
from polars_glmm.errors import ModelError
from polars_glmm.families.cumulative import Cumulative
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.linear_predictor import ETA, FIXED, MISSING, Purpose, add_linear_predictor
from polars_glmm.prediction.population import add_population_rows
from polars_glmm.prediction.unordered import names_of
from polars_glmm.prediction.variances import movement, quadratic

if TYPE_CHECKING:
    from polars_glmm.columns.nodes import Node
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.prediction.parameters import FixedPart, Parameters
    from polars_glmm.typing import Mat, Vec

KINDS = ("response", "link", "class", "cumulative", "mean")
UNORDERED_KINDS = ("response", "link", "class")
VALUES = f"{INTERNAL}categories"


class Latent(NamedTuple):
    """What the probabilities of rows are made of: eta (n,), thresholds (C − 1, n), delta (n,) or None."""

    eta: Vec
    alpha: Mat
    delta: Vec | None


class Outputs(NamedTuple):
    """Numbers of each row (m, n), and their derivatives in eta (m, n), thresholds (m, C − 1, n), delta (m, n)."""

    value: Mat
    eta: Mat
    alpha: Mat
    delta: Mat


def family_of(recipe: Recipe) -> Cumulative:
    """The family of a model of ordered categories."""
    return cast("Cumulative", recipe.spec.family)


def labels_of(recipe: Recipe) -> tuple[str, ...]:
    """The categories."""
    labels = recipe.response.labels
    assert labels is not None  # a response of categories has them
    return labels


def suffixes(recipe: Recipe, kind: str) -> list[str]:
    """What stands behind the name of a prediction: one column for each category, or none."""
    labels, nominal = labels_of(recipe), recipe.spec.family.unordered
    of_kind = {"response": labels, "cumulative": labels[:-1], **({"link": labels[1:]} if nominal else {})}
    return [f"_{label}" for label in of_kind[kind]] if kind in of_kind else [""]


def probabilities(family: Cumulative, at: Latent) -> Outputs:
    """P(y = k), one row for each category."""
    found = [probability(family, at, k) for k in range(len(at.alpha) + 1)]
    return Outputs(*(np.stack(part) for part in zip(*found, strict=True)))


def probability(family: Cumulative, at: Latent, k: int) -> Outputs:
    """P(y = k) of one category: value, eta and delta (n,), alpha (m, n)."""
    n, m = len(at.eta), len(at.alpha)
    upper = at.alpha[k] if k < m else np.full(n, np.inf)
    lower = at.alpha[k - 1] if k > 0 else np.full(n, -np.inf)
    f, g = family.category_density(at.eta, np.stack([upper, lower]), at.delta)
    p, alpha = np.exp(f), np.zeros((m, n))
    if k < m:
        alpha[k] = p * g[1][0]
    if k > 0:
        alpha[k - 1] = p * g[1][1]
    return Outputs(p, p * g[0], alpha, p * g[2] if at.delta is not None else np.zeros(n))


def cumulated(family: Cumulative, at: Latent) -> Outputs:
    """P(y ≤ k) but for the last category."""
    s = 1.0 if at.delta is None else np.exp(at.delta)
    z = (at.alpha - at.eta) * s
    value, slope = family.link.value(z, 1)
    m, n = z.shape
    alpha = np.zeros((m, m, n))
    alpha[np.arange(m), np.arange(m)] = slope * s
    return Outputs(value, -slope * s, alpha, slope * z)


def expected_number(family: Cumulative, at: Latent) -> Outputs:
    """Σ k p_k with the categories numbered from one: C − Σ P(y ≤ k)."""
    found = cumulated(family, at)
    whole = len(at.alpha) + 1.0
    return Outputs(whole - found.value.sum(0, keepdims=True), *(-part.sum(0, keepdims=True) for part in found[1:]))


def likeliest(family: Cumulative, at: Latent) -> Vec:
    """The number of the most probable category, the first of equal ones; NaN where eta is."""
    found = np.argmax(probabilities(family, at).value, axis=0).astype(np.float64)
    return np.where(np.isnan(at.eta), np.nan, found)


@dataclass(frozen=True, slots=True, eq=False)
class LatentReader:
    """How rows of a plan become what their probabilities are made of.

    fields   what a struct of the rows must hold;  latent, fixed: at all random effects, at none
    errors   from the rows and outputs, standard errors (m, n)
    """

    fields: list[pl.Expr]
    latent: Callable[[pl.DataFrame], Latent]
    fixed: Callable[[pl.DataFrame], Latent]
    errors: Callable[[pl.DataFrame, Outputs], Mat] | None


def add_latent(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, purpose: Purpose, *, integrated: bool = False
) -> tuple[pl.LazyFrame, LatentReader]:
    """The frame with its linear predictor, and how to read the thresholds and the scale of its rows.

    integrated   at random effects of zero, with what they multiply
    """
    recipe = fitted.recipe
    parts = {part.parameter: fitted.fixed(part.parameter) for part in recipe.predictors[1:]}
    inputs = frozenset[str]().union(*(part.inputs for part in parts.values()))
    add = add_population_rows if integrated else add_linear_predictor
    frame = add(frame, schema, fitted, replace(purpose, also_designed=inputs))
    lost = [part.undetermined for part in parts.values() if part.undetermined is not None]
    if lost:
        frame = frame.with_columns(pl.any_horizontal(pl.col(MISSING), *lost).alias(MISSING))
    return frame, _reader(fitted, purpose)


def category_inputs(fitted: Parameters) -> frozenset[str]:
    """Columns of the frame that thresholds and scale are made of; none where there are no categories."""
    if fitted.recipe.spec.family.response != "category":
        return frozenset()
    return frozenset[str]().union(*(fitted.fixed(part.parameter).inputs for part in fitted.recipe.predictors[1:]))


def category_fields(fitted: Parameters) -> list[pl.Expr]:
    """What thresholds and scale of a row, or its further predictors, are read from."""
    if fitted.recipe.spec.family.unordered:
        further = names_of(fitted)[1:]
        return [fitted.fixed(name).value().alias(_further(k)) for k, name in enumerate(further, start=1)]
    return _Thresholds.of(fitted).fields()


def category_draws(
    fitted: Parameters, rows: pl.DataFrame
) -> Callable[[np.random.Generator, Vec, Mapping[int, Vec]], Vec]:
    """Draws of categories of complete rows, at their linear predictors; further ones by how far they are moved."""
    if fitted.recipe.spec.family.unordered:
        fixed = {k: rows[_further(k)].to_numpy() for k in range(1, len(names_of(fitted)))}
        return lambda rng, eta, moved: fitted.recipe.spec.family.simulate_categories(
            rng, (eta, *(value + moved.get(k, 0.0) for k, value in fixed.items()))
        )
    family = family_of(fitted.recipe)
    beyond = [one for one in _Thresholds.of(fitted).at(rows) if one is not None]
    return lambda rng, eta, moved: family.simulate_categories(
        rng, (eta, *(value + moved.get(k, 0.0) for k, value in enumerate(beyond, 1)))
    )


def _further(k: int) -> str:
    """A field: the fixed part of a predictor beyond the first."""
    return f"eta_{k}"


@dataclass(frozen=True, slots=True, eq=False)
class _Thresholds:
    """Thresholds of rows, and their scale, from the columns of the two formulas.

    of_column   thresholds (C − 1, q) in each column;  own, own_scale: where the coefficients stand among all
    """

    nodes: tuple[Node, ...]
    jacobian: Mat
    of_column: Mat
    own: slice
    scale: FixedPart | None
    own_scale: slice | None

    @classmethod
    def of(cls, fitted: Parameters) -> _Thresholds:
        ((name, cuts),) = cuts_of(fitted.recipe.spec, fitted.recipe.response).items()
        own, first, j = fitted.of_all(name), fitted.beta.shape[1], cuts.jacobian
        tau = fitted.gamma[0, own.start - first : own.stop - first]
        scaled = fitted.models("disc")
        return cls(
            fitted.fixed(name).nodes, j, j @ tau.reshape(-1, j.shape[1]).T, fitted.spot(name),
            fitted.fixed("disc") if scaled else None, fitted.spot("disc") if scaled else None,
        )  # fmt: skip

    def fields(self) -> list[pl.Expr]:
        out = [node.to_expr().alias(f"w_{i}") for i, node in enumerate(self.nodes)]
        if self.scale is not None:
            out += [node.to_expr().alias(f"v_{i}") for i, node in enumerate(self.scale.nodes)]
            out.append(self.scale.value().alias("delta"))
        return out

    def columns(self, rows: pl.DataFrame) -> tuple[Mat, Mat | None]:
        """Columns of the thresholds (q, n) and of the scale, None without one."""
        n = rows.height

        def read(letter: str, count: int) -> Mat:
            own = [np.broadcast_to(rows[f"{letter}_{i}"].to_numpy(), (n,)) for i in range(count)]
            return np.array(own, dtype=np.float64).reshape(count, n)

        return read("w", len(self.nodes)), None if self.scale is None else read("v", len(self.scale.nodes))

    def at(self, rows: pl.DataFrame) -> tuple[Mat, Vec | None]:
        """Thresholds (C − 1, n), and delta (n,) or None."""
        w, _ = self.columns(rows)
        return self.of_column @ w, None if self.scale is None else rows["delta"].to_numpy()

    def move(self, a: Mat, rows: pl.DataFrame, by_threshold: Mat, by_delta: Vec) -> None:
        """Add to a (P, n) the movement of rows with these coefficients, from slopes (C − 1, n) and (n,)."""
        w, v = self.columns(rows)
        a[self.own] += (w[:, None] * (self.jacobian.T @ by_threshold)[None]).reshape(-1, rows.height)
        if v is not None and self.own_scale is not None:
            a[self.own_scale] += by_delta * v


def threshold_slopes(
    fitted: Parameters, by_threshold: Sequence[pl.Expr], by_delta: pl.Expr
) -> tuple[list[pl.Expr], list[int]]:
    """The gradient of a number in the coefficients of thresholds and scale, from its slopes there, and their places."""
    thresholds = _Thresholds.of(fitted)
    free = [
        pl.sum_horizontal([slope * float(weight) for slope, weight in zip(by_threshold, weights, strict=True)])
        for weights in thresholds.jacobian.T
    ]
    gradient = [one * node.to_expr() for node in thresholds.nodes for one in free]
    places = list(range(thresholds.own.start, thresholds.own.stop))
    if thresholds.scale is not None and thresholds.own_scale is not None:
        gradient += [by_delta * node.to_expr() for node in thresholds.scale.nodes]
        places += range(thresholds.own_scale.start, thresholds.own_scale.stop)
    return gradient, places


def _reader(fitted: Parameters, purpose: Purpose) -> LatentReader:
    thresholds = _Thresholds.of(fitted)
    fields = [pl.col(MISSING, ETA, FIXED), *thresholds.fields()]

    def latent(rows: pl.DataFrame, eta: str = ETA) -> Latent:
        return Latent(rows[eta].to_numpy(), *thresholds.at(rows))

    def fixed(rows: pl.DataFrame) -> Latent:
        return latent(rows, FIXED)

    if not purpose.std_error:
        return LatentReader(fields, latent, fixed, None)
    part = fitted.fixed("mu")
    moves, moved_of = movement(part, (purpose.acting, 0), pl.col(MISSING))

    def errors(rows: pl.DataFrame, found: Outputs) -> Mat:
        moved, out = moved_of(rows), np.empty(found.value.shape)
        for m in range(len(out)):
            a = found.eta[m] * moved.a
            thresholds.move(a, rows, found.alpha[m], found.delta[m])
            if part.outward is not None:
                a = part.outward.T @ a
            with np.errstate(all="ignore"):
                square = found.eta[m] ** 2 * moved.random + quadratic(a, part.vcov, moved.model)
                out[m] = np.where(moved.endless, np.nan, np.sqrt(np.maximum(square, 0.0)))
        return out

    return LatentReader([*fields, *moves], latent, fixed, errors)


def refuse_categories(recipe: Recipe, what: str, instead: str) -> None:
    """Raise ModelError for what is of responses that are numbers, where they are categories."""
    if recipe.spec.family.response == "category":
        raise ModelError(f"{what} is of responses that are numbers, and these are categories: {instead}.")


def refuse_unordered(recipe: Recipe, what: str, instead: str) -> None:
    """Raise ModelError for what is of one linear predictor, where every category but the baseline has one."""
    if recipe.spec.family.unordered:
        raise ModelError(f"{what} is of one linear predictor, and unordered categories have several: {instead}.")


def refuse_many(fitted: Parameters, what: str) -> None:
    """Raise ModelError for what is of one fit at a time."""
    if fitted.model is not None:
        raise ModelError(f"{what} is of one fit: choose it by its key, as in collection[key].")
