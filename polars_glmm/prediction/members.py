"""Rows in several levels inside a plan: each slot joined with the modes of its level, and their weighted sum."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.named import as_found, column
from polars_glmm.errors import ModelError
from polars_glmm.linalg.membership import Membership
from polars_glmm.prediction.between import Share
from polars_glmm.prediction.guards import Check
from polars_glmm.prediction.keys import match_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polars_glmm.prediction.effects import JoinedFactor
    from polars_glmm.spec.members import Members
    from polars_glmm.typing import Cube, IntVec, Mat, Vec


class Slot(NamedTuple):
    """The internal columns of one slot: its level (null where it is not used), weight, code and modes."""

    level: str
    weight: str
    code: str
    modes: tuple[str, ...]


def slots_of(factor: JoinedFactor) -> list[Slot]:
    """The slots of a factor of which rows have several levels."""
    members = _members(factor)
    tags = [f"{factor.tag}slot_{s}_" for s in range(len(members.keys))]
    r = len(factor.nodes)
    return [Slot(f"{t}level", f"{t}weight", f"{t}code", tuple(f"{t}mode_{j}" for j in range(r))) for t in tags]


def attach_slots(
    factor: JoinedFactor, frame: pl.LazyFrame, schema: pl.Schema, values: Sequence[pl.Series]
) -> pl.LazyFrame:
    """The frame with slots, code and modes: modes of the row, Σ_s w_s b_s, an unseen level counting zero.

    The code is 0, and null where a slot in use has an unseen level. A slot without a weight is not used.
    """
    members, slots = _members(factor), slots_of(factor)
    levels = factor.recipe.levels
    (name, dtype), *_ = levels.schema.items()
    for key, weight, slot in zip(members.keys, slot_weights(members, schema), slots, strict=True):
        pair = match_key(key, schema[key], dtype)
        frame = frame.with_columns(weight.alias(slot.weight))
        frame = frame.with_columns(pl.when(column(slot.weight) != 0.0).then(pair.found).alias(slot.level))
        table = levels.rename({name: key}).lazy().select(pair.learned.alias(slot.level)).with_columns(
            one.alias(own) for one, own in zip(values, (slot.code, *slot.modes), strict=True)
        )  # fmt: skip
        frame = frame.join(table, on=slot.level, how="left", maintain_order="left")
    unseen = pl.any_horizontal(map(slot_unseen, slots))
    rows = [
        pl.sum_horizontal(column(slot.weight) * column(slot.modes[j]).fill_null(0.0) for slot in slots)
        for j in range(len(factor.nodes))
    ]
    return frame.with_columns(
        pl.when(~unseen).then(pl.lit(0, pl.Int32)).alias(factor.code),
        *(one.alias(factor.mode(j)) for j, one in enumerate(rows)),
    )


def slot_unseen(slot: Slot) -> pl.Expr:
    """Whether a slot that is used holds a level that the fit does not know."""
    return (column(slot.weight) != 0.0) & column(slot.code).is_null()


def slot_checks(factor: JoinedFactor, missing: pl.Expr, known: str, remedy: str) -> list[Check]:
    """The guards against unseen levels, one for each slot."""
    both = zip(_members(factor).keys, slots_of(factor), strict=True)
    return [Check(~missing & slot_unseen(slot), (key,), known, remedy) for key, slot in both]


def slot_fields(factor: JoinedFactor) -> list[str]:
    """The internal columns that draws of new effects need."""
    return [name for slot in slots_of(factor) for name in (slot.level, slot.weight, slot.code, *slot.modes)]


def slots_size(factor: JoinedFactor) -> str:
    """Internal column: √Var(Σ_s w_s b_s) of new levels of variance 1."""
    return f"{factor.tag}size"


def size_of_slots(factor: JoinedFactor, schema: pl.Schema) -> pl.Expr:
    """√Σ_st w_s w_t over slots s, t that hold the same level."""
    members = _members(factor)
    weights = slot_weights(members, schema)
    terms = [w * w for w in weights]
    for s, t in combinations(range(len(weights)), 2):
        first, other = (as_found(members.keys[k]) for k in (s, t))
        if schema[members.keys[s]] != schema[members.keys[t]]:
            first, other = first.cast(pl.String), other.cast(pl.String)
        terms.append(2.0 * weights[s] * weights[t] * (first == other).fill_null(value=False).cast(pl.Float64))
    return pl.sum_horizontal(terms).clip(0.0).sqrt().alias(slots_size(factor))


class SlotRows(NamedTuple):
    """What rows (n,) have of the levels of a frame; of each of these its modes (r, L), NaN where it is unseen, and its
    place among the levels of the fit (L,), −1 there.
    """

    members: Membership
    modes: Mat
    known: IntVec

    def draws(self, b: Mat, *, new: bool) -> Mat:
        """Effects of the rows (r, n) from those of levels (r, L), known levels keeping their modes unless `new`."""
        return self.members.spread(b if new else np.where(np.isnan(self.modes), b, self.modes))


def slot_rows(factor: JoinedFactor, rows: pl.DataFrame) -> SlotRows:
    """The levels of all slots together, sorted, so that a draw does not hang on the order of rows."""
    slots = slots_of(factor)
    parts = [
        rows.select(
            column(slot.level).alias("level"),
            column(slot.code).alias("known"),
            *(column(m).alias(f"m{j}") for j, m in enumerate(slot.modes)),
        )
        for slot in slots
    ]
    table = pl.concat(parts).drop_nulls("level").unique("level").sort("level")
    codes: list[IntVec] = []
    for part in parts:
        placed = part.select("level").join(table.select("level").with_row_index("code"), on="level", how="left",
                                           maintain_order="left")  # fmt: skip
        codes.append(placed["code"].fill_null(0).to_numpy().astype(np.intp))
    weights: list[Vec] = [rows[slot.weight].to_numpy() for slot in slots]
    members = Membership.of_slots(np.array(codes), np.array(weights), table.height)
    modes = np.array([table[f"m{j}"].fill_null(np.nan).to_numpy() for j in range(len(factor.nodes))])
    known = table["known"].fill_null(-1).to_numpy().astype(np.intp)
    return SlotRows(members, modes.reshape(len(factor.nodes), table.height), known)


def slot_codes(factor: JoinedFactor, i: int) -> list[pl.Expr]:
    """Fields of a struct: code and weight of each slot, and whether two slots hold the same level."""
    slots, fields = slots_of(factor), []
    for s, slot in enumerate(slots):
        fields += [column(slot.code).fill_null(-1).alias(f"code_{i}_{s}"), column(slot.weight).alias(f"weight_{i}_{s}")]
        fields += [
            column(slot.level).eq_missing(column(slots[t].level)).alias(f"same_{i}_{t}_{s}") for t in range(s)
        ]
    return fields


class SlotLevels(NamedTuple):
    """Of m slots of n rows codes (−1: unseen) and weights (m, n); which slots t < s hold the same level, (n,)."""

    codes: IntVec
    weights: Mat
    same: dict[tuple[int, int], Vec]


@dataclass(frozen=True, slots=True, eq=False)
class SlotSpread:
    """Cov(b | y) between all levels (r, G, r, G), ∂b̂/∂β (r, p, G), and Σ (r, r) of levels that are unseen."""

    covariance: Cube
    slope: Cube
    unseen: Mat
    n_slots: int

    def _levels(self, rows: pl.DataFrame, i: int) -> SlotLevels:
        """What the rows have of which levels."""
        every = range(self.n_slots)
        codes = np.array([rows[f"code_{i}_{s}"].to_numpy() for s in every], dtype=np.intp)
        weights = np.array([rows[f"weight_{i}_{s}"].to_numpy() for s in every], dtype=np.float64)
        same = {(t, s): rows[f"same_{i}_{t}_{s}"].to_numpy().astype(np.float64) for s in every for t in range(s)}
        return SlotLevels(codes, weights, same)

    def share(self, z: Sequence[Vec], rows: pl.DataFrame, i: int) -> Share:
        """What rows have of the levels of the i-th factor."""
        levels = self._levels(rows, i)
        return Share(z, levels.codes, levels.weights)

    def add(self, z: Sequence[Vec], rows: pl.DataFrame, place: tuple[int, IntVec], a: Mat) -> Vec:
        """z'Var(Σ_s w_s b_s | y)z (n,); Σ_s w_s s_s'z is added to `a` (p, n), scratch of the caller.

        place   number of the factor, and the fit of each row, of which there is one
        """
        codes, weights, same = self._levels(rows, place[0])
        total = np.zeros(codes.shape[1])
        for s in range(self.n_slots):
            known = codes[s] >= 0
            own = np.where(known, weights[s], 0.0)
            for j, zj in enumerate(z):
                for i, slope in enumerate(self.slope[j]):
                    a[i] += zj * own * slope[codes[s]]
            for t in range(s + 1):
                both = known & (codes[t] >= 0)
                neither = ~known & (codes[t] < 0)
                alike = np.where(neither, 1.0 if s == t else same[t, s], 0.0)
                w = (1.0 if s == t else 2.0) * weights[s] * weights[t]
                for j, zj in enumerate(z):
                    for k, zk in enumerate(z):
                        between = np.where(both, self.covariance[j, codes[s], k, codes[t]], alike * self.unseen[j, k])
                        total += w * zj * zk * between
        return total


def slot_spread(factor: JoinedFactor, vcov: Cube, own: list[int], unseen: Cube) -> SlotSpread:
    """What is not known of the effects in some columns. Raises ModelError where levels are too many for it."""
    covariance, slope, p = factor.level_covariance, factor.mode_slope, vcov.shape[1]
    if covariance is None or (slope is None and np.isfinite(vcov).any()):
        msg = (
            "Standard errors of predictions given the random effects are not kept for as many levels as "
            f'{factor.recipe.name!r} has ({factor.modes.shape[1]}). random="none" gives those of the fixed part.'
        )
        raise ModelError(msg)
    slope = np.zeros((len(factor.modes), p, factor.modes.shape[1])) if slope is None else slope
    return SlotSpread(
        covariance[own][:, :, own], slope[own], unseen[..., 0][np.ix_(own, own)], len(_members(factor).keys)
    )


def refuse_slots(factors: Sequence[JoinedFactor], what: str, instead: str) -> None:
    """Raise ModelError for what looks at one level of each factor in a row."""
    for factor in factors:
        if factor.recipe.members is not None:
            msg = f"{what}, and rows are in several levels of {factor.recipe.name!r}. {instead}"
            raise ModelError(msg.rstrip())


def _members(factor: JoinedFactor) -> Members:
    members = factor.recipe.members
    assert members is not None  # asked of factors whose rows have several levels
    return members


def slot_weights(members: Members, schema: pl.Schema) -> list[pl.Expr]:
    """The weight of each slot, 0 where it is missing: 1/m where none are given."""
    m = len(members.keys)
    return [_weight(one, schema) for one in members.weights] or [pl.lit(1.0 / m)] * m


def _weight(name: str, schema: pl.Schema) -> pl.Expr:
    value = as_found(name).cast(pl.Float64)
    return value.fill_nan(0.0).fill_null(0.0) if schema[name].is_float() else value.fill_null(0.0)
