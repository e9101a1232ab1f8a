"""Contrasts of means by name: their weights and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from polars_glmm.columns.polynomials import orthogonal_values
from polars_glmm.errors import ModelError, brief, enumerate_names, suggest
from polars_glmm.typing import Mat, Vec

ContrastLike: TypeAlias = str | Mapping[str, Any] | None
_DEGREES = ("linear", "quadratic", "cubic", "quartic")
_HIGHEST = 6
_WHOLE = 1e-9


class Contrasts(NamedTuple):
    """weights (c, m) over m means and a name for each; of_pairs: these are all pairs of the m means."""

    names: list[str]
    weights: Mat
    of_pairs: bool = False


def contrasts_of(
    asked: ContrastLike, labels: Sequence[Sequence[str]], variables: Sequence[str], sign: str
) -> Contrasts:
    """The contrasts of all combinations of the levels of some variables, the last varying fastest.

    asked    "pairwise" (later − earlier level), "reference" (− the first), "sequential" (− the one before),
             "polynomial", "mean" (− the mean of all); {variable: kind of each} for contrasts of contrasts; or
             {name: weights}, weights by level or one for each mean
    sign     " - ", or " / " where differences are shown as ratios
    Raises ModelError for what is none of these.
    """
    names = [""]
    for levels in labels:
        names = [f"{before} {level}".strip() for before in names for level in levels]
    if isinstance(asked, str):
        return _named(asked, names, sign)
    if not isinstance(asked, Mapping) or not asked:
        msg = f"contrast= takes one of {enumerate_names(list(KINDS), 'or', limit=6)}, or a mapping, not {brief(asked)}."
        raise ModelError(msg)
    if all(isinstance(kind, str) for kind in asked.values()):
        return _crossed(asked, labels, variables, sign)
    rows = [_weights(str(name), given, names) for name, given in asked.items()]
    return Contrasts([str(name) for name in asked], np.array(rows))


def _named(kind: str, names: Sequence[str], sign: str) -> Contrasts:
    if kind not in KINDS:
        near = suggest(kind, list(KINDS), listed=True)
        msg = f"contrast={kind!r} is not known: use {enumerate_names(list(KINDS), 'or', limit=6)}, or a mapping.{near}"
        raise ModelError(msg)
    if len(names) < 2:
        only = f" ({names[0]})" if names and names[0] else ""
        msg = f"contrast={kind!r} compares means, and there is one only{only}: ask for more levels, or values with at=."
        raise ModelError(msg)
    return KINDS[kind](names, sign)


def _crossed(
    asked: Mapping[str, str], labels: Sequence[Sequence[str]], variables: Sequence[str], sign: str
) -> Contrasts:
    """Contrasts of contrasts: the Kronecker product of those of each variable."""
    if set(asked) != set(variables):
        msg = (
            f"contrast={{…}} names {enumerate_names(list(asked))}; a kind for each of the variables "
            f"{enumerate_names(list(variables))} is needed. Put the others into by=."
        )
        raise ModelError(msg)
    parts = [_named(asked[name], list(levels), sign) for name, levels in zip(variables, labels, strict=True)]
    weights: Mat = parts[0].weights
    names = parts[0].names
    for part in parts[1:]:
        weights = np.asarray(np.kron(weights, part.weights), dtype=np.float64)
        names = [f"({one}) × ({other})" for one in names for other in part.names]
    return Contrasts(list(names), weights)


def _weights(name: str, given: Any, names: Sequence[str]) -> Vec:
    """Weights by level, or in the order of the means."""
    if isinstance(given, Mapping):
        given = {str(key) if not isinstance(key, tuple) else " ".join(map(str, key)): one for key, one in given.items()}
        unknown = [key for key in given if key not in names]
        if unknown:
            near = suggest(unknown[0], names)
            msg = f"contrast {name!r} names {unknown[0]!r}, which is none of {enumerate_names(list(names))}.{near}"
            raise ModelError(msg)
        given = [given.get(one, 0.0) for one in names]
    try:
        weights = np.array([float(one) for one in given])
    except (TypeError, ValueError):
        weights = np.empty(0)
    if len(weights) != len(names) or not np.isfinite(weights).all() or not weights.any():
        msg = f"contrast {name!r} needs a weight for each of the {len(names)} means, {enumerate_names(list(names))}."
        raise ModelError(msg)
    return weights


def _pairwise(names: Sequence[str], sign: str) -> Contrasts:
    later, earlier = np.tril_indices(len(names), -1)
    return Contrasts(_differences(names, later, earlier, sign), _minus(len(names), later, earlier), of_pairs=True)


def _reference(names: Sequence[str], sign: str) -> Contrasts:
    later = np.arange(1, len(names))
    return Contrasts(_differences(names, later, 0 * later, sign), _minus(len(names), later, 0 * later))


def _sequential(names: Sequence[str], sign: str) -> Contrasts:
    later = np.arange(1, len(names))
    return Contrasts(_differences(names, later, later - 1, sign), _minus(len(names), later, later - 1))


def _mean(names: Sequence[str], sign: str) -> Contrasts:
    m = len(names)
    return Contrasts([f"{name}{sign}mean" for name in names], np.eye(m) - 1.0 / m)


def _polynomial(names: Sequence[str], sign: str) -> Contrasts:  # noqa: ARG001
    """Orthogonal polynomials over equally spaced levels, in whole numbers where they are small: −3, −1, 1, 3."""
    m = len(names)
    values = orthogonal_values(np.arange(float(m)), min(m - 1, _HIGHEST)).T
    rows = np.array([_whole(row) for row in values])
    return Contrasts([_DEGREES[k] if k < len(_DEGREES) else f"degree {k + 1}" for k in range(len(rows))], rows)


def _whole(row: Vec) -> Vec:
    row = np.where(np.abs(row) > _WHOLE, row, 0.0)
    row = row / np.abs(row[row != 0.0]).min()
    for times in range(1, 101):
        near = np.round(row * times)
        if (np.abs(row * times - near) <= _WHOLE * times * np.abs(row).max()).all():
            return np.asarray(near)
    return row


def _differences(names: Sequence[str], plus: Any, minus: Any, sign: str) -> list[str]:
    return [f"{names[i]}{sign}{names[j]}" for i, j in zip(plus, minus, strict=True)]


def _minus(m: int, plus: Any, minus: Any) -> Mat:
    weights = np.zeros((len(plus), m))
    weights[np.arange(len(plus)), plus] = 1.0
    weights[np.arange(len(plus)), minus] = -1.0
    return weights


KINDS: dict[str, Callable[[Sequence[str], str], Contrasts]] = {
    "pairwise": _pairwise,
    "reference": _reference,
    "sequential": _sequential,
    "polynomial": _polynomial,
    "mean": _mean,
}
