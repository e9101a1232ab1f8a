"""The columns of a model on disk: rows in parts, each all rows of a run of levels, and what their sums tell.

A row is a record of float64: the code of its level, y, what weighs and shifts it, and every distinct column once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from polars_glmm.design.records import Design, Factor, Predictor
from polars_glmm.families.base import censoring_of, heads_of, heads_of_inputs, inputs_of
from polars_glmm.spill import Spill, SpillFile
from polars_glmm.typing import CodeVec, IntVec, Mat, Vec

ONES = -1
"""The place of a column of ones, which is not stored."""
_MOST_PARTS = 100
_SMALLEST_PART = 1 << 16


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
    """Of k columns over n rows: mean (k,), cross (k, k) = Σ (v − mean)(v − mean)'."""

    n: int
    mean: Vec
    cross: Mat

    @classmethod
    def of(cls, v: Mat) -> ColumnMoments:
        """The moments of columns (k, n)."""
        mean = v.mean(axis=1)
        away = v - mean[:, None]
        return cls(v.shape[1], mean, away @ away.T)

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
class StoredDesign:
    """A design whose rows are on disk.

    shape    the same design without its rows: names, terms, levels, and which of the optional columns there are
    tally    sums over the rows;  moments of the distinct columns
    parts    the rows
    held     by parameter distinct columns whose coefficient in its predictor is given: they are part of the offset
    """

    shape: Design
    layout: RecordLayout
    tally: Tally
    moments: ColumnMoments
    parts: Parts
    spill: Spill
    held: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)

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

    def with_held(self, fixed: Mapping[str, float]) -> StoredDesign:
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

    def drain(self) -> Iterator[Design]:
        """The rows, part by part and sorted by level; every part leaves the disk once the next is asked for."""
        for file in self.parts.files:
            records = self._records(file)
            if len(records):
                yield self._design(records)
            file.remove()

    def columns(self, places: tuple[int, ...]) -> Iterator[Mat]:
        """Some of the distinct columns, ONES among them, (k, m) part by part in no order."""
        for file in self.parts.files:
            records = self._records(file)
            if len(records):
                yield self._taken(records, places)

    def _records(self, file: SpillFile) -> Mat:
        records = np.empty((file.size // (8 * self.layout.width), self.layout.width))
        if len(records):
            file.read_into([records.data.cast("B")], 0)
        return records

    def _taken(self, records: Mat, places: tuple[int, ...]) -> Mat:
        stored = records[:, 1 + len(self.layout.head) :]
        out = np.empty((len(places), len(records)))
        for row, place in zip(out, places, strict=True):
            row[:] = 1.0 if place == ONES else stored[:, place]
        return out

    def _design(self, records: Mat) -> Design:
        codes = records[:, 0].astype(np.int32)
        if self.factors and not bool((codes[1:] >= codes[:-1]).all()):
            order = _stable_order(codes)
            codes, records = codes[order], records[order]
        layout, shape = self.layout, self.shape
        head = {name: np.ascontiguousarray(records[:, k]) for k, name in enumerate(layout.head, start=1)}
        for parameter, given in self.held.items():
            places, values = zip(*given, strict=True)
            name = offset_name(parameter)
            head[name] = head.get(name, 0.0) + np.array(values) @ self._taken(records, places)
        mu, *further = (
            replace(one, x=self._taken(records, places), offset=head.get(offset_name(one.parameter)))
            for one, places in zip(shape.predictors, layout.x, strict=True)
        )
        return Design(
            y=head["y"],
            trials=head.get("trials"),
            frequency=head.get("frequency"),
            precision=head.get("precision"),
            censoring=censoring_of(head),
            mu=mu,
            further=tuple(further),
            factors=tuple(replace(f, z=self._taken(records, layout.z), codes=codes) for f in shape.factors),
            inputs=inputs_of(head),
        )


class Parts:
    """Files of records, filled batch by batch: each takes the rows of a run of levels, or of the frame in order.

    level_rows (G,)   about how many rows each level has; empty without factor
    """

    def __init__(self, spill: Spill, layout: RecordLayout, n_rows: int, level_rows: IntVec, part_bytes: int) -> None:
        size = 8 * layout.width * n_rows
        count = min(_MOST_PARTS, max(1, -(-size // max(part_bytes, _SMALLEST_PART))))
        ends = np.cumsum(level_rows)
        total = int(ends[-1]) if len(ends) else 0
        self._part_of_level = np.minimum((ends - level_rows) * count // max(total, 1), count - 1).astype(np.uint8)
        self._most = -(-size // count)
        self._spill = spill
        self.files: list[SpillFile] = [spill.create(f"part{k}") for k in range(count if len(level_rows) else 1)]

    def append(self, records: Mat) -> None:
        """Records (m, width) to the parts of their levels."""
        if not len(self._part_of_level):
            if self.files[-1].size >= self._most:
                self.files.append(self._spill.create(f"part{len(self.files)}"))
            self.files[-1].append(records.data.cast("B"))
            return
        if len(self.files) == 1:
            self.files[0].append(records.data.cast("B"))
            return
        part = self._part_of_level[records[:, 0].astype(np.intp)]
        order = np.argsort(part, kind="stable")
        records, ends = records[order], np.cumsum(np.bincount(part, minlength=len(self.files)))
        start = 0
        for file, end in zip(self.files, ends.tolist(), strict=True):
            if end > start:
                file.append(records[start:end].data.cast("B"))
            start = end


def _stable_order(codes: CodeVec) -> IntVec:
    """The order that sorts codes; few different ones are sorted by their digits, which takes one pass."""
    low = int(codes.min())
    narrow = int(codes.max()) - low < 1 << 16
    return np.argsort((codes - low).astype(np.uint16) if narrow else codes, kind="stable")


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
