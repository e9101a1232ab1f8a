"""Where a formula of log phi runs to infinity: the limit of a family, as Poisson's, in all rows, or in some.

What follows is of a negative binomial; a family whose limit lies at phi = 0 has its predictor `turned` round.

With log phi = x'γ the likelihood has a limit along γ + t·d, t → ∞, for every d with x'd ≥ 0 in all rows: rows with
x'd > 0 become Poisson rows, rows with x'd = 0 keep their size. Those d are the recession cone of the model; the rows
with x'd = 0 are a face of the hull of all x, and γ counts modulo d there. A face of lower dimension may hold as few as
one row: the limit of `phi ~ x` in which only the row of the smallest x has a size of its own is a model like any other.
Where x'd < 0 the size goes to zero and a count of zero to probability one: such rows may only hold zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from polars_glmm.errors import enumerate_names
from polars_glmm.families.base import Family, Rows, asked_for, spoken, towards_limit
from polars_glmm.likelihood.rows import sums as rowsums
from polars_glmm.likelihood.rows.block_parts import BlockPart
from polars_glmm.likelihood.rows.holder import OverBlocks, added, furthest, stacked
from polars_glmm.likelihood.rows.sums import Answering
from polars_glmm.notes import Note
from polars_glmm.optimize.search import Evaluation, Found, Objective
from polars_glmm.typing import BoolVec, Mat, Vec

ENOUGH = 1e8
"""Sizes of so many times Σy² change the log-likelihood by 1e-8: ℓ_P − ℓ ≈ Σ((y − μ)² − y)/2φ."""
_IN_SPAN = 1e-7
"""Length that the columns of a row, of unit mean square, have outside a span they belong to."""
_MARGIN = 1e-6
"""x'd above which a row is off a face, for d in the unit box."""
_MOST_ROWS = 100_000
_MODERATE = 3.0
"""log of a size from which the rows of a face start where theirs has run away."""


LOSS = 1e-6
"""Log-likelihood by which a limit may fall short of what was found."""
Near: TypeAlias = Callable[[Vec, Mat], Found]
"""From a vector to the optimum with γ, s of its entries, moving along a span (s, r)."""


class PhiRows(Protocol):
    """Some rows: y, their linear predictors in the computing basis (that of log phi is the second), and frequencies."""

    @property
    def data(self) -> Rows: ...
    @property
    def parts(self) -> tuple[BlockPart, ...]: ...
    @property
    def frequency(self) -> Vec | None: ...


class Limit(NamedTuple):
    """Directions (s, k) of γ, in the computing basis, along which phi runs to infinity or zero; rows where it does."""

    directions: Mat
    n_poisson: int
    n_zero: int
    n_rows: int


class Face(NamedTuple):
    """Rows that keep their size, by a basis (s, r) of their columns, and d (s,) that leads all others off."""

    span: Mat
    direction: Vec


def log_size_of_limit(family: Family, rows: Answering) -> float:
    """|log phi| beyond which a family is its limit to 1e-8 in ℓ; infinite for families without one."""
    if family.limit is None:
        return np.inf
    return float(np.log(ENOUGH * max(rowsums.remoteness(rows, family), 1.0)))


class _TurnedBlock(NamedTuple):
    """Rows as `PhiRows`, the predictor of log phi with its sign changed."""

    data: Rows
    parts: tuple[BlockPart, ...]
    frequency: Vec | None


@dataclass(frozen=True, slots=True, eq=False)
class TurnedRows:
    """Who answers for rows whose second predictor grows towards the limit of a family."""

    rows: Answering
    family: Family

    def ask(self, question: Any) -> Any:
        """The answer of all rows to a function of their blocks."""
        return self.rows.ask(replace(question, function=_of_turned, arguments=(self.family, question)))


def _of_turned(rows: Iterable[PhiRows], family: Family, question: OverBlocks[Any]) -> Any:
    return question.function(_turned(rows, family), *question.arguments)


def _turned(rows: Iterable[PhiRows], family: Family) -> Iterator[PhiRows]:
    """Rows whose second predictor grows towards the limit of the family: log phi, or −log phi where phi vanishes."""
    for block in rows:
        if towards_limit(family) > 0.0:
            yield block
            continue
        mean, phi, *others = block.parts
        offset = None if phi.offset is None else -phi.offset
        back = BlockPart(None if phi.columns is None else -phi.columns, phi.own, offset)
        yield _TurnedBlock(block.data, (mean, back, *others), block.frequency)


def suspicious(rows: Answering, gamma: Vec, ceiling: float) -> bool:
    """Whether the size of some row has run half of the way on which it matters."""
    return rows.ask(OverBlocks(_suspicious, (gamma, ceiling), any))


def _suspicious(rows: Iterable[PhiRows], gamma: Vec, ceiling: float) -> bool:
    return any(bool((_past(block, gamma, 0.5 * ceiling) != 0).any()) for block in rows)


def faces(rows: Answering, gamma: Vec) -> Iterator[Face]:
    """Faces on the side from which γ points away, the empty one first: all other rows go up, or zeros below go down."""
    x, zero = _told_apart(rows.ask(OverBlocks(_distinct, (), stacked)))
    yield from _chain(x, np.zeros(len(x), dtype=bool), gamma)
    down = zero & (x @ gamma < 0.0)
    if down.any():
        yield from _chain(x, zero, gamma)


def _chain(x: Mat, may_fall: BoolVec, gamma: Vec) -> Iterator[Face]:
    """A face, and the next that holds the row nearest to it as well, rows (m, s) that may fall being far below too."""
    size, s = x @ gamma, x.shape[1]
    size = np.where(may_fall, np.abs(size), size)
    span = np.empty((s, 0))
    while span.shape[1] < s:
        off = np.linalg.norm(x - (x @ span) @ span.T, axis=1) > _IN_SPAN
        if not off.any():
            return
        ahead = x[off] @ (gamma - span @ (span.T @ gamma))
        side = np.where(may_fall[off] & (ahead < 0.0), -1.0, 1.0)
        direction = _away(side[:, None] * x[off], span)
        if direction is not None:
            yield Face(span, direction)
        nearest = x[off][np.argmin(size[off])]
        span = np.linalg.qr(np.column_stack([span, nearest]))[0]


def beyond(rows: Answering, face: Face, gamma: Vec, ceiling: float) -> Vec:
    """γ + t·d with the smallest t that takes every row off the face past the ceiling, or past its negative."""
    return gamma + rows.ask(OverBlocks(_furthest_off, (face, gamma, ceiling), furthest)) * face.direction


def _furthest_off(rows: Iterable[PhiRows], face: Face, gamma: Vec, ceiling: float) -> float:
    t = 0.0
    for block in rows:
        x = _columns(block)
        ahead = face.direction @ x
        off = np.linalg.norm(x - face.span @ (face.span.T @ x), axis=0) > _IN_SPAN
        if off.any():
            side = np.sign(ahead[off])
            t = max(t, float(((ceiling - side * _log_phi(block, gamma)[off]) / np.abs(ahead[off])).max()))
    return t


def start_on(face: Face, rows: Answering, gamma: Vec) -> Vec:
    """γ whose rows on the face are of moderate size: as they are, or smaller where they have run away."""
    if not face.span.shape[1]:
        return np.zeros_like(gamma)
    x = rows.ask(OverBlocks(_on_face, (face,), stacked))
    wanted = np.clip(x @ gamma, -_MODERATE, _MODERATE)
    inside = np.linalg.lstsq(x @ face.span, wanted, rcond=None)[0]
    return np.asarray(face.span @ inside, dtype=np.float64)


def _on_face(rows: Iterable[PhiRows], face: Face) -> Mat:
    on_face = []
    for block in rows:
        x = _columns(block)
        on_face.append(x[:, np.linalg.norm(x - face.span @ (face.span.T @ x), axis=0) <= _IN_SPAN].T)
    return stacked(on_face)


def best_limit(
    rows: Answering, found: Found, near: Near, own: slice, level: Vec | None, ceiling: float
) -> Found:
    """The optimum in the limit of the fewest sizes that is as good as any and as what was found, or the latter.

    own     the place of γ in a vector
    level   γ (s,) of a constant log phi of one, or None where there is none
    """
    if level is not None:
        found = min(found, _from_constant(found, near, own, level), key=_value)
    for _ in range(own.stop - own.start):  # a limit may have one of its own
        before, found = found, _furthest(rows, found, near, own, ceiling)
        if _value(found) > _value(before) - LOSS:
            return found
    return found


def constant_limit(
    rows: Answering, found: Found, near: Near, own: slice, level: Vec, ceiling: float
) -> Found:
    """The limit in which no row has a size of its own, if it is as good as what was found, or the latter.

    level   γ (s,) of a constant log phi of one
    """
    x, s = found.x.copy(), len(level)
    x[own] = beyond(rows, Face(np.empty((s, 0)), level), np.zeros(s), ceiling + 1.0)
    there = near(x, np.empty((s, 0)))
    return there if _value(there) <= _value(found) + LOSS else found


def _furthest(rows: Answering, found: Found, near: Near, own: slice, ceiling: float) -> Found:
    """The best of the limits ahead of an optimum, the one of the fewest sizes if several are; or the optimum."""
    limits = []
    for face in faces(rows, found.x[own]):
        x = found.x.copy()
        x[own] = beyond(rows, face, start_on(face, rows, x[own]), 2.0 * ceiling)
        there = near(x, face.span)
        x = there.x.copy()
        x[own] = beyond(rows, face, face.span @ (face.span.T @ x[own]), ceiling + 1.0)
        limits.append(there._replace(x=x))
    best = min(map(_value, [found, *limits]))
    good = [limit for limit in limits if _value(limit) <= best + LOSS]
    return good[0] if good else found


def _from_constant(found: Found, near: Near, own: slice, level: Vec) -> Found:
    """The optimum near that of the model with a constant phi."""
    x = found.x.copy()
    x[own] = _MODERATE * level
    return near(near(x, level[:, None]).x, np.eye(len(level)))


def _value(found: Found) -> float:
    value = found.evaluation.value
    return value if np.isfinite(value) else np.inf


def limit_at(rows: Answering, gamma: Vec, ceiling: float) -> Limit | None:
    """The limit that γ stands for, or None where no direction takes only rows past the ceiling further."""
    gram, n = rows.ask(OverBlocks(_short_of, (gamma, ceiling), added))
    if not n[1:].any():
        return None
    values, vectors = np.linalg.eigh(gram)
    flat = values <= _IN_SPAN**2 * max(float(values[-1]), 1.0)
    n_rows, n_poisson, n_zero = (round(count) for count in n)
    return Limit(vectors[:, flat], n_poisson, n_zero, n_rows) if flat.any() else None


def _short_of(rows: Iterable[PhiRows], gamma: Vec, ceiling: float) -> tuple[Mat, Vec]:
    """Cross-products (s, s) of the columns of rows short of the ceiling; rows in all, past it, past its negative."""
    gram, n = np.zeros((len(gamma),) * 2), np.zeros(3)
    for block in rows:
        x, past = _columns(block), _past(block, gamma, ceiling)
        kept = x[:, past == 0]
        gram += kept @ kept.T
        weight = np.ones(len(past)) if block.frequency is None else block.frequency
        n += [float(weight.sum()), float(weight[past > 0].sum()), float(weight[past < 0].sum())]
    return gram, n


def along(objective: Objective, origin: Vec, span: Mat) -> Objective:
    """The objective over z where x = origin + span·z."""

    def call(z: Vec, warm: object, *, curvature: bool) -> Evaluation:
        e = objective(origin + span @ z, warm, curvature=curvature)
        b = None if e.curvature is None else span.T @ e.curvature @ span
        return Evaluation(e.value, span.T @ e.gradient, b, e.state)

    return call


def whole(found: Found, origin: Vec, span: Mat) -> Found:
    """What was found along a span, in the coordinates of the whole; no curvature is known across it."""
    return found._replace(x=origin + span @ found.x, curvature=span @ found.curvature @ span.T)


def _columns(block: PhiRows) -> Mat:
    x = block.parts[1].columns
    assert x is not None  # there is a formula
    return x


def _log_phi(block: PhiRows, gamma: Vec) -> Vec:
    out: Vec = gamma @ _columns(block)
    offset = block.parts[1].offset
    return out if offset is None else out + offset


def _past(block: PhiRows, gamma: Vec, ceiling: float) -> Vec:
    """Per row 1 where its log phi is past the ceiling, −1 where it is past its negative and y = 0, else 0."""
    zeta = _log_phi(block, gamma)
    return np.where(zeta > ceiling, 1, np.where((zeta < -ceiling) & (block.data.y == 0.0), -1, 0))


def _distinct(rows: Iterable[PhiRows]) -> Mat:
    """Distinct columns of log phi, a row each, with a mark of counts above zero last: (m, s + 1)."""
    kept, waiting = np.empty((0, 0)), list[Mat]()
    for block in rows:
        waiting.append(np.column_stack([_columns(block).T, block.data.y > 0.0]))
        kept = kept.reshape(-1, waiting[-1].shape[1])
        if sum(map(len, waiting)) > _MOST_ROWS:
            kept, waiting = stacked([kept, *waiting]), []
    return stacked([kept, *waiting])


def _told_apart(kept: Mat) -> tuple[Mat, BoolVec]:
    """Distinct columns of log phi (m, s), and whether all their counts are zero."""
    last = np.append((np.diff(kept[:, :-1], axis=0) != 0).any(1), True)  # zeros stand before their like that counts
    return kept[last, :-1], kept[last, -1] == 0.0


def _away(x: Mat, span: Mat) -> Vec | None:
    """d in the unit box, orthogonal to a span (s, r), with the largest least x'd, if that is above zero."""
    from scipy.optimize import linprog  # noqa: PLC0415  # 0.3 s of import for a rare question

    s = x.shape[1]
    program = linprog(
        np.append(np.zeros(s), -1.0),
        A_ub=np.column_stack([-x, np.ones(len(x))]),
        b_ub=np.zeros(len(x)),
        A_eq=np.column_stack([span.T, np.zeros(span.shape[1])]) if span.shape[1] else None,
        b_eq=np.zeros(span.shape[1]) if span.shape[1] else None,
        bounds=[(-1.0, 1.0)] * s + [(None, 1.0)],
        method="highs",
    )
    if program.status != 0 or program.x is None or program.x[-1] < _MARGIN:
        return None
    direction = program.x[:-1] - span @ (span.T @ program.x[:-1])
    return direction if bool((x @ direction > 0.5 * _MARGIN).all()) else None


def no_overdispersion_notes(
    family: Family, names: Sequence[str], lost: BoolVec, limit: Limit | None
) -> list[Note]:
    """A formula of log phi has no finite optimum: which coefficients run away, and how many rows become Poisson's."""
    if limit is None or family.limit is None:
        return []
    terms = enumerate_names([name for name, away in zip(names, lost, strict=True) if away])
    whole, finish = limit.n_poisson == limit.n_rows, []
    where = "all rows" if whole else f"{limit.n_poisson:,} of {limit.n_rows:,} rows"
    if limit.n_poisson:
        finish.append(f"phi = {family.limit_phi:g} ({spoken(family.limit)}) in {where}")
    if limit.n_zero:
        opposite = 0.0 if family.limit_phi > 1.0 else np.inf
        finish.append(f"phi = {opposite:g} in {limit.n_zero:,}, all with a count of zero")
    text = f"no overdispersion in {where}: " if limit.n_poisson else "no finite phi: "
    text += f"along {terms} of phi the likelihood rises to a limit, {' and '.join(finish)}."
    advice = "The values of these coefficients mean nothing; all else stands. Counts may even be underdispersed."
    return [Note("no_overdispersion", text, f"Fit family={asked_for(family.limit)!r}. {advice}" if whole else advice)]
