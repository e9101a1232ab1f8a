"""What a fit will cost: laws of operation counts, with constants measured on one core (benchmarks/estimates.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polars_glmm.fitting.look import Look
from polars_glmm.likelihood.dense_limit import dense_bytes

if TYPE_CHECKING:
    from polars_glmm.spec.model import ModelSpec

_SPAN = (0.5, 2.2)
"""Of the time that the laws give: how unlike data of equal size, and machines, are."""
_CALL = 5e-3
"""Seconds of a call that do not depend on the data."""
_NUMBER = 8

_PASS: dict[str, float] = {
    "gaussian": 75e-9, "binomial": 55e-9, "poisson": 38e-9, "gamma": 50e-9, "inverse_gaussian": 38e-9,
    "negative_binomial": 100e-9,
}  # fmt: skip
"""Seconds a row takes in one pass of a likelihood of five columns and an intercept by group, by family."""
_OTHER_LINK, _SPREAD = 2.5, 4.0
"""The same relative to the family's usual link, and with a formula for the dispersion of counts."""
_PASS_COLUMN, _PASS_EFFECT = 1.2e-9, 3e-9
"""Seconds more for a fixed column, and for an entry of a level's covariance matrix."""
_PASS_LEVEL = (80e-9, 60e-9)
"""Seconds of a level in a pass, and of each entry of its matrix."""
_PASS_CALLS = 0.25e-3
"""Seconds of a pass over nothing, for each factor."""
_NODE, _NODE_PASSES = 0.25, 0.35
"""Of a pass, what a further node of quadrature costs, and how many more there are of it: it is not asked for modes."""
_READ = 20e-9
"""Seconds a number of a row takes to be read, coded and sorted."""
_COUNT = 300e-9
"""Seconds a row takes where equal ones are counted."""
_FEW_ROWS, _SLOWER = 50_000, 1.3
"""Rows below which a search does not begin on a part of them, and how many more passes it needs then."""

_LAPLACE = 0.9
"""Share of the passes that Laplace's approximation needs, whose modes need not be exact while it is searched."""

_QUERY, _DECODE, _COLUMN = 15e-3, 25e-9, 10e-9
"""Seconds of a query over nothing, of a row to be read by it, and of a column of a lazy frame to be decoded."""
_LEVEL_PRODUCT, _TOTAL_PRODUCT = 2.5e-9, 0.8e-9
"""Seconds a row takes for a product summed by level, and for one summed over all rows."""
_PAIR_QUERY = 300e-9
"""Seconds a row takes to be summed by pairs of levels."""
_LEVEL_EVALUATION = 20e-9
"""Seconds of a level for each of its r²(p + r) products in an evaluation from cross-products."""

_CUBE, _SQUARE = (0.038e-9, 0.043e-9), (0.0, 10e-9)
"""Seconds for m³ and m² of a dense matrix in an evaluation: from cross-products, and of a Laplace approximation."""
_ENTRY, _PAIR, _WIDE = (200e-9, 300e-9), (27e-9, 38e-9), (0.09e-9, 0.12e-9)
"""Seconds of an entry of W, of a pair of entries in a row of W, and for m² of a wide row as a dense one; the same."""

_BASE_BYTES = 10 << 20
"""What libraries take when they first work."""
_LEVEL_BYTES = 80
"""Bytes of a product of a level: the sum, its place in a hash table, and copies."""
_MOST_QUERIED = 300_000
"""Rows whose columns a query has in memory at a time, at most."""
_ENTRY_BYTES, _PAIR_BYTES = 110, 40
"""Bytes of an entry of W (sums, places, values in the states kept), and of a pair of entries while it is kept."""
_PAIRS_KEPT, _PAIRS_PER_PLACE = 20_000_000, 4.0
"""As in linalg.row_products: pairs beyond which they are gathered anew each time."""
_SLAB_BYTES = 64 << 20
"""Of pairs and rows of W that are worked on at a time, at most."""


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
    several = {term.group for term in look.spec.random if term.members is not None}
    if look.spec.relations or (several and (len(left) == 1 or look.factors[left[0]].name in several)):
        order = sum(f.n_levels * len(f.columns) for f in look.factors)  # all levels are coupled
        return Elimination("dense", order, _NUMBER * order**2, (), 1)

    def nested(i: int) -> bool:
        return all(look.pairs[min(i, j), max(i, j)] == look.factors[i].n_levels for j in left if j != i)

    while len(left) > 1 and not several and nested(left[0]):
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


class Left(NamedTuple):
    """What the elimination of the lead is made of: W, a row for each effect of the lead.

    entries   of W
    pairs     of entries that share a row
    rows      {length: rows of W that have it}
    """

    entries: float
    pairs: float
    rows: dict[float, int]

    @classmethod
    def of(cls, look: Look, gone: Elimination) -> Left:
        """From the meetings of the last factor that is eliminated by level with those that remain."""
        if gone.kind not in ("dense", "sparse") or not gone.lead:
            return cls(0.0, 0.0, {})
        names = [factor.name for factor in look.factors]
        lead = names.index(gone.lead[-1])
        rest = [j for j, name in enumerate(names) if name not in gone.lead]
        size = len(look.factors[lead].columns)
        met = {j: sum(k * n for k, n in look.meetings[lead, j].items()) * len(look.factors[j].columns) for j in rest}
        most = max(rest, key=met.__getitem__)
        wider = sum(met.values()) / met[most] * len(look.factors[most].columns)
        rows = {k * wider: n * size for k, n in look.meetings[lead, most].items()}
        return cls(sum(k * n for k, n in rows.items()), sum(0.5 * k * (k + 1.0) * n for k, n in rows.items()), rows)


def products_cost(look: Look, scans: int, *, lazy: bool) -> Cost:
    """A gaussian model from its cross-products: one reading of the rows, then levels only."""
    p = sum(len(columns) for _, columns in look.predictors)
    sizes = [(f.n_levels, len(f.columns)) for f in look.factors]
    by_level = [(levels, r * (r + 1) // 2 + r * (p + 1)) for levels, r in sizes]
    whole = (p + 1) * (p + 2) // 2
    row = _LEVEL_PRODUCT * sum(products for _, products in by_level) + _TOTAL_PRODUCT * whole
    row += scans * (_DECODE + (_COLUMN * (p + len(sizes)) if lazy else 0.0))
    gone = elimination(look)
    left = Left.of(look, gone)
    row += _PAIR_QUERY * _crossed(look)
    evaluations = 3.0 + 2.2 * sum(r * (r + 1) / 2 for _, r in sizes)
    each = sum(_LEVEL_EVALUATION * levels * r**2 * (p + r) for levels, r in sizes) + _dense_seconds(gone, left, 0)
    seconds = _CALL + _QUERY * scans + look.n_rows * row + evaluations * (1e-3 * max(len(sizes), 1) + each)
    memory = _BASE_BYTES + _LEVEL_BYTES * (sum(levels * products for levels, products in by_level) + whole)
    memory += _NUMBER * (p + 1 + len(sizes)) * min(look.n_rows, _MOST_QUERIED)
    return Cost(memory + _dense_memory(gone, left, exact=True), (0, 0), _span(seconds))


def passes_cost(look: Look, rows: int, memory: int, nodes: int) -> Cost:
    """A likelihood computed in passes over `rows` rows, `nodes` values in each; memory is that of the rows."""
    spec = look.spec
    p = sum(len(columns) for _, columns in look.predictors)
    sizes = [(f.n_levels, len(f.columns)) for f in look.factors]
    k = sum(r * (r + 1) / 2 for _, r in sizes) if sizes else 0.0
    gone = elimination(look)
    left = Left.of(look, gone)
    passes = 25.0 + 1.8 * p + 4.0 * max(k - 1.0, 0.0) if sizes else 6.0 + 1.5 * p
    if sizes and nodes == 1:
        passes *= _LAPLACE
    if left.rows:
        passes *= 2.2
    elif rows < _FEW_ROWS:
        passes *= _SLOWER
    one = _pass_seconds(spec, p, sum(r for _, r in sizes)) * rows + _PASS_CALLS * max(len(sizes), 1)
    one *= 1.0 + _NODE * (nodes - 1)
    one += sum(levels * (_PASS_LEVEL[0] + _PASS_LEVEL[1] * r**2) for levels, r in sizes)
    seconds = _CALL + (_READ * (p + 3) + (_COUNT if rows < look.n_rows else 0.0)) * look.n_rows + passes * one
    seconds += (4.0 + 4.0 * k + 0.3 * p) * _dense_seconds(gone, left, 1)
    low, high = _span(passes * (1.0 + _NODE_PASSES * (nodes - 1)))
    held = _BASE_BYTES + memory + _dense_memory(gone, left, exact=False)
    return Cost(held, (round(low), round(high)), _span(seconds))


def _pass_seconds(spec: ModelSpec, p: int, effects: int) -> float:
    """Seconds of a row in a pass."""
    family = spec.family
    usual = _PASS.get(family.name, max(_PASS.values()))
    if family.takes_trials and not family.canonical:
        usual *= _OTHER_LINK
    if family.limit is not None and len(spec.predictors) > 1:
        usual *= _SPREAD
    return usual + _PASS_COLUMN * (p - 5) + _PASS_EFFECT * (effects**2 - 1)


def _crossed(look: Look) -> int:
    """Pairs of factors neither of which is nested in the other: their sums are a query of their own."""
    return sum(n > max(look.factors[i].n_levels, look.factors[j].n_levels) for (i, j), n in look.pairs.items())


def _dense_seconds(gone: Elimination, left: Left, laplace: int) -> float:
    """An evaluation with its gradient: S is summed over the rows of W, factorised, and inverted on its pattern."""
    m = float(gone.order)
    wide = _WIDE[laplace] * m**2 if gone.kind == "dense" and gone.blocks == 1 else float("inf")
    rows = sum(n * min(_PAIR[laplace] * 0.5 * k * (k + 1.0), wide) for k, n in left.rows.items())
    cubes = gone.blocks * (_CUBE[laplace] * m**3 + _SQUARE[laplace] * m**2) if gone.kind == "dense" else 0.0
    return _ENTRY[laplace] * left.entries + rows + cubes


def _dense_memory(gone: Elimination, left: Left, *, exact: bool) -> int:
    """Bytes of S as often as it is held, of W, and of the pairs of its entries where they are kept."""
    if not left.rows and not gone.order:
        return 0
    entries = gone.blocks * gone.order**2 if gone.kind == "dense" else 0
    many = left.pairs > min(_PAIRS_KEPT, _PAIRS_PER_PLACE * entries)
    memory = _ENTRY_BYTES * left.entries + (0 if many else _PAIR_BYTES * left.pairs)
    memory += min(_SLAB_BYTES, 2 * _NUMBER * left.pairs)
    return int(memory) + dense_bytes(entries, exact=exact, gathered=many)


def _span(centre: float) -> tuple[float, float]:
    return _SPAN[0] * centre, _SPAN[1] * centre
