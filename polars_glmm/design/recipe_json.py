"""A recipe as JSON and back: nodes, families, links and methods by registered name; the levels of groups beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from polars_glmm.columns import nodes
from polars_glmm.columns.operators import FUNCTIONS, OPERATORS
from polars_glmm.covariance.structures import known
from polars_glmm.design.recipe import (
    Categorical,
    FactorRecipe,
    PredictorRecipe,
    Recipe,
    ResidualRecipe,
    ResponseRecipe,
    TermRecipe,
)
from polars_glmm.design.relation import prior_of
from polars_glmm.errors import ModelError
from polars_glmm.families.base import Family
from polars_glmm.families.registry import FAMILIES, resolve_family, with_zeros
from polars_glmm.families.zero_inflated import ZeroInflated
from polars_glmm.files import dtypes
from polars_glmm.files.records import TAG, RecordReader, plain
from polars_glmm.spec.method import Method
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spec.relation import KnownLevels

_NODES = (
    nodes.Reference, nodes.Constant, nodes.Coded, nodes.Function, nodes.Arithmetic, nodes.Product, nodes.Affine,
    nodes.Roots, nodes.Piecewise, nodes.Wrapped, nodes.Inside, nodes.Looked,
    nodes.Elapsed, nodes.Interval,
)  # fmt: skip
_READER = RecordReader(_NODES)
_RESPONSE = {"name": str, "success": nodes.Node, "trials": nodes.Node | None, "proportion": bool}
_CENSORING = dict.fromkeys(("status", "upper", "entry"), nodes.Node | None)
_COLUMNS = ("trials", "offset", "frequency", "precision")


def encode(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe but the levels of its groups. Raises ModelError for a family that has no name here."""
    spec, response = recipe.spec, recipe.response
    return {
        "formulas": list(spec.formulas),
        "family": encode_family(spec.family),
        "method": plain(spec.method),
        "asked": plain(spec.asked),
        **{name: getattr(spec, name) for name in _COLUMNS},
        "response": {
            **{name: plain(getattr(response, name)) for name in _RESPONSE},
            **{name: plain(node) for name in _CENSORING if (node := getattr(response, name)) is not None},
            "dtype": None if response.dtype is None else dtypes.encode(response.dtype),
            "labels": plain(response.labels),
        },
        **({"inputs": plain(recipe.inputs)} if recipe.inputs else {}),
        "predictors": plain(recipe.predictors),
        "factors": [
            {"name": factor.name, "keys": list(factor.keys), "terms": plain(factor.terms)} for factor in recipe.factors
        ],
        "residual": None
        if spec.residual is None or recipe.residual is None
        else {"text": spec.residual.text, "size": recipe.residual.size, "labels": list(recipe.residual.labels)},
        "categoricals": [
            [known.column, list(known.levels), dtypes.encode(known.dtype)] for known in recipe.categoricals.values()
        ],
    }


def decode(
    text: Mapping[str, Any], levels: Sequence[pl.DataFrame], known: Mapping[str, KnownLevels] | None = None
) -> Recipe:
    """The recipe of `encode` with the levels of its groups, and how they know each other.

    Raises ValueError (or KeyError) for any other JSON.
    """
    read = _READER.read
    residual = text.get("residual")
    labels = read(text["response"]["labels"], tuple[str, ...] | None, "labels")
    spec = ModelSpec.parse(
        read(text["formulas"], tuple[str, ...], "formulas"),
        family=decode_family(text["family"]).of_categories(labels or ()),
        method=read(text["method"], Method, "method"),
        **{name: read(text[name], str | None, name) for name in _COLUMNS},
        residual=None if residual is None else read(residual["text"], str, "residual"),
        known=known,
    )
    response = text["response"]
    members = {term.group: term.members for term in spec.random}
    factors = [
        FactorRecipe(
            read(factor["name"], str, "factor"),
            read(factor["keys"], tuple[str, ...], "keys"),
            own,
            read(factor["terms"], tuple[TermRecipe, ...], "terms"),
            prior_of(factor["name"], own, known),
            members.get(factor["name"]),
        )
        for factor, own in zip(text["factors"], levels, strict=True)
    ]
    recipe = Recipe(
        spec=replace(spec, asked=read(text["asked"], Method | None, "asked")),
        response=ResponseRecipe(
            **{name: read(response[name], hint, name) for name, hint in _RESPONSE.items()},
            **{name: read(response.get(name), hint, name) for name, hint in _CENSORING.items()},
            dtype=None if response["dtype"] is None else dtypes.decode(response["dtype"]),
            labels=labels,
        ),
        predictors=read(text["predictors"], tuple[PredictorRecipe, ...], "predictors"),
        factors=tuple(factors),
        inputs=read(text.get("inputs", []), tuple[nodes.Node, ...], "inputs"),
        categoricals={
            name: Categorical(name, read(known, tuple[str, ...], name), dtypes.decode(dtype))
            for name, known, dtype in text["categoricals"]
        },
        residual=None
        if residual is None
        else ResidualRecipe(read(residual["size"], int, "size"), read(residual["labels"], tuple[str, ...], "labels")),
    )
    _check(recipe, text)
    return recipe


def encode_family(family: Family) -> dict[str, Any]:
    """A family by its name, that of its link, and the numbers and words it is made with, if any.

    Raises ModelError for one that these do not say all of.
    """
    if isinstance(family, ZeroInflated):
        return {**encode_family(family.base), "zeros": True}
    family = family.plain  # the formula says whether responses are censored
    name, link = family.name, family.link.name
    held, options = dict(family.held), dict(family.options)
    free = FAMILIES[name](link).held if name in FAMILIES and not held else {}
    if free and _estimating(name, link, free) == family:
        return {"name": name, "link": link, "estimated": True}
    if name not in FAMILIES or resolve_family(name, link, {**held, **options}) != family:
        msg = f"The family {family!r} is none of this package's: a model with a family of your own has no file format."
        raise ModelError(msg)
    more = {key: value for key, value in (("held", held), ("options", options)) if value}
    return {"name": name, "link": link, **more}


def _estimating(name: str, link: str, held: Mapping[str, float]) -> Family:
    """The family that estimates what it could hold."""
    return FAMILIES[name](link, **dict.fromkeys(held))


def decode_family(text: Any) -> Family:
    """The family of a name, a link, numbers and words. Raises ModelError where there is none."""
    name, link = _READER.read(text["name"], str, "family"), _READER.read(text["link"], str, "link")
    held = _READER.read(text.get("held", {}), Mapping[str, float], "held")
    estimated = _READER.read(text.get("estimated", False), bool, "estimated")
    options = _READER.read(text.get("options", {}), Mapping[str, str], "options")
    could = FAMILIES[name](link).held if estimated and name in FAMILIES else {}
    try:
        found = _estimating(name, link, could) if could else resolve_family(name, link, {**held, **options})
    except TypeError as error:
        msg = f"the family {name!r} is not made with {sorted({*held, *options})!r}"
        raise ValueError(msg) from error
    if dict(found.held) != dict(held) or (estimated and not could):
        msg = f"held cannot be {sorted(held)!r} for the family {name!r}"
        raise ValueError(msg)
    return with_zeros(found) if _READER.read(text.get("zeros", False), bool, "zeros") else found


def upgrade(text: Mapping[str, Any], dtypes_of: Mapping[str, pl.DataType]) -> dict[str, Any]:
    """A gaussian recipe as stored products of version 1 have it, as `encode` writes it today."""
    columns = [{TAG: "Column", "name": name, "node": _renamed(node)} for name, node in text["columns"]]
    mu = {TAG: "PredictorRecipe", "parameter": "mu", "columns": columns, "kept": [True] * len(columns)}
    method = {TAG: {"reml": "REML", "ml": "ML"}[text["method"]]}
    return {
        "formulas": text["formulas"],
        "family": {"name": "gaussian", "link": "identity"},
        "method": method,
        "asked": method,
        "trials": None,
        **{name: text[name] for name in ("offset", "frequency", "precision")},
        "response": {
            "name": text["response"]["name"],
            "success": _renamed(text["response"]["success"]),
            "trials": None,
            "proportion": False,
            "dtype": None,
            "labels": None,
        },
        "predictors": [{**mu, "offset": _renamed(text["linear_offset"])}],
        "factors": [
            {
                "name": factor["name"],
                "keys": factor["keys"],
                "terms": [
                    {
                        TAG: "TermRecipe",
                        "structure": structure,
                        "columns": [{TAG: "Column", "name": name, "node": _renamed(node)} for name, node in made],
                    }
                    for structure, made in factor["terms"]
                ],
            }
            for factor in text["factors"]
        ],
        "categoricals": [[name, known, dtypes.encode(dtypes_of[name])] for name, known in text["categoricals"].items()],
    }


def _renamed(value: Any) -> Any:
    """A node of version 1, which said its kind under "node"."""
    if isinstance(value, dict):
        return {TAG if name == "node" else name: _renamed(one) for name, one in value.items()}
    return [_renamed(one) for one in value] if isinstance(value, list) else value


def _check(recipe: Recipe, text: Mapping[str, Any]) -> None:
    """Raise ValueError for what no fit learns: unknown operations, other parameters or groups than the formulas say."""
    for node in _nodes((text["response"], text["predictors"], text["factors"])):
        kind, name = node[TAG], node.get("name")
        if kind == "Function" and name not in FUNCTIONS:
            msg = f"there is no function {name!r}"
            raise ValueError(msg)
        if kind == "Arithmetic" and node["operator"] not in OPERATORS:
            msg = f"there is no operator {node['operator']!r}"
            raise ValueError(msg)
    parameters = [part.parameter for part in recipe.spec.predictors]
    if [part.parameter for part in recipe.predictors] != parameters:
        msg = f"the formulas are of {parameters}"
        raise ValueError(msg)
    for part in recipe.predictors:
        if len(part.kept) != len(part.columns):
            msg = f"{len(part.columns)} columns of {part.parameter}, and {len(part.kept)} marks of those that are kept"
            raise ValueError(msg)
    for factor in recipe.factors:
        if tuple(factor.levels.columns) != factor.keys or any(
            not known(term.structure) for term in factor.terms
        ):
            msg = f"the group {factor.name[:80]!r} has other keys or terms"
            raise ValueError(msg)


def _nodes(value: Any) -> list[dict[str, Any]]:
    """All records inside a value."""
    found: list[dict[str, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if TAG in one:
                found.append(one)
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
    return found
