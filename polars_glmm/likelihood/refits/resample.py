"""Resamples of a design's groups: levels drawn with replacement, and levels left out one by one.

A level drawn k times is k levels: one with its rows counted k times would share its effect (Field & Welsh 2007).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from polars_glmm.design.records import Design
from polars_glmm.design.selection import design_of, relevelled, rows_of
from polars_glmm.errors import ModelError, suggest
from polars_glmm.typing import CodeVec, IntVec

MOST_LEFT_OUT = 200
"""Parts that are left out at most; of more levels several go together."""


def require_nested(design: Design, group: str) -> None:
    """Raise ModelError where levels of another factor lie in several levels of the group."""
    cluster = next(factor for factor in design.factors if factor.name == group)
    for factor in design.factors:
        if factor.name != group and not is_nested(factor.codes, cluster.codes):
            msg = (
                f"Levels of {factor.name!r} lie in several levels of {group!r}: resampled levels of crossed factors "
                "are no data of the model. Use kind='parametric'."
            )
            raise ModelError(msg)


def resampled(design: Design, group: str, seed: int, draws: Iterable[int]) -> Iterator[Design]:
    """Designs of as many levels of a group, drawn with replacement; each depends on the seed and its number alone."""
    n = next(factor.n_levels for factor in design.factors if factor.name == group)
    for draw in draws:
        yield _of_levels(design, group, np.random.default_rng([seed, draw]).integers(n, size=n))


def with_levels(design: Design, group: str, n: int) -> Design:
    """The design with n levels of a group, its own taken in turn. Raises ModelError for a group there is not."""
    names = [factor.name for factor in design.factors]
    if group not in names:
        msg = f"The model has no grouping factor {group!r}.{suggest(group, names)}"
        raise ModelError(msg)
    require_nested(design, group)
    return _of_levels(design, group, np.arange(n) % design.factors[names.index(group)].n_levels)


def _of_levels(design: Design, group: str, chosen: IntVec) -> Design:
    """The rows of chosen levels of a group, each a level of its own."""
    cluster = next(factor for factor in design.factors if factor.name == group)
    order = np.argsort(cluster.codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(cluster.codes, minlength=cluster.n_levels))])
    sizes = starts[chosen + 1] - starts[chosen]
    copy = np.repeat(np.arange(len(chosen)), sizes)
    made = rows_of(design, np.concatenate([order[starts[k] : starts[k + 1]] for k in chosen]))
    factors = tuple(relevelled(f, copy * f.n_levels + f.codes.astype(np.int64)) for f in made.factors)
    residual = made.residual
    if residual is not None:
        _, codes = np.unique(copy * residual.n_groups + residual.codes.astype(np.int64), return_inverse=True)
        residual = replace(residual, codes=codes.astype(np.int32), n_groups=int(codes.max()) + 1)
    return replace(made, factors=factors, residual=residual)


def leave_out(design: Design) -> Iterator[Design]:
    """The design without one level of its coarsest group, or without one part of its rows, in turn."""
    parts = _parts(design)
    for part in range(int(parts.max()) + 1):
        yield design_of(design, parts != part)


def _parts(design: Design) -> IntVec:
    """The part of each row (n,)."""
    if single := [factor for factor in design.factors if factor.sets is None]:  # rows are in one level of these
        coarsest = min(single, key=lambda factor: factor.n_levels)
        return np.asarray(coarsest.codes.astype(np.intp) * min(MOST_LEFT_OUT, coarsest.n_levels) // coarsest.n_levels)
    n = design.n_rows
    return np.asarray(np.arange(n) * min(MOST_LEFT_OUT, n) // n)


def is_nested(inner: IntVec | CodeVec, outer: IntVec | CodeVec) -> bool:
    """Whether every level of `inner` lies in one level of `outer`."""
    pairs = np.unique(np.stack([inner, outer]), axis=1).shape[1]
    return bool(pairs == len(np.unique(inner)))
