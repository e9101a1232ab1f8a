"""A recipe as JSON and back: nodes by the name of their kind, levels and dtypes beside it in frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import polars as pl

from polars_glmm.columns import nodes
from polars_glmm.columns.coding import Column
from polars_glmm.design.recipe import Categorical, FactorRecipe, PredictorRecipe, Recipe, ResponseRecipe, TermRecipe
from polars_glmm.spec.model import ModelSpec

_KINDS = {
    kind.__name__: kind
    for kind in (
        nodes.Reference, nodes.Constant, nodes.Coded, nodes.Function, nodes.Arithmetic, nodes.Product, nodes.Affine,
        nodes.Roots, nodes.Piecewise, nodes.Wrapped, nodes.Inside, nodes.Looked,
    )
}  # fmt: skip


def encode(recipe: Recipe) -> dict[str, Any]:
    """All of a gaussian recipe but the levels of its groups and the dtypes of its categorical columns."""
    spec, mu = recipe.spec, recipe.predictor("mu")
    return {
        "formulas": spec.formulas,
        "method": spec.method.name,
        "offset": spec.offset,
        "frequency": spec.frequency,
        "precision": spec.precision,
        "response": {"name": recipe.response.name, "success": _plain(recipe.response.success)},
        "columns": [_plain_column(column) for column in mu.columns],
        "linear_offset": _plain(mu.offset),
        "factors": [
            {
                "name": factor.name,
                "keys": factor.keys,
                "terms": [[term.structure, [_plain_column(one) for one in term.columns]] for term in factor.terms],
            }
            for factor in recipe.factors
        ],
        "categoricals": {name: known.levels for name, known in recipe.categoricals.items()},
    }


def decode(text: Mapping[str, Any], levels: tuple[pl.DataFrame, ...], dtypes: Mapping[str, pl.DataType]) -> Recipe:
    """The recipe of `encode`, with the levels of its groups and the dtypes of its categorical columns."""
    spec = ModelSpec.parse(
        tuple(text["formulas"]),
        method=text["method"],
        offset=text["offset"],
        frequency=text["frequency"],
        precision=text["precision"],
    )
    columns = tuple(_column(column) for column in text["columns"])
    factors = tuple(
        FactorRecipe(
            factor["name"],
            tuple(factor["keys"]),
            own,
            tuple(TermRecipe(structure, tuple(_column(c) for c in made)) for structure, made in factor["terms"]),
        )
        for factor, own in zip(text["factors"], levels, strict=True)
    )
    return Recipe(
        spec=spec,
        response=ResponseRecipe(text["response"]["name"], _node(text["response"]["success"])),
        predictors=(PredictorRecipe("mu", columns, (True,) * len(columns), _node(text["linear_offset"])),),
        factors=factors,
        categoricals={
            name: Categorical(name, tuple(known), dtypes[name]) for name, known in text["categoricals"].items()
        },
    )


def _plain(value: Any) -> Any:
    """A node as a dict with its kind, tuples as lists, numbers and texts as they are."""
    if isinstance(value, nodes.Node):
        slots = fields(value)  # type: ignore[arg-type]  # every kind is a dataclass
        named = {one.name: _plain(getattr(value, one.name)) for one in slots}
        return {"node": type(value).__name__, **named}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _node(value: Any) -> Any:
    if isinstance(value, dict):
        named = {name: _node(one) for name, one in value.items() if name != "node"}
        return _KINDS[value["node"]](**named)
    return tuple(_node(one) for one in value) if isinstance(value, list) else value


def _plain_column(column: Column) -> list[Any]:
    return [column.name, _plain(column.node)]


def _column(made: list[Any]) -> Column:
    return Column(made[0], _node(made[1]))
