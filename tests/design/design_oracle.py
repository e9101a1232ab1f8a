"""The same fixed-effects formula read by formulaic and by this package, on the same frame."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from formulaic import model_matrix

from polars_glmm.design.learn import learn
from polars_glmm.design.predictors import matrix
from polars_glmm.design.recipe import PredictorRecipe
from polars_glmm.frames.table import collect
from polars_glmm.spec.model import ModelSpec


class Columns(NamedTuple):
    names: list[str]
    values: np.ndarray[Any, Any]
    made_by: Any


def sample_frame(seed: int = 0, n: int = 60) -> pl.DataFrame:
    """Numbers, text, an Enum and a Boolean; every level of every categorical column occurs."""
    rng = np.random.default_rng(seed)
    draw = {
        "f": np.concatenate([list("cab"), rng.choice(list("cab"), n - 3)]),
        "g": np.concatenate([list("qp"), rng.choice(["p", "q"], n - 2)]),
        "h": np.concatenate([list("vutw"), rng.choice(list("uvwt"), n - 4)]),
    }
    order = pl.Enum(["lo", "mid", "hi"])
    return pl.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.uniform(-2, 2, n),
            "z": rng.uniform(0.5, 3, n),
            "w": rng.normal(size=n),
            "k": np.concatenate([np.arange(6), rng.integers(0, 6, n - 6)]),
            **draw,
            "b": np.concatenate([[True, False], rng.random(n - 2) < 0.5]),
        }
    ).with_columns(e=pl.col("f").replace_strict({"a": "lo", "b": "mid", "c": "hi"}, return_dtype=order))


def ours(formula: str, frame: pl.DataFrame) -> Columns:
    """All columns of the formula, those without an estimate included, as arrays."""
    recipe = learn(ModelSpec.parse((f"y ~ {formula}",)), frame).recipe.predictor("mu")
    values = matrix(recipe.columns, collect(frame, frame.columns)).T
    return Columns([column.name for column in recipe.columns], values, recipe)


def formulaics(formula: str, frame: pl.DataFrame) -> Columns:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = model_matrix(formula, frame, output="pandas")
    return Columns(list(made.columns), made.to_numpy().astype(float), made.model_spec)


def formulaics_on(spec: Any, frame: pl.DataFrame) -> np.ndarray[Any, Any]:
    """What formulaic's own recipe makes of another frame."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(spec.get_model_matrix(frame).to_numpy(), dtype=float)


def by_expressions(recipe: PredictorRecipe, frame: pl.DataFrame) -> np.ndarray[Any, Any]:
    """The recipe's columns on any frame, computed by Polars."""
    if not recipe.columns:
        return np.zeros((frame.height, 0))
    wanted = [column.node.to_expr().alias(f"c{i}") for i, column in enumerate(recipe.columns)]
    return frame.with_columns(wanted).select(f"c{i}" for i in range(len(wanted))).to_numpy()
