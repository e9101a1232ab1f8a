"""What a fit remembers of its data once the rows are gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from polars_glmm.design.stored import StoredDesign
from polars_glmm.errors import DataChangedError

if TYPE_CHECKING:
    from polars_glmm.design.records import Design
    from polars_glmm.typing import Vec


@dataclass(frozen=True, slots=True)
class GroupSize:
    """Observations per level of one grouping factor; frequency counts."""

    group: str
    n_levels: int
    smallest: int
    mean: float
    largest: int


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Sums that two designs on the same data share, equal rows counted or repeated.

    moments   Σf, and Σf times y, y², trials, precision
    """

    moments: tuple[float, ...]


Reading: TypeAlias = tuple[Fingerprint, tuple[GroupSize, ...]]


def group_sizes(design: Design | StoredDesign) -> tuple[GroupSize, ...]:
    """One record per factor, in the order of the formula."""
    sizes = []
    for factor in design.factors:
        counts: Vec
        if isinstance(design, StoredDesign):
            counts = design.tally.level_obs
        else:
            counts = np.bincount(factor.codes, design.frequency, factor.n_levels).astype(np.float64, copy=False)
        sizes.append(
            GroupSize(factor.name, factor.n_levels, int(counts.min()), float(counts.mean()), int(counts.max()))
        )
    return tuple(sizes)


def fingerprint(design: Design | StoredDesign) -> Fingerprint:
    """The sums of a design."""
    if isinstance(design, StoredDesign):
        tally = design.tally
        return Fingerprint((float(tally.n_obs), tally.fy, tally.fyy, tally.trials, tally.precision))
    y = design.y
    fy = y if design.frequency is None else design.frequency * y
    f = np.ones_like(y) if design.frequency is None else design.frequency
    return Fingerprint(
        (
            float(design.n_obs),
            float(fy.sum()),
            float(fy @ y),
            0.0 if design.trials is None else float(f @ design.trials),
            0.0 if design.precision is None else float(f @ design.precision),
        )
    )


def check_unchanged(then: Reading, now: Reading) -> None:
    """Raise DataChangedError unless both readings of a source agree."""
    before, after = then[0].moments, now[0].moments
    if before[0] != after[0]:
        what = f"it now gives {after[0]:.0f} observations, the fit had {before[0]:.0f}"
    elif (np.abs(np.subtract(before, after)) > _allowed(np.array(before))).any():
        what = f"the sum of the response is now {after[1]:.10g}, the fit had {before[1]:.10g}"
    elif then[1] != now[1]:
        what = "the sizes of its groups differ"
    else:
        return
    msg = f"The source of this fit has changed: {what}. Pass the frame you mean, or fit again."
    raise DataChangedError(msg)


def _allowed(moments: Vec) -> Vec:
    """What rounding may change: 1e-10 of each sum, but Σf·y may cancel and is held against √(Σf Σf·y²)."""
    size = np.abs(moments)
    size[1] = np.sqrt(size[0] * size[2])
    return np.asarray(1e-10 * size)
