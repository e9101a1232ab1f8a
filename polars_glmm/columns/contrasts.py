"""Contrast codings of a categorical variable: levels in, a coding matrix and the names of its columns out.

Matrices as in R's contr.* (Venables & Ripley 2002, §6.2), names as formulaic's: `f[T.b]`, `f[S.a]`, `f[H.b]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.columns.polynomials import orthogonal_values
from polars_glmm.errors import FormulaError, enumerate_names, suggest
from polars_glmm.typing import Mat


class Coding(NamedTuple):
    """matrix (levels, columns), and what stands between the brackets of each column's name."""

    matrix: Mat
    fields: tuple[str, ...]


def full(labels: Sequence[str]) -> Coding:
    """One indicator for every level."""
    return Coding(np.eye(len(labels)), tuple(labels))


def reduced(contrast: str, labels: Sequence[str], options: dict[str, Any]) -> Coding:
    """The coding that spans the levels together with an intercept. Raises FormulaError for options that do not fit."""
    return _CODINGS[contrast](tuple(labels), options)


def _treatment(labels: tuple[str, ...], options: dict[str, Any]) -> Coding:
    base = _base(labels, options, default=0)
    kept = [k for k in range(len(labels)) if k != base]
    return Coding(np.eye(len(labels))[:, kept], tuple(f"T.{labels[k]}" for k in kept))


def _sas(labels: tuple[str, ...], options: dict[str, Any]) -> Coding:
    base = _base(labels, options, default=len(labels) - 1)
    return _treatment(labels, {"base": labels[base]})


def _base(labels: tuple[str, ...], options: dict[str, Any], default: int) -> int:
    if options.get("base") is None:
        return default
    base = str(options["base"])
    if base not in labels:
        msg = f"The base level {base!r} of a contrast is not among the levels {enumerate_names(labels)}."
        raise FormulaError(msg + suggest(base, labels, listed=True))
    return labels.index(base)


def _sum(labels: tuple[str, ...], options: dict[str, Any]) -> Coding:  # noqa: ARG001
    n = len(labels)
    return Coding(np.vstack([np.eye(n - 1), -np.ones((1, n - 1))]), tuple(f"S.{label}" for label in labels[:-1]))


def _helmert(labels: tuple[str, ...], options: dict[str, Any]) -> Coding:
    n = len(labels)
    matrix = np.zeros((n, n - 1))
    for k in range(n - 1):
        matrix[: k + 1, k], matrix[k + 1, k] = -1.0, k + 1.0
    named = labels[1:]
    if not options.get("reverse", True):  # each level against those after it
        matrix, named = matrix[::-1, ::-1].copy(), labels[:-1]
    if options.get("scale", False):
        matrix /= (matrix != 0).sum(axis=0)
    return Coding(matrix, tuple(f"H.{label}" for label in named))


def _diff(labels: tuple[str, ...], options: dict[str, Any]) -> Coding:
    n = len(labels)
    steps = np.arange(1, n)
    matrix = steps / n - (np.arange(n)[:, None] < steps)
    if options.get("backward", True):
        return Coding(matrix, tuple(f"D.{label}" for label in labels[1:]))
    return Coding(-matrix, tuple(f"D.{label}" for label in labels[:-1]))


def _poly(labels: tuple[str, ...], options: dict[str, Any]) -> Coding:
    n = len(labels)
    scores = np.asarray(options.get("scores") or range(n), dtype=np.float64)
    if len(scores) != n or len(np.unique(scores)) != n:
        msg = f"contr.poly(scores=…) needs {n} different numbers, one for every level."
        raise FormulaError(msg)
    names = {1: ".L", 2: ".Q", 3: ".C"}
    return Coding(orthogonal_values(scores, n - 1), tuple(names.get(k, f"^{k}") for k in range(1, n)))


_CODINGS: dict[str, Callable[[tuple[str, ...], dict[str, Any]], Coding]] = {
    "contr.treatment": _treatment,
    "contr.SAS": _sas,
    "contr.sum": _sum,
    "contr.helmert": _helmert,
    "contr.diff": _diff,
    "contr.poly": _poly,
}
