"""The hypotheses of type III: coefficients of terms in sum-to-zero coding, as functions of those of any coding.

A column is a product of numbers of levels and of numeric variables. The weights w of a coding over L levels are
mean(w) + Σ_k (w_k − mean(w)) s_k in the columns s of sum coding, so every column is a combination of products of these;
what it adds to the products of a term is a row of the hypothesis, whatever the data and whatever the coding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from polars_glmm.columns.nodes import Coded, Constant
from polars_glmm.typing import Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.design.recipe import Categorical
    from polars_glmm.inference.term_columns import TermColumns, TermPiece

Span: TypeAlias = tuple[tuple[str, str | None], ...]
"""The variables of a product: (factor, None) for a categorical one, (factor, field) for a numeric column."""


class _Weights(NamedTuple):
    """A piece in sum coding: its mean over the levels, and the rest (L − 1,); a numeric one has no mean."""

    mean: float | None
    rest: Vec


def type_three(terms: Sequence[TermColumns], categoricals: Mapping[str, Categorical]) -> dict[str, Mat]:
    """The rows (q, p) over all columns of a predictor that are zero under the hypothesis of each term.

    They are what the term is the first to span: its own products, and those of fewer variables that no term before it
    has (in `y ~ 0 + f` the mean; in `y ~ f:x` without `x` the common slope).
    """
    p = sum(len(term.places) for term in terms)
    levels = _levels(terms, categoricals)
    columns: dict[Span, dict[int, Vec]] = {}
    of_term: dict[str, list[Span]] = {}
    seen: set[frozenset[str]] = set()
    for term in terms:
        own: dict[Span, None] = {}
        for place, pieces in zip(term.places, term.pieces, strict=True):
            for span, values in _expanded(pieces, levels):
                columns.setdefault(span, {})[place] = values
                own[span] = None
        new = [span for span in own if _variables(span) not in seen]
        of_term[term.name] = new
        seen.update(_variables(span) for span in own)
    return {name: _rows([columns[span] for span in spans], p) for name, spans in of_term.items()}


def _variables(span: Span) -> frozenset[str]:
    return frozenset(factor for factor, _ in span)


def _rows(blocks: Sequence[Mapping[int, Vec]], p: int) -> Mat:
    out = []
    for block in blocks:
        size = len(next(iter(block.values())))
        rows = np.zeros((size, p))
        for place, values in block.items():
            rows[:, place] = values
        out.append(rows)
    return np.concatenate(out) if out else np.empty((0, p))


def _expanded(pieces: Sequence[TermPiece], levels: Mapping[str, list[Any]]) -> Iterator[tuple[Span, Vec]]:
    """The products of sum-coded and numeric columns that a column is a combination of, with their weights."""
    weights = [_weights(piece, levels) for piece in pieces]
    for constant in product(*((False,) if one.mean is None else (False, True) for one in weights)):
        span: list[tuple[str, str | None]] = []
        value = 1.0
        rest: list[Vec] = []
        for piece, one, is_constant in zip(pieces, weights, constant, strict=True):
            if is_constant:
                value *= float(one.mean or 0.0)
            elif one.mean is None:
                span.append((piece.factor, piece.field or ""))
            else:
                span.append((piece.factor, None))
                rest.append(one.rest)
        if value != 0.0:
            yield tuple(span), value * _kronecker(rest)


def _kronecker(vectors: Sequence[Vec]) -> Vec:
    out: Vec = np.ones(1)
    for one in vectors:
        out = np.asarray(np.kron(out, one), dtype=np.float64)
    return out


def _weights(piece: TermPiece, levels: Mapping[str, list[Any]]) -> _Weights:
    if piece.factor not in levels:
        return _Weights(None, np.ones(1))
    own = levels[piece.factor]
    if isinstance(piece.node, Coded):
        given = dict(zip(piece.node.levels, piece.node.weights, strict=True))
        values = np.array([given.get(level, 0.0) for level in own])
    else:  # a comparison is true or false
        values = np.array([float(piece.field in ((f"{one}", f"T.{one}"))) for one in own])
    mean = float(values.mean())
    return _Weights(mean, (values - mean)[:-1])


def _levels(terms: Sequence[TermColumns], categoricals: Mapping[str, Categorical]) -> dict[str, list[Any]]:
    """The levels of every categorical factor of the terms in level order, as values of the kind its columns know."""
    found: dict[str, list[Any]] = {}
    for piece in (piece for term in terms for pieces in term.pieces for piece in pieces):
        node = piece.node
        if isinstance(node, Coded):
            known = categoricals[node.column].levels
            as_kind: dict[str, Callable[[str], Any]] = {"text": str, "boolean": "true".__eq__, "number": float}
            found[piece.factor] = [as_kind[node.kind](label) for label in known]
        elif piece.field in ("True", "False", "T.True"):
            found[piece.factor] = [True] if isinstance(node, Constant) else [False, True]
    return found
