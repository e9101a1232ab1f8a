"""A family whose responses may be censored: rows that are seen keep its density, others have a probability."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, ClassVar

import numpy as np

from polars_glmm.families.base import BETWEEN, LEFT, RIGHT, SEEN, Censoring, Degrees, Density, Family, Predictors, Rows
from polars_glmm.families.location_scale import Side, Tailed
from polars_glmm.typing import BoolVec, IntVec, Vec

_SIDES: dict[float, Side] = {RIGHT: "above", LEFT: "below", BETWEEN: "between"}


class Censored(Tailed):
    """What changes in a family where responses are censored; mixed into the family itself by `censored`.

    entry   some rows are seen only because their response is above a value of their own
    """

    is_censored = True
    canonical = False
    sufficient = False
    knows_information = False
    entry: ClassVar[bool] = False

    @property
    def linear(self) -> bool:
        return False

    @property
    def log_concave(self) -> bool:
        """Given a late entry only where the tails of what is left have the shape of the whole, as those of hazards."""
        return super().log_concave and super().concave_tails and (not self.entry or self.memoryless)

    def density(self, rows: Rows, at: Predictors, order: int, degrees: Degrees | None = None) -> Density:
        known = rows.censoring
        if known is None:
            return super().density(rows, at, order, degrees)
        pieces = [(own, self._piece(status, *_taken(rows, at, own), order, degrees)) for status, own in _kinds(known)]
        shape = np.broadcast_shapes(rows.y.shape, *(np.shape(part) for part in at))
        found = pieces[0][1] if pieces[0][0] is None else _spread(pieces, shape)
        if known.entry is not None and (late := np.flatnonzero(known.entry > 0.0)).size:
            some, own_at = _taken(rows._replace(y=known.entry), at, late)
            before = _spread([(late, self.log_probability("above", some, own_at, order, degrees))], shape)
            found = _combined(lambda a, b: a - b, found, before)
        return found

    def _piece(
        self, status: float, rows: Rows, at: Predictors, order: int, degrees: Degrees | None
    ) -> Density:
        if status == SEEN:
            return super().density(rows._replace(censoring=None), at, order, degrees)
        return self.log_probability(_SIDES[status], rows, at, order, degrees)

    def constant(self, rows: Rows) -> Vec:
        """That of the rows that are seen."""
        own = super().constant(rows)  # type: ignore[safe-super]  # the family beside it has one
        return own if rows.censoring is None else np.where(rows.censoring.status == SEEN, own, 0.0)

    @property
    def separable(self) -> bool:
        return True

    def pull(self, rows: Rows) -> Vec:
        """Up where a row is censored on the right, down on the left; the other way round where eta is of a hazard."""
        if rows.censoring is None:
            return np.zeros(len(rows.y))
        status = rows.censoring.status
        pull: Vec = self.direction * ((status == RIGHT).astype(np.float64) - (status == LEFT))
        return pull

    def first_mean(self, rows: Rows) -> Vec:
        return super().first_mean(_middle(rows))  # type: ignore[safe-super]

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        return super().start_phi(_middle(rows), mu)

    def outside_support(self, rows: Rows) -> BoolVec:
        upper = None if rows.censoring is None else rows.censoring.upper
        outside = super().outside_support(rows)  # type: ignore[safe-super]
        if upper is None:
            return outside
        return outside | super().outside_support(rows._replace(y=upper))  # type: ignore[safe-super]

    def log_survival(self, rows: Rows, at: Predictors) -> Vec:
        """log P(Y > y), given that it is above its entry where rows have one."""
        found = self.log_probability("above", rows._replace(censoring=None), at, 0).f
        entry = None if rows.censoring is None else rows.censoring.entry
        if entry is None:
            return found
        late = entry > 0.0
        before = self.log_probability("above", rows._replace(y=np.where(late, entry, rows.y), censoring=None), at, 0).f
        return found - np.where(late, before, 0.0)

    def martingale(self, rows: Rows, at: Predictors) -> Vec:
        """Observed less expected events: 1 + log S of an event, log S of a row that is censored on the right.

        Between two times [S_l log S_l − S_u log S_u]/(S_l − S_u), S_l = 1 without a lower one (Farrington 2000,
        Biometrics 56, 473–482; Lagakos 1981).
        """
        known = rows.censoring
        log_s = self.log_survival(rows, at)
        if known is None:
            return 1.0 + log_s
        log_u = log_s if known.upper is None else self.log_survival(rows._replace(y=known.upper), at)
        low = np.where(known.status == LEFT, 0.0, log_s)
        high = np.where(known.status == LEFT, log_s, log_u)
        with np.errstate(all="ignore"):
            ratio = np.exp(high - low)
            between = (low - ratio * high) / (1.0 - ratio)
        known_ends = (known.status == LEFT) | (known.status == BETWEEN)
        return np.where(known_ends, between, np.where(known.status == SEEN, 1.0 + log_s, log_s))

    def best(self, rows: Rows, at: Predictors) -> Vec:
        """The log density, or log probability, of each row at the eta that makes it largest."""
        known = rows.censoring
        seen = super().density(rows._replace(censoring=None), (super().start(rows), *at[1:]), 0).f
        if known is None:
            return seen
        out = np.where(known.status == SEEN, seen, 0.0)
        own = np.flatnonzero(known.status == BETWEEN)
        if own.size:  # symmetric about the middle of the interval
            some, at_own = _taken(rows, at, own)
            out[own] = self.log_probability("between", some, (super().start(_middle(some)), *at_own[1:]), 0).f
        return out

    @property
    def plain(self) -> Tailed:
        """The family itself."""
        made: object = object.__new__(type(self).__mro__[2])
        for name, value in self.__dict__.items():
            object.__setattr__(made, name, value)
        assert isinstance(made, Tailed)
        return made

    def __repr__(self) -> str:
        return repr(self.plain)

    def __reduce__(self) -> tuple[Any, ...]:
        return censored, (self.plain, self.entry)


def censored(family: Family, entry: bool = False) -> Family:  # noqa: FBT001, FBT002  # as pickle calls it
    """The family for responses that may be censored, with or without late entries."""
    if not isinstance(family, Tailed) or isinstance(family, Censored):
        msg = f"{family!r} has no tails"
        raise TypeError(msg)
    made = object.__new__(_mixed(type(family), entry))
    for name, value in family.__dict__.items():
        object.__setattr__(made, name, value)
    return made


@cache
def _mixed(base: type[Tailed], entry: bool) -> type[Censored]:  # noqa: FBT001
    return type(f"Censored{base.__name__}", (Censored, base), {"entry": entry, "__doc__": base.__doc__})


def _kinds(known: Censoring) -> Iterator[tuple[float, IntVec | None]]:
    """The statuses that occur, with the places of their rows; None: all of them."""
    first = float(known.status[0]) if known.status.size else SEEN
    if (known.status == first).all():
        yield first, None
        return
    for status in (SEEN, RIGHT, LEFT, BETWEEN):
        own = np.flatnonzero(known.status == status)
        if own.size:
            yield status, own


def _taken(rows: Rows, at: Predictors, own: IntVec | None) -> tuple[Rows, Predictors]:
    """Some rows with their predictors."""
    if own is None:
        return rows, at
    n = rows.y.shape[-1]

    def part(v: Vec | float) -> Vec | float:
        return v if np.ndim(v) == 0 or np.shape(v)[-1] != n else np.take(v, own, axis=-1)

    return rows.each(lambda v: v[own]), tuple(part(one) for one in at)


def _spread(pieces: list[tuple[IntVec | None, Density]], shape: tuple[int, ...]) -> Density:
    """Densities of some rows each as one of all, 0 in others."""

    def joined(*parts: Vec | None) -> Vec:
        out = np.zeros(shape)
        for (own, _), part in zip(pieces, parts, strict=True):
            if part is not None:
                out[..., own] = part
        return out

    return _combined(joined, *(piece for _, piece in pieces))


def _combined(of: Callable[..., Vec], *densities: Density) -> Density:
    """Field by field; a derivative that one lacks is None to `of`."""
    first = densities[0]
    slopes = tuple(None if g is None else of(*(one.g[k] for one in densities)) for k, g in enumerate(first.g))

    def tensor(field: str) -> dict[tuple[int, ...], Vec]:
        parts = [getattr(one, field) for one in densities]
        places = dict.fromkeys(place for part in parts for place in part)
        return {place: of(*(part.get(place) for part in parts)) for place in places}

    return Density(of(*(one.f for one in densities)), slopes, tensor("w"), tensor("third"))


def _middle(rows: Rows) -> Rows:
    """Intervals by their middle: where iterations may begin."""
    known = rows.censoring
    if known is None or known.upper is None:
        return rows
    return rows._replace(y=0.5 * (rows.y + known.upper))
