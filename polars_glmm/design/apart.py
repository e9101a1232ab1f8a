"""A design apart from its rows, which are on disk or with workers: where columns stand, and what their sums tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from polars_glmm.families.base import censoring_of, heads_of, heads_of_inputs, inputs_of
from polars_glmm.typing import CodeVec, IntVec, Mat, Vec

from .records import Design, Factor, Predictor

if TYPE_CHECKING:
    from typing import Self

_GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)
ONES = -1
"""The place of a column of ones, which is not stored."""


def offset_name(parameter: str) -> str:
    """What the offset of a linear predictor is called on disk."""
    return "offset" if parameter == "mu" else f"offset_{parameter}"


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """Where things stand in a record: the code, then `head`, then the distinct columns.

    x, z   which distinct column each column of the model is, ONES for one of ones; x by linear predictor
    """

    head: tuple[str, ...]
    n_columns: int
    x: tuple[tuple[int, ...], ...]
    z: tuple[int, ...]

    @property
    def width(self) -> int:
        """Numbers in a record."""
        return 1 + len(self.head) + self.n_columns

    @property
    def widest(self) -> int:
        """Numbers a row takes, at most, while records become blocks, where columns are not shared."""
        columns = [*(place for own in self.x for place in own), *self.z]
        return max(self.width, 1 + len(self.head) + sum(place != ONES for place in columns))


@dataclass(frozen=True, slots=True, eq=False)
class ColumnMoments:
    """Of k columns over n rows, or rows of weights that sum to n: mean (k,), cross (k, k) = Σ (v − mean)(v − mean)'."""

    n: float
    mean: Vec
    cross: Mat

    @classmethod
    def of(cls, v: Mat, w: Vec | None = None) -> ColumnMoments:
        """The moments of columns (k, n), rows weighted by w (n,)."""
        size = v.shape[1] if w is None else float(w.sum())
        mean = v.mean(axis=1) if w is None else v @ w / size
        away = v - mean[:, None]
        return cls(size, mean, (away if w is None else away * w) @ away.T)

    def __add__(self, other: ColumnMoments) -> ColumnMoments:
        """Of both sets of rows (Chan, Golub & LeVeque 1983)."""
        n = self.n + other.n
        apart = other.mean - self.mean
        mean = np.where(apart == 0.0, self.mean, self.mean + apart * (other.n / n))
        return ColumnMoments(n, mean, self.cross + other.cross + np.outer(apart, apart) * (self.n * other.n / n))

    def pick(self, places: tuple[int, ...]) -> ColumnMoments:
        """Of some columns, ONES among them."""
        index = np.array(places, dtype=np.intp)
        if not len(index):
            return ColumnMoments(self.n, np.empty(0), np.empty((0, 0)))
        ones = index == ONES
        mean, cross = np.append(self.mean, 1.0)[index], np.zeros((len(index),) * 2)
        stored = np.flatnonzero(~ones)
        cross[np.ix_(stored, stored)] = self.cross[np.ix_(index[stored], index[stored])]
        return ColumnMoments(self.n, mean, cross)


def weighted(design: Design) -> tuple[Vec | None, Vec]:
    """w = frequency · precision (n,), None for one each, and the response less its offset."""
    f, precision = design.frequency, design.precision
    w = f if precision is None else precision if f is None else f * precision
    return w, design.y if design.mu.offset is None else design.y - design.mu.offset


def level_numbers(n: int) -> Vec:
    """A number for each of n levels: multiples of the golden section modulo 1, which no sums of few relate."""
    return np.asarray(np.arange(1, n + 1) * _GOLDEN % 1.0 - 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class Lined:
    """Moments of all that weighted rows hold: k distinct columns, `heads`, response less offset, numbers of levels."""

    k: int
    heads: tuple[str, ...]
    sums: ColumnMoments

    @classmethod
    def of(cls, design: Design, distinct: Mat) -> Lined:
        """Of a design of one factor or none, and its distinct columns (k, n)."""
        (w, y), heads = weighted(design), other_heads(design)
        numbers = [level_numbers(f.n_levels)[f.codes] for f in design.factors] or [np.zeros_like(y)]
        held = np.vstack([distinct, *heads.values(), y, *numbers])
        return cls(len(distinct), tuple(heads), ColumnMoments.of(held, w))

    @property
    def columns(self) -> ColumnMoments:
        """Moments of the distinct columns alone."""
        return self.sums.pick(tuple(range(self.k)))

    def __add__(self, other: Lined) -> Lined:
        """Of both sets of rows."""
        return replace(self, sums=self.sums + other.sums)


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Sums over the rows of a design: Σf, Σfy, Σfy², Σf·trials, Σf·precision; rows and Σf per level (G,).

    level_w, level_wy (G,), wyy   Σw, Σwy per level and Σwy² in all, of the response less its offset, w = f · precision
    """

    n_rows: int
    n_obs: int
    fy: float
    fyy: float
    trials: float
    precision: float
    level_rows: IntVec
    level_obs: Vec
    level_w: Vec
    level_wy: Vec
    wyy: float

    @classmethod
    def of(cls, design: Design) -> Tally:
        """The sums of a design of one factor or none."""
        f = design.frequency
        fy = design.y if f is None else f * design.y
        rows: IntVec = np.empty(0, dtype=np.intp)
        obs: Vec = np.empty(0)
        w, y = weighted(design)
        wy = y if w is None else w * y
        level_w = level_wy = obs
        if design.factors:
            factor = design.factors[0]
            rows = np.bincount(factor.codes, minlength=factor.n_levels)
            obs = np.bincount(factor.codes, f, factor.n_levels).astype(np.float64, copy=False)
            level_w = np.bincount(factor.codes, w, factor.n_levels).astype(np.float64, copy=False)
            level_wy = np.bincount(factor.codes, wy, factor.n_levels).astype(np.float64, copy=False)
        return cls(
            design.n_rows,
            design.n_obs,
            float(fy.sum()),
            float(fy @ design.y),
            0.0 if design.trials is None else float((design.trials if f is None else f * design.trials).sum()),
            0.0 if design.precision is None else float((design.precision if f is None else f * design.precision).sum()),
            rows,
            obs,
            level_w,
            level_wy,
            float(wy @ y),
        )

    def __add__(self, other: Tally) -> Tally:
        """The sums of both."""
        mine = (getattr(self, name) for name in self.__slots__)
        return Tally(*(a + getattr(other, name) for a, name in zip(mine, self.__slots__, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class Filling:
    """How columns that were put away become a design again; it can be sent to where they are.

    shape    the design without its rows: names, terms, levels, and which of the optional columns there are
    held     by parameter distinct columns whose coefficient in its predictor is given: they are part of the offset
    """

    shape: Design
    layout: RecordLayout
    held: Mapping[str, tuple[tuple[int, float], ...]]

    def filled(
        self, head: dict[str, Vec], codes: Sequence[CodeVec], taken: Callable[[tuple[int, ...]], Mat]
    ) -> Design:
        """The design of some rows: its head, codes by factor, and the distinct columns by place."""
        head, shape = dict(head), self.shape
        for parameter, given in self.held.items():
            places, values = zip(*given, strict=True)
            name = offset_name(parameter)
            head[name] = head.get(name, 0.0) + np.array(values) @ taken(places)
        mu, *further = (
            replace(one, x=taken(places), offset=head.get(offset_name(one.parameter)))
            for one, places in zip(shape.predictors, self.layout.x, strict=True)
        )
        factors = [
            replace(f, z=taken(own), codes=own_codes)
            for f, own, own_codes in zip(shape.factors, self.z(), codes, strict=True)
        ]
        return Design(
            y=head["y"],
            trials=head.get("trials"),
            frequency=head.get("frequency"),
            precision=head.get("precision"),
            censoring=censoring_of(head),
            mu=mu,
            further=tuple(further),
            factors=tuple(factors),
            inputs=inputs_of(head),
        )

    def z(self) -> list[tuple[int, ...]]:
        """Which distinct columns the random columns of each factor are."""
        ends = np.cumsum([len(f.part_of) for f in self.shape.factors]).tolist()
        return [self.layout.z[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True, slots=True, eq=False)
class Apart:
    """A design whose rows are not here.

    shape, layout, held   as of its filling
    tally                 sums over the rows, by level of the first factor;  moments of the distinct columns
    more_obs              observations of every level of the further factors
    lined                 how all that rows hold lies together, where one reading put them away
    """

    shape: Design
    layout: RecordLayout
    tally: Tally
    moments: ColumnMoments
    held: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict, kw_only=True)
    more_obs: tuple[Vec, ...] = field(default=(), kw_only=True)
    lined: Lined | None = field(default=None, kw_only=True)

    @property
    def filling(self) -> Filling:
        """How its columns become designs."""
        return Filling(self.shape, self.layout, self.held)

    @property
    def level_obs(self) -> tuple[Vec, ...]:
        """Observations of every level, by factor."""
        return (self.tally.level_obs, *self.more_obs) if self.factors else ()

    @property
    def head(self) -> tuple[str, ...]:
        """What the designs hold besides columns."""
        held = [offset_name(parameter) for parameter in self.held]
        return (*self.layout.head, *(name for name in held if name not in self.layout.head))

    @property
    def n_rows(self) -> int:
        return self.tally.n_rows

    @property
    def n_obs(self) -> int:
        return self.tally.n_obs

    @property
    def mu(self) -> Predictor:
        """Names of the fixed effects of the mean."""
        return self.shape.mu

    @property
    def further(self) -> tuple[Predictor, ...]:
        """Names of the fixed effects of other parameters."""
        return self.shape.further

    @property
    def predictors(self) -> tuple[Predictor, ...]:
        """Names of all fixed effects."""
        return self.shape.predictors

    @property
    def phi(self) -> Predictor | None:
        """Names of the fixed effects of log phi."""
        return self.shape.phi

    @property
    def factors(self) -> tuple[Factor, ...]:
        """Names, terms and number of levels; no codes."""
        return self.shape.factors

    def with_held(self, fixed: Mapping[str, float]) -> Self:
        """The design with the fixed effects that are named, "x" of mu, "phi: x" of others, moved to its offsets."""
        predictors, places, held = [], [], dict(self.held)
        for predictor, own in zip(self.shape.predictors, self.layout.x, strict=True):
            named = list(zip(predictor.names, predictor.labels, own, strict=True))
            given = tuple((place, fixed[label]) for _, label, place in named if label in fixed)
            if given:
                held[predictor.parameter] = (*held.get(predictor.parameter, ()), *given)
            left = [(name, place) for name, label, place in named if label not in fixed]
            names = tuple(name for name, _ in left)
            predictors.append(replace(predictor, names=names, x=np.empty((len(left), 0))))
            places.append(tuple(place for _, place in left))
        shape = replace(self.shape, mu=predictors[0], further=tuple(predictors[1:]))
        return replace(self, shape=shape, layout=replace(self.layout, x=tuple(places)), held=held)

    def triangle(self, places: tuple[int, ...], shift: Vec, scale: Vec) -> Mat:
        """R of the distinct columns at some places, less `shift` and divided by `scale`: R'R is their product."""
        raise NotImplementedError


def narrowed(r: Mat, columns: Mat, shift: Vec, scale: Vec) -> Mat:
    """R of the rows behind a triangle and of further ones, columns (k, m)."""
    rows = ((columns - shift[:, None]) / scale[:, None]).T
    return np.asarray(np.linalg.qr(np.concatenate([r, rows]), mode="r"))


def head_of(design: Design) -> dict[str, Vec]:
    """What a record holds besides its columns, in the order of records."""
    found = {
        "y": design.y,
        "trials": design.trials,
        "frequency": design.frequency,
        "precision": design.precision,
        **heads_of(design.censoring),
        **heads_of_inputs(design.inputs),
        **{offset_name(one.parameter): one.offset for one in design.predictors},
    }
    return {name: values for name, values in found.items() if values is not None}


def other_heads(design: Design) -> dict[str, Vec]:
    """What rows hold besides columns, the response and its weights: trials, offsets, statuses, inputs, ends."""
    return {
        name.replace("_", " "): np.where(np.isfinite(v), v, 0.0)
        for name, v in head_of(design).items()
        if name not in ("y", "frequency", "precision")
    }
