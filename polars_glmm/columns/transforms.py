"""Functions that learn from the data once: what they learned becomes constants of the columns they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.columns import polynomials, splines
from polars_glmm.columns.arguments import whole
from polars_glmm.columns.nodes import Affine, Arithmetic, Constant, Inside, Looked, Node, Piecewise, Roots, Wrapped
from polars_glmm.errors import ColumnError, FormulaError, counted
from polars_glmm.spec.syntax import FunctionCall, render
from polars_glmm.typing import Vec


class LearnedColumns(NamedTuple):
    """fields: what stands between the brackets of each name, or (None,) for one column under the function's own name.

    spans   the first column makes, with the others, a constant: it is left out beside an intercept
    """

    fields: tuple[str | None, ...]
    nodes: tuple[Node, ...]
    spans: bool = False


class Spread(NamedTuple):
    """How many rows, their mean, and their sum of squares about it."""

    size: float
    mean: float
    squares: float


class Input(NamedTuple):
    """A call, its argument as a node and as values (n,), counts of identical rows, and its other arguments.

    known   the spread of the values where it is all that is known of them: enough for scale, standardize and center
    means   for ave: the mean of the values in each level
    """

    call: FunctionCall
    x: Node
    values: Vec
    weights: Vec | None
    options: dict[str, Any]
    known: Spread | None = None
    means: Looked | None = None

    def spread(self, centre: float | None) -> Spread:
        """Count, mean, and squares about `centre` (None: about the mean)."""
        if self.known is not None:
            size, mean, squares = self.known
            return Spread(size, mean, squares if centre is None else squares + size * (mean - centre) ** 2)
        mean = _mean(self.values, self.weights)
        away = (self.values - (mean if centre is None else centre)) ** 2
        if self.weights is None:
            return Spread(self.values.size, mean, float(away.sum()))
        return Spread(float(self.weights.sum()), mean, float(away @ self.weights))


SPREAD_SUFFICES = frozenset({"scale", "standardize", "center"})
"""Transforms that ask for no more than Input.spread."""


def learn_transform(given: Input) -> LearnedColumns:
    """The columns of poly, bs, ns, cr, cc, rcs, ave, scale, standardize or center, with what the values taught."""
    return _TRANSFORMS[given.call.function](given)


def _mean(values: Vec, weights: Vec | None) -> float:
    return float(np.average(values, weights=weights))


def _scaled(given: Input, centre: Any, scale: Any, ddof: Any) -> LearnedColumns:
    spread = given.spread(None if centre is True else float(centre))
    middle = spread.mean if centre is True else float(centre)
    if scale is True:
        width = float(np.sqrt(spread.squares / (spread.size - ddof))) if spread.size > ddof else 0.0
        if not width > 64 * np.finfo(float).eps * abs(middle):
            msg = f"{render(given.call)}: the values do not vary, so they cannot be scaled."
            raise ColumnError(msg)
    else:
        width = 1.0 if scale is False else float(scale)
        if width == 0.0:
            msg = f"{render(given.call)}: a scale of 0 cannot divide."
            raise FormulaError(msg)
    return LearnedColumns((None,), (Affine(given.x, middle, width),))


def _scale(given: Input) -> LearnedColumns:
    o = given.options
    return _scaled(given, o.get("center", True), o.get("scale", True), o.get("ddof", 1))


def _standardize(given: Input) -> LearnedColumns:
    o = given.options
    return _scaled(given, o.get("center", True), o.get("rescale", True), o.get("ddof", 0))


def _center(given: Input) -> LearnedColumns:
    return _scaled(given, centre=True, scale=False, ddof=0)


def _poly(given: Input) -> LearnedColumns:
    degree = whole(given.call, "degree", given.options.get("degree", 1), 1)
    if given.options.get("raw", False):
        powers = tuple(Arithmetic("**", given.x, Constant(float(k))) for k in range(1, degree + 1))
        return LearnedColumns(tuple(str(k) for k in range(degree)), powers)
    distinct = len(np.unique(given.values))
    if degree >= distinct:
        msg = f"{render(given.call)}: degree {degree} needs more than {degree} distinct values; there are {distinct}."
        raise ColumnError(msg)
    known = polynomials.recurrence(given.values, degree, given.weights)
    nodes = tuple(
        Roots(given.x, tuple(polynomials.roots(known, k).tolist()), float(1.0 / np.sqrt(known.norms[k])))
        for k in range(1, degree + 1)
    )
    return LearnedColumns(tuple(str(k) for k in range(1, degree + 1)), nodes)


def _bounds(given: Input) -> tuple[float, float]:
    o, x = given.options, given.values
    low = float(x.min() if o.get("lower_bound") is None else o["lower_bound"])
    high = float(x.max() if o.get("upper_bound") is None else o["upper_bound"])
    if not low < high:
        msg = f"{render(given.call)}: the values do not span an interval (from {low} to {high})."
        raise ColumnError(msg)
    return low, high


def _inner_knots(given: Input, count: int | None, low: float, high: float, values: Vec, weights: Vec | None) -> Vec:
    """Knots as given, or `count` of them at equally spaced quantiles."""
    knots = given.options.get("knots")
    if knots is not None:
        if given.options.get("df") is not None:
            msg = f"{render(given.call)}: give df or knots, not both."
            raise FormulaError(msg)
        inner = np.sort(np.atleast_1d(np.asarray(knots, dtype=np.float64)))
        if inner.size and not (low <= inner[0] and inner[-1] <= high):
            msg = f"{render(given.call)}: knots lie between the bounds {low} and {high}."
            raise FormulaError(msg)
        return inner
    if count is None or count == 0:
        return np.zeros(0)
    return splines.quantiles(values, np.linspace(0.0, 1.0, count + 2)[1:-1], weights)


def _numbered(basis: splines.Pieces, x: Node, start: int, *, spans: bool = False) -> LearnedColumns:
    columns = range(basis.coefficients.shape[2])
    breaks = tuple(basis.breaks.tolist())
    nodes: list[Node] = [Piecewise(x, breaks, basis.column(j)) for j in columns]
    return LearnedColumns(tuple(str(start + j) for j in columns), tuple(nodes), spans)


def _b_spline_knots(given: Input, degree: int, count: int | None, inside: str) -> Vec:
    low, high = _bounds(given)
    x, weights = given.values, given.weights
    out = (x < low) | (x > high)
    if out.any():
        if inside == "raise":
            n = counted(int(out.sum()), "value", "lies", "lie")
            msg = f"{render(given.call)}: {n} outside the bounds; see extrapolation=."
            raise ColumnError(msg)
        if inside != "extend":
            x, weights = x[~out], None if weights is None else weights[~out]
    inner = _inner_knots(given, count, low, high, x, weights)
    return np.concatenate([np.repeat(low, degree + 1), inner, np.repeat(high, degree + 1)])


def _bs(given: Input) -> LearnedColumns:
    o = given.options
    degree = whole(given.call, "degree", o.get("degree", 3), 0)
    intercept = bool(o.get("include_intercept", False))
    count = None
    if o.get("df") is not None:
        count = whole(given.call, "df", o["df"], degree + intercept) - degree - intercept
    outside = o.get("extrapolation", "raise")
    if outside not in ("raise", "extend", "clip", "na", "zero"):
        msg = f"{render(given.call)}: extrapolation is 'extend', 'clip', 'na', 'zero' or 'raise', not {outside!r}."
        raise FormulaError(msg)
    basis = splines.b_spline(_b_spline_knots(given, degree, count, outside), degree)
    if not intercept:
        basis = basis._replace(coefficients=basis.coefficients[:, :, 1:])
    learned = _numbered(basis, given.x, 0 if intercept else 1, spans=intercept)
    return learned._replace(nodes=tuple(_beyond(given, node, outside) for node in learned.nodes))


def _beyond(given: Input, node: Node, outside: str) -> Node:
    """What a spline is outside its bounds; 'raise' concerns the rows of the fit, new rows are extended."""
    if outside in ("raise", "extend"):
        return node
    low, high = _bounds(given)
    if outside == "clip":
        ends = Inside(given.x, low, np.inf, Inside(given.x, -np.inf, high, given.x, high), low)
        return Piecewise(ends, node.breaks, node.pieces) if isinstance(node, Piecewise) else node
    return Inside(given.x, low, high, node, 0.0 if outside == "zero" else None)


def _ns(given: Input) -> LearnedColumns:
    intercept = bool(given.options.get("include_intercept", False))
    count = None
    if given.options.get("df") is not None:
        count = whole(given.call, "df", given.options["df"], 1 + intercept) - 1 - intercept
    knots = _b_spline_knots(given, 3, count, "extend")
    basis = splines.natural_b_spline(knots, intercept=intercept)
    return _numbered(basis, given.x, 1)


def _cubic(given: Input, *, cyclic: bool) -> LearnedColumns:
    o = given.options
    constraints = o.get("constraints")
    if constraints not in (None, "center"):
        msg = f"{render(given.call)}: constraints is 'center' or nothing."
        raise FormulaError(msg)
    if o.get("df") is None and o.get("knots") is None:
        msg = f"{render(given.call)}: give df or knots."
        raise FormulaError(msg)
    centred = constraints == "center"
    count = None
    if o.get("df") is not None:
        least = 1 if cyclic or centred else 2
        count = whole(given.call, "df", o["df"], least) - 2 + centred + cyclic
    low, high = _bounds(given)
    values = np.unique(given.values[(given.values >= low) & (given.values <= high)])
    inner = _inner_knots(given, count, low, high, values, None)
    knots = np.unique(np.concatenate([[low], inner, [high]]))
    if len(knots) != len(inner) + 2:
        msg = f"{render(given.call)}: {len(inner)} inner knots are not distinct with {len(values)} distinct values."
        raise ColumnError(msg)
    x, values = given.x, given.values
    basis = splines.cyclic_cubic(knots) if cyclic else splines.natural_cubic(knots)
    if cyclic:
        x = Wrapped(x, low, high)
        period = high - low
        values = np.where(values > high, low + np.mod(values - high, period), values)
        values = np.where(values < low, high - np.mod(low - values, period), values)
    if centred:
        mean = np.average(basis.values(values), axis=0, weights=given.weights)
        basis = basis.times(splines.centring(mean))
    return _numbered(basis, x, 1)


def _rcs(given: Input) -> LearnedColumns:
    o = given.options
    if o.get("knots") is not None:
        if o.get("k") is not None:
            msg = f"{render(given.call)}: give k or knots, not both."
            raise FormulaError(msg)
        knots = np.sort(np.atleast_1d(np.asarray(o["knots"], dtype=np.float64)))
    else:
        k = whole(given.call, "k", o.get("k", 5), 3)
        if k not in splines.HARRELL:
            msg = f"{render(given.call)}: k is 3 to {max(splines.HARRELL)}; for other knots write knots=[…]."
            raise FormulaError(msg)
        knots = splines.quantiles(given.values, np.array(splines.HARRELL[k]), given.weights)
    if len(knots) < 3 or not bool((np.diff(knots) > 0).all()):
        found = ", ".join(f"{knot:g}" for knot in knots)
        why = f"the knots {found} are not three or more different numbers"
        msg = f"{render(given.call)}: {why}; take fewer, or knots=[…]."
        raise ColumnError(msg)
    curved = _numbered(splines.restricted_cubic(knots), given.x, 2)
    return LearnedColumns(("1", *curved.fields), (given.x, *curved.nodes))


def _ave(given: Input) -> LearnedColumns:
    assert given.means is not None
    return LearnedColumns((None,), (given.means,))


_TRANSFORMS: dict[str, Callable[[Input], LearnedColumns]] = {
    "poly": _poly,
    "bs": _bs,
    "ns": _ns,
    "cr": lambda given: _cubic(given, cyclic=False),
    "cc": lambda given: _cubic(given, cyclic=True),
    "scale": _scale,
    "standardize": _standardize,
    "center": _center,
    "rcs": _rcs,
    "ave": _ave,
}
