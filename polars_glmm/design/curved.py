"""Powers and products of variables far from zero: columns that differ, but by less than floating point can tell.

x² … x⁴ of calendar years are nearly straight lines. Whether such a column is lost to rounding only, or a true
combination of others, is told by the same columns of centred variables: they span the same space, and lose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import NamedTuple

import numpy as np

from polars_glmm.columns.nodes import Affine, Arithmetic, Coded, Constant, Function, Node, Product
from polars_glmm.frames.source import Source
from polars_glmm.typing import BoolVec, Mat

from .rank import Judged

_SHORT = 1e-10
"""Squared remainder of a unit column below which its products tell nothing."""


class ColumnSpread(NamedTuple):
    """Mean and standard deviation of a variable."""

    mean: float
    sd: float


def degree(node: Node) -> float:
    """Of a column as a polynomial in its variables (which may be functions of columns); 0 without any."""
    match node:
        case Constant() | Coded():
            return 0.0
        case Function(name="I" | "negative", x=x) | Affine(x=x):
            return degree(x)
        case Arithmetic(operator="**", left=left, right=Constant(value=power)) if power >= 1.0 and power.is_integer():
            return power * degree(left)
        case Arithmetic(operator="*", left=left, right=right):
            return degree(left) + degree(right)
        case Arithmetic(operator="+" | "-", left=left, right=right):
            return max(degree(left), degree(right))
        case Arithmetic(operator="/", left=left, right=Constant()):
            return degree(left)
        case Product(factors=factors):
            return sum(map(degree, factors))
        case _:
            return 1.0


def variables_of(node: Node) -> tuple[Node, ...]:
    """What a column is a polynomial in."""
    match node:
        case Constant() | Coded():
            return ()
        case Function(name="I" | "negative", x=x) | Affine(x=x):
            return variables_of(x)
        case Arithmetic(operator="**", left=left, right=Constant(value=power)) if power >= 1.0 and power.is_integer():
            return variables_of(left)
        case Arithmetic(operator="*" | "+" | "-", left=left, right=right):
            return (*variables_of(left), *variables_of(right))
        case Arithmetic(operator="/", left=left, right=Constant()):
            return variables_of(left)
        case Product(factors=factors):
            return tuple(found for factor in factors for found in variables_of(factor))
        case _:
            return (node,)


def standardised(node: Node, about: Mapping[Node, ColumnSpread]) -> Node:
    """The column with every variable centred and scaled."""
    if node in about:
        return Affine(node, *about[node])
    match node:
        case Function(name="I" | "negative", x=x) | Affine(x=x):
            return replace(node, x=standardised(x, about))
        case Arithmetic(operator="**" | "/", left=left, right=Constant()):
            return replace(node, left=standardised(left, about))
        case Arithmetic(operator="*" | "+" | "-", left=left, right=right):
            return replace(node, left=standardised(left, about), right=standardised(right, about))
        case Product(factors=factors):
            return Product(tuple(standardised(factor, about) for factor in factors))
        case _:
            return node


def lost_to_rounding(
    nodes: Sequence[Node],
    judged: Judged,
    spread_of: Callable[[Sequence[Node]], Sequence[ColumnSpread]],
    judge_again: Callable[[Sequence[Node]], BoolVec],
) -> BoolVec:
    """(p,) columns that are not kept, but would be if their variables were centred.

    spread_of     means and standard deviations of variables
    judge_again   which of some columns would be kept; both are asked only where a curved column is blurred
    """
    curved = np.array([degree(node) > 1.0 for node in nodes], dtype=np.bool_)
    doubtful = ~judged.kept & judged.blurred & curved
    if not doubtful.any():
        return doubtful
    variables = tuple(dict.fromkeys(v for node in nodes for v in variables_of(node)))
    about = {
        v: spread
        for v, spread in zip(variables, spread_of(variables), strict=True)
        if spread.sd > 0.0 and isfinite(spread.sd) and isfinite(spread.mean)
    }
    return doubtful & judge_again([standardised(node, about) for node in nodes])


def spread_by_query(source: Source) -> Callable[[Sequence[Node]], list[ColumnSpread]]:
    """Means and standard deviations of variables over the rows of a source."""

    def spread_of(variables: Sequence[Node]) -> list[ColumnSpread]:
        values = [source.expression(v).alias(f"v{k}") for k, v in enumerate(variables)]
        own = [source.library.col(f"v{k}") for k in range(len(variables))]
        asked = [one for k, v in enumerate(own) for one in (v.mean().alias(f"{k}m"), v.std().alias(f"{k}s"))]
        row = source.answer(source.rows.select(*values).select(*asked)).row(0, named=True)
        return [ColumnSpread(float(row[f"{k}m"]), float(row[f"{k}s"] or 0.0)) for k in range(len(variables))]

    return spread_of


def kept_by_query(source: Source, centred: BoolVec) -> Callable[[Sequence[Node]], BoolVec]:
    """Which of some columns are independent, told by their products over the rows of a source."""

    def judge_again(nodes: Sequence[Node]) -> BoolVec:
        p = len(nodes)
        own = [source.library.col(f"v{j}") for j in range(p)]
        values = [source.expression(node).alias(f"v{j}") for j, node in enumerate(nodes)]
        sums = [source.count().alias("n"), *(v.sum().alias(f"s{j}") for j, v in enumerate(own))]
        products = {f"p{i},{j}": own[i] * own[j] for i in range(p) for j in range(i + 1)}
        row = source.answer(source.totals(source.rows.select(*values), products, sums)).row(0, named=True)
        mean = np.array([row[f"s{j}"] for j in range(p)]) / row["n"] * centred
        second = np.array([[row[f"p{max(i, j)},{min(i, j)}"] for j in range(p)] for i in range(p)])
        return _kept(second / row["n"] - np.outer(mean, mean), centred)

    return judge_again


def _kept(gram: Mat, centred: BoolVec) -> BoolVec:
    """The columns of products (p, p) whose remainder is longer than products can tell."""
    scale = np.sqrt(np.maximum(np.diag(gram), 0.0))
    kept: list[int] = []
    for j in np.flatnonzero((scale > 0.0) | ~centred):
        left = 1.0
        if kept:
            own = gram[np.ix_(kept, kept)] / np.outer(scale[kept], scale[kept])
            with_own = gram[kept, j] / (scale[kept] * scale[j])
            left -= float(with_own @ np.linalg.lstsq(own, with_own, rcond=None)[0])
        if left > _SHORT:
            kept.append(int(j))
    return np.isin(np.arange(len(gram)), kept)
