"""What a fit will cost: laws measured on one core (docs/explanation), from counts of rows, levels and columns."""

from __future__ import annotations

from typing import NamedTuple

from polars_glmm.result.look import Look

_PASS = 30e-9
"""Seconds a row takes in one pass of a likelihood of some five columns."""
_PASSES = (10, 40)
"""Passes over the rows until optimum, standard errors and modes are found; the search needs fewer the more rows."""
_DECODE = 60e-9
"""Seconds a row takes to be read and decoded by a query."""
_LEVEL_PRODUCT, _TOTAL_PRODUCT = 7e-9, 2e-9
"""Seconds a row takes for a product summed by level, and for one summed over all rows."""
_LEVEL_BYTES = 24
"""Bytes of a product of a level: the sum, its place in a hash table, and a copy."""
_FLOP = 0.02e-9
"""Seconds of a floating-point operation in a dense factorisation; a gradient costs about three factorisations."""
_NUMBER = 8


class Elimination(NamedTuple):
    """How the random effects are eliminated: "none", "levels" (one factor), "nested", "sparse" or "dense".

    order, memory   of each dense matrix that remains: m unknowns, m² · 8 bytes; "sparse": the unknowns that remain, few
                    of which meet, and 0
    lead            factors eliminated level by level before, in order
    blocks          number of dense matrices: one, or one for each level of a factor in which all others are nested
    """

    kind: str
    order: int
    memory: int
    lead: tuple[str, ...]
    blocks: int


class Cost(NamedTuple):
    """memory in bytes at the worst moment; passes over the rows and seconds on one core: at least, at most."""

    memory: int
    passes: tuple[int, int]
    seconds: tuple[float, float]


def elimination(look: Look) -> Elimination:
    """The factor with the most levels goes first, and the next as long as the first is nested in all others.

    Where the first meets hardly more levels of the others than it has itself, what remains is sparse.
    """
    left = sorted(range(len(look.factors)), key=lambda i: -look.factors[i].n_levels)
    lead: list[str] = []

    def nested(i: int) -> bool:
        return all(look.pairs[min(i, j), max(i, j)] == look.factors[i].n_levels for j in left if j != i)

    while len(left) > 1 and nested(left[0]):
        lead.append(look.factors[left.pop(0)].name)
    if not left:
        return Elimination("none", 0, 0, (), 0)
    lead.append(look.factors[left[0]].name)
    order = sum(look.factors[i].n_levels * len(look.factors[i].columns) for i in left[1:])
    if not order:
        return Elimination("nested" if len(lead) > 1 else "levels", 0, 0, tuple(lead), 0)
    first, *others = left
    met = sum(look.pairs[min(first, j), max(first, j)] * len(look.factors[j].columns) for j in others)
    if met - len(others) * look.factors[first].n_levels <= order:
        return Elimination("sparse", order, 0, tuple(lead), 0)
    sites = [
        look.factors[top].n_levels
        for top in others
        if all(look.pairs[min(i, top), max(i, top)] == look.factors[i].n_levels for i in left if i != top)
    ]
    blocks = max(sites, default=1)
    order = -(-order // blocks)
    return Elimination("dense", order, _NUMBER * order**2, tuple(lead), blocks)


def products_cost(look: Look, scans: int) -> Cost:
    """A gaussian model from its cross-products: one reading of the rows, then levels only."""
    p = sum(len(columns) for _, columns in look.predictors)
    by_level = [
        (f.n_levels, len(f.columns) * (len(f.columns) + 1) // 2 + len(f.columns) * (p + 1)) for f in look.factors
    ]
    whole = (p + 1) * (p + 2) // 2
    row = _LEVEL_PRODUCT * sum(products for _, products in by_level) + _TOTAL_PRODUCT * whole
    memory = _LEVEL_BYTES * (sum(levels * products for levels, products in by_level) + whole)
    for (i, j), pairs in look.pairs.items():
        memory += _LEVEL_BYTES * pairs * len(look.factors[i].columns) * len(look.factors[j].columns)
    reading = look.n_rows * (row + _DECODE * scans)
    dense = elimination(look)
    low, high = (reading + times * _dense_seconds(dense) for times in _PASSES)
    return Cost(memory + 3 * dense.blocks * dense.memory, (0, 0), (low, high))


def passes_cost(look: Look, rows: int, memory: int, nodes: int) -> Cost:
    """A likelihood computed in passes over `rows` rows, `nodes` values in each; memory is that of the rows."""
    dense = elimination(look)
    low, high = (times * (_PASS * rows * nodes + _dense_seconds(dense)) for times in _PASSES)
    return Cost(memory + 3 * dense.blocks * dense.memory, _PASSES, (low, high))


def _dense_seconds(dense: Elimination) -> float:
    """A gradient on a dense remainder: m³/3 operations to factorise, twice that for the selected inverse."""
    return _FLOP * dense.blocks * float(dense.order) ** 3
