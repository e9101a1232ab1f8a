"""Levels of a grouping factor that know each other, as `known=` says it: read before any data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from polars_glmm.errors import ModelError, enumerate_names, suggest

from .members import refuse_beside_members
from .method import AGQ, Method
from .terms import RandomTerm

KnownKind: TypeAlias = Literal["covariance", "precision"]


@dataclass(frozen=True, slots=True, eq=False)
class KnownLevels:
    """How the levels of a grouping factor know each other: the covariance matrix A of b = σ·N(0, A), or its inverse.

    frame   columns level, other_level, value, one row for a pair of levels: one triangle is enough, pairs that are
            absent are 0, a level without a row of its own has 1 on the diagonal. Levels without rows in the data, such
            as ancestors, are levels of the model
    kind    "covariance" (A: a relationship matrix, a kinship, a phylogeny) or "precision" (A⁻¹)
    """

    frame: Any
    kind: KnownKind = "covariance"

    def __post_init__(self) -> None:
        if self.kind not in get_args(KnownKind):
            near = suggest(str(self.kind), get_args(KnownKind))
            msg = f"KnownLevels(kind={self.kind!r}): use 'covariance' or 'precision'.{near}"
            raise ModelError(msg)


Relations: TypeAlias = tuple[tuple[str, KnownLevels], ...]
"""(name of a grouping factor, how its levels know each other)."""


def read_relations(known: object) -> Relations:
    """known= as entries. Raises ModelError for anything but a mapping from names to frames or KnownLevels."""
    if known is None:
        return ()
    if not isinstance(known, Mapping):
        msg = f'known= is a mapping from a grouping factor to a frame, as in known={{"animal": A}}, not {_kind(known)}.'
        raise ModelError(msg)
    for name in known:
        if not isinstance(name, str):
            msg = f"known={{{name!r}: …}}: name a grouping factor by a string."
            raise ModelError(msg)
    return tuple((name, one if isinstance(one, KnownLevels) else KnownLevels(one)) for name, one in known.items())


def refuse_levels(relations: Relations, random: Sequence[RandomTerm], method: Method) -> None:
    """Raise ModelError for what cannot be of levels that know each other, or of rows in several of them."""
    refuse_beside_members(random, method, relations)
    refuse_unrelated(relations, random, method)


def refuse_unrelated(relations: Relations, random: Sequence[RandomTerm], method: Method) -> None:
    """Raise ModelError where known= names no grouping factor of one column, or the method needs independent levels."""
    groups = {term.group: term.keys for term in random}
    for name, _ in relations:
        if name not in groups:
            names = f"the model has {enumerate_names(list(groups))}" if groups else "the model has none"
            msg = f"known={{{name!r}: …}} names no grouping factor: {names}.{suggest(name, groups)}"
            raise ModelError(msg)
        if len(groups[name]) > 1:
            msg = (
                f"known={{{name!r}: …}}: levels that know each other are those of one column. Make a column of the "
                "combination, and group by that."
            )
            raise ModelError(msg)
    if relations and isinstance(method, AGQ):
        msg = (
            f"known= couples the levels of {relations[0][0]!r}, so that no integral is of one level alone: quadrature "
            "cannot be had. Use method='laplace'."
        )
        raise ModelError(msg)


def _kind(value: object) -> str:
    return type(value).__name__
