"""The curve of a nonlinear model in new rows: its value, and its slopes, which carry the errors of its parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.columns.nodes import Constant, Node
from polars_glmm.columns.operators import Interpretation
from polars_glmm.families.arithmetic import ArrayAlgebra
from polars_glmm.families.curve import JetAlgebra
from polars_glmm.families.jet import variable
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.effects import JoinedFactor, balanced_sum
from polars_glmm.prediction.variances import variance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from polars_glmm.families.curve import Curve
    from polars_glmm.prediction.parameters import FixedPart, Parameters
    from polars_glmm.typing import Mat, Vec

SLOPES, ARGUMENTS = f"{INTERNAL}slopes", f"{INTERNAL}arguments"


@dataclass(frozen=True, slots=True)
class _Times(Node):
    """A column times the slope of the curve in the parameter that the column is of."""

    node: Node
    part: int

    def to_expr(self, engine: ModuleType | None = None) -> Any:
        return self.node.to_expr(engine) * pl.col(SLOPES).struct.field(_slope(self.part))


def _slope(part: int) -> str:
    return f"slope_{part}"


def _times(factor: JoinedFactor) -> JoinedFactor:
    """A factor whose effects act on the curve itself, by its slopes in the parameters that they are on."""
    terms = tuple(
        replace(
            term,
            columns=tuple(
                replace(column, node=Constant(0.0) if part in factor.silent else _Times(column.node, part))
                for column, part in zip(term.columns, term.parts or (0,) * len(term.columns), strict=True)
            ),
            parts=(),
            parameters=(),
        )
        for term in factor.recipe.terms
    )
    return replace(factor, recipe=replace(factor.recipe, terms=terms), silent=frozenset())


@dataclass(frozen=True, slots=True)
class CurvePart:
    """The predictors that a curve is made of, as fixed parts in their order, and what else it takes."""

    curve: Curve
    parts: tuple[FixedPart, ...]
    nodes: tuple[Node, ...]

    @classmethod
    def of(cls, fitted: Parameters) -> CurvePart | None:
        """That of a nonlinear model; None of any other."""
        curve = fitted.recipe.spec.family.curve
        if curve is None:
            return None
        return cls(curve, tuple(fitted.fixed(name) for name in curve.parameters), fitted.recipe.inputs)

    @property
    def inputs(self) -> frozenset[str]:
        """Columns of the frame that the value depends on."""
        return frozenset[str]().union(*(part.inputs for part in self.parts), *(node.inputs() for node in self.nodes))

    @property
    def places(self) -> tuple[int, ...]:
        """Of its predictors among those of the model."""
        return tuple(range(len(self.parts)))

    def acting(self, factors: Sequence[JoinedFactor]) -> list[JoinedFactor]:
        """The factors with random effects on one of its parameters."""
        return [factor for factor in factors if factor.on(*self.places)]

    def undetermined(self) -> list[pl.Expr]:
        """Rows in which a parameter is not estimable."""
        return [part.undetermined for part in self.parts if part.undetermined is not None]

    def value(self, factors: Sequence[JoinedFactor] = ()) -> pl.Expr:
        """f at the parameters, with the random effects of factors."""
        found: pl.Expr = self.curve.value(Interpretation(), self._predictors(factors), self._inputs())
        return found

    def slopes(self, factors: Sequence[JoinedFactor]) -> pl.Expr:
        """∂f/∂ of each parameter there, a struct."""
        names = [_slope(k) for k in self.places]

        def slopes(batch: pl.Series) -> pl.Series:
            values, inputs = self._taken(batch)
            with np.errstate(all="ignore"):
                found = self.curve.value(
                    JetAlgebra(), [variable(v, k, 1, 1) for k, v in enumerate(values)], list(inputs)
                )
            made = [np.broadcast_to(found.parts.get((k,), 0.0), (len(batch),)).copy() for k in self.places]
            return pl.DataFrame(dict(zip(names, made, strict=True))).to_struct(batch.name)

        struct = pl.Struct(dict.fromkeys(names, pl.Float64))
        return self.arguments(factors).map_batches(slopes, return_dtype=struct, is_elementwise=True)

    def steered(self) -> tuple[Node, ...]:
        """∂f/∂β: the columns of all parameters times the slopes, which stand in the frame as SLOPES."""
        return tuple(_Times(node, k) for k, part in enumerate(self.parts) for node in part.nodes)

    def variance(self, factors: Sequence[JoinedFactor], missing: pl.Expr) -> pl.Expr:
        """Of f, by its slopes (delta method): the variance of the predictor Σ_k ∂f/∂φ_k · (x_k'β + z_k'b).

        The slopes stand in the frame as SLOPES.
        """
        whole = replace(self.parts[0], nodes=self.steered())
        return variance(whole, ([_times(factor) for factor in factors], 0), missing)

    def moved(self, arguments: pl.Series, by: Mat) -> Vec:
        """f (n,) where the parameters of `arguments` are moved, by (m, n)."""
        values, inputs = self._taken(arguments)
        with np.errstate(all="ignore"):
            found = self.curve.value(ArrayAlgebra(), list(values + by), list(inputs))
        return np.broadcast_to(np.asarray(found, dtype=np.float64), by.shape[-1:])

    def arguments(self, factors: Sequence[JoinedFactor] = ()) -> pl.Expr:
        """The parameters, with the random effects of factors, and the inputs, a struct."""
        predictors = [value.alias(f"p{k}") for k, value in enumerate(self._predictors(factors))]
        return pl.struct(*predictors, *(value.alias(f"i{k}") for k, value in enumerate(self._inputs())))

    def _predictors(self, factors: Sequence[JoinedFactor]) -> list[pl.Expr]:
        return [
            balanced_sum([part.value(), *(factor.effect(k) for factor in factors if factor.on(k))])
            for k, part in enumerate(self.parts)
        ]

    def _inputs(self) -> list[pl.Expr]:
        return [node.to_expr() for node in self.nodes]

    def _taken(self, batch: pl.Series) -> tuple[Mat, Mat]:
        rows = batch.struct.unnest()
        columns = [
            [rows[f"{letter}{k}"].to_numpy() for k in range(n)]
            for letter, n in (("p", len(self.parts)), ("i", len(self.nodes)))
        ]
        return np.array(columns[0]), np.array(columns[1])
