"""How the responses of many models go with their columns and levels: what anova compares, model by model."""

from __future__ import annotations

import numpy as np

from polars_glmm.design.apart import level_numbers
from polars_glmm.design.by_key.records import KeyedDesign, starts
from polars_glmm.design.pairing import column_name, group_name, place_name, shares, size_name, varies
from polars_glmm.typing import Mat, Vec


def names_by_model(design: KeyedDesign) -> tuple[str, ...]:
    """The pairings of `pairings_by_model`."""
    groups = design.groups
    columns = [told(name) for name in design.names for told in (column_name, size_name, place_name)]
    return (*columns, *(group_name(groups[f]) for f in design.in_formula if groups))


def pairings_by_model(design: KeyedDesign) -> Mat:
    """Of the rows of each of M models, (M, 3 p + factors); NaN for a column that does not vary."""
    first = starts(design.model_rows)
    f, precision = design.frequency, design.precision
    w = f if precision is None else precision if f is None else f * precision
    y = design.y if design.offset is None else design.y - design.offset

    def total(v: Vec) -> Vec:
        return np.asarray(np.add.reduceat(v if w is None else w * v, first))

    size = total(np.ones_like(y))
    away = y - np.repeat(total(y) / size, design.model_rows)
    square, columns = total(away * away), []
    for x in design.x:
        mean = total(x) / size
        x_away = x - np.repeat(mean, design.model_rows)
        variance = total(x_away * x_away) / size
        fine = varies(mean, variance)
        own = np.where(fine, variance, 1.0)
        told = (
            shares(total(away * x_away), square * size * own),
            0.5 * np.log(own + mean**2),
            np.arcsinh(mean / np.sqrt(own)),
        )
        columns += [np.where(fine, one, np.nan) for one in told]
    codes, counts = design.codes, design.counts
    for k in design.in_formula if design.group is not None else []:
        models = starts(counts[k])
        within = np.arange(int(counts[k].sum())) - np.repeat(models, counts[k])
        numbers = level_numbers(int(counts[k].max(initial=0)))[within]
        weight = np.bincount(codes[k], w, len(numbers))
        sums = np.bincount(codes[k], away if w is None else w * away, len(numbers))
        spread = np.add.reduceat(numbers**2 * weight, models)
        columns.append(shares(np.add.reduceat(numbers * sums, models), square * spread))
    return np.array(columns).T
