"""What a fit remembers of its data once the rows are gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from polars_glmm.design.apart import Apart
from polars_glmm.design.pairing import Pairings, about, of_response, pairings
from polars_glmm.errors import DataChangedError, enumerate_names

if TYPE_CHECKING:
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.design.records import Design
    from polars_glmm.typing import Vec


_PAIRED = 1e-7
"""Difference of two correlations that rounding may make on different routes."""
_AGAIN = 1e-9
"""Difference of any two pairings that the order of rows may make on one route."""


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
    pairings  how the response lies against columns and groups of the model, and columns alone (design.pairing)
    about     what the response was taken with for them: they are compared where this is alike
    """

    moments: tuple[float, ...]
    pairings: Pairings = field(default_factory=dict)
    about: str = ""

    def same_sums(self, other: Fingerprint) -> bool:
        """Whether the sums agree but for rounding."""
        return bool((np.abs(np.subtract(self.moments, other.moments)) <= _allowed(np.array(self.moments))).all())

    def unpaired(self, other: Fingerprint, within: float = _PAIRED) -> list[str]:
        """The columns and groups of both against which the responses lie in another way."""
        return [name for name in self._unlike(other, within) if of_response(name)] if self.about == other.about else []

    def moved(self, other: Fingerprint, within: float = _AGAIN) -> list[str]:
        """The columns of both that have another mean or another size, or other values beside those of their rows."""
        names = [name.partition(" ")[2] for name in self._unlike(other, within) if not of_response(name)]
        return list(dict.fromkeys(names))

    def _unlike(self, other: Fingerprint, within: float) -> list[str]:
        common = [name for name in self.pairings if name in other.pairings]
        return [name for name in common if not abs(self.pairings[name] - other.pairings[name]) <= within]


Reading: TypeAlias = tuple[Fingerprint, tuple[GroupSize, ...]]


def group_sizes(design: Design | Apart) -> tuple[GroupSize, ...]:
    """One record per factor, in the order of the formula."""
    sizes = []
    for place, factor in enumerate(design.factors):
        counts = design.level_obs[place] if isinstance(design, Apart) else factor.level_rows(design.frequency)
        sizes.append(
            GroupSize(factor.name, factor.n_levels, int(counts.min()), float(counts.mean()), int(counts.max()))
        )
    return tuple(sizes)


def fingerprint(design: Design | Apart, recipe: Recipe) -> Fingerprint:
    """The sums of a design."""
    paired, taken_with = pairings(design), about(recipe)
    if isinstance(design, Apart):
        tally = design.tally
        sums = (float(tally.n_obs), tally.fy, tally.fyy, tally.trials, tally.precision)
        return Fingerprint(sums, paired, taken_with)
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
        ),
        paired,
        taken_with,
    )


def check_unchanged(then: Reading, now: Reading) -> None:
    """Raise DataChangedError unless both readings of a source agree."""
    before, after = then[0].moments, now[0].moments
    if before[0] != after[0]:
        what = f"it now gives {after[0]:.0f} observations, the fit had {before[0]:.0f}"
    elif not then[0].same_sums(now[0]):
        what = f"the sum of the response is now {after[1]:.10g}, the fit had {before[1]:.10g}"
    elif other := then[0].unpaired(now[0], _AGAIN):
        what = f"the response lies in another way against {enumerate_names(other)}"
    elif other := then[0].moved(now[0]):
        what = f"{enumerate_names(other)} has other values"
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
