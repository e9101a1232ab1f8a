"""Products: all that a gaussian mixed model needs of its rows, as a record that can be added, stored and fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.control import Control
from polars_glmm.design.sums.independent import settle
from polars_glmm.design.sums.moments import Moments, joined
from polars_glmm.design.sums.other_rows import (
    Declared,
    check_declared,
    common_levels,
    outline_like,
    require_like,
)
from polars_glmm.design.sums.outline import outline
from polars_glmm.design.sums.summarise import summarise
from polars_glmm.design.text_numbers import blaming_text
from polars_glmm.errors import ColumnError, ModelError, counted
from polars_glmm.fitting.flow import warn_once
from polars_glmm.fitting.sums import (
    estimate_moments,
    fingerprint_of,
    obstacle,
    require_digits,
    residual_share,
    sizes_of,
)
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_expressions import NotThereError
from polars_glmm.frames.engine_source import open_source
from polars_glmm.frames.held import from_one_run
from polars_glmm.frames.levels import codes_of, in_order
from polars_glmm.frames.table import NO_ROWS
from polars_glmm.inference.html import render
from polars_glmm.inference.sheet import Sheet
from polars_glmm.likelihood.given import Given
from polars_glmm.notes import Note
from polars_glmm.result.fitted import Fit
from polars_glmm.spec.call import Call
from polars_glmm.spec.method import resolve_method

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polars_glmm.design.recipe import Recipe
    from polars_glmm.spec.method import Method


@dataclass(frozen=True, eq=False, repr=False)
class Products:
    """Cross-products of the columns of one gaussian model over some rows, level by level.

    recipe    the columns, with the constants learned from the rows, and the levels of the groups
    moments   of the columns as they stand in the formula: means, and squares about them (design.moments)
    notes, n_dropped   what was said of the rows, and how many had missing values
    `a + b` is what the rows of both would give, whatever levels each has.
    """

    recipe: Recipe
    moments: Moments
    notes: tuple[Note, ...] = ()
    n_dropped: int = 0

    @property
    def formula(self) -> str:
        """The formula as understood."""
        return self.recipe.spec.formula

    @property
    def n_obs(self) -> int:
        """Observations: rows used, or the sum of their frequencies."""
        return self.moments.n_obs

    def __add__(self, other: Products) -> Products:
        """The products of the rows of both. Raises ModelError with the reason where the recipes are unlike."""
        if not isinstance(other, Products):
            return NotImplemented
        require_like(self.recipe, other.recipe)
        factors, codes = [], []
        for a, b in zip(self.recipe.factors, other.recipe.factors, strict=True):
            levels = in_order(common_levels(a.levels, b.levels, a.name), a.keys)
            factors.append(replace(a, levels=levels))
            one, two = (part.levels.cast(levels.schema) for part in (a, b))
            codes.append((codes_of(one, levels), codes_of(two, levels)))
        moments = joined(self.moments, other.moments, tuple(codes), tuple(f.levels.height for f in factors))
        notes = tuple(dict.fromkeys((*self.notes, *other.notes)))
        return Products(replace(self.recipe, factors=tuple(factors)), moments, notes, self.n_dropped + other.n_dropped)

    def __radd__(self, other: object) -> Products:
        """Of the rows of several parts by `sum`, which begins with 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def fit(
        self,
        method: str | Method | None = None,
        *,
        start: Mapping[str, float] | None = None,
        fixed: Mapping[str, float] | None = None,
        control: Control | None = None,
    ) -> Fit:
        """The fit of the rows behind the products; its tables need no rows, and it keeps none.

        method   "reml" or "ml"; None: the one the products were made with
        start, fixed   parameters by name to start from and to hold, as in `fit`
        Raises ColumnError where there is no row, IdentifiabilityError, ConvergenceError as `fit` does.
        """
        began = perf_counter()
        if not self.n_obs:
            raise ColumnError(NO_ROWS)
        chosen, spec = control or Control(), self.recipe.spec
        if method is not None:
            asked = resolve_method(method)
            if asked.name not in ("reml", "ml"):
                msg = f"Products are fitted by 'reml' or 'ml', not by {asked.name!r}."
                raise ModelError(msg)
            spec = replace(spec, method=asked)
        recipe, notes, _ = settle(replace(self.recipe, spec=spec), self.moments)
        with blaming_text(recipe):
            numbers = estimate_moments(recipe, self.moments, chosen, Given(start or {}, fixed or {}))
            require_digits(residual_share(numbers, self.moments))
        call = Call(
            spec.formulas, None, "gaussian", None, spec.method, None, spec.offset, spec.frequency, spec.precision
        )  # fmt: skip
        fit = Fit(
            recipe=recipe,
            estimate=numbers,
            notes=(*self.notes, *notes, *numbers.notes),
            n_dropped=self.n_dropped,
            seconds=perf_counter() - began,
            control=chosen,
            call=call,
            groups=sizes_of(recipe, self.moments),
            fingerprint=fingerprint_of(self.moments, recipe),
        )
        warn_once(fit.notes)
        return fit

    def write_parquet(self, path: str | Path) -> None:
        """Store as one Parquet file, to be read by `polars_glmm.read_products`."""
        from polars_glmm.result.stored_products import write_products

        write_products(self, path)

    def __repr__(self) -> str:
        groups = ", ".join(f"{name}: {size}" for name, size in self._sizes())
        return f"Products of {self.formula}\n{self._observations()}" + (f"; {groups}" if groups else "")

    def _repr_html_(self) -> str:
        facts = [("Formula", self.formula), ("Rows", self._observations()), *self._sizes()]
        notes = tuple((note.text, note.advice) for note in self.notes)
        return render(Sheet("Products", (tuple(facts),), (), notes))

    def _observations(self) -> str:
        return counted(self.n_obs, "observation")

    def _sizes(self) -> list[tuple[str, str]]:
        """The grouping factors and how many levels each has."""
        heights = [(f.name, f.levels.height) for f in self.recipe.factors]
        return [(name, counted(n, "level")) for name, n in heights]


def make_products(
    frame: pl.DataFrame | pl.LazyFrame | EngineFrame,
    call: Call,
    *,
    like: Products | None = None,
    levels: Declared | None = None,
) -> Products:
    """The products of what `call` asks, or of the recipe of `like`, over a frame read by aggregation queries."""
    names = frame.collect_schema().names()
    if like is not None:
        if not isinstance(like, Products):
            msg = f"like= takes the products of another part, not {type(like).__name__}."
            raise ModelError(msg)
        spec = like.recipe.spec
    else:
        spec = call.spec().resolve(frozenset(names))
        found = obstacle(spec, call)
        if found is not None:
            why = found.text or "that takes a gaussian model with identity link and one dispersion"
            msg = f"{spec.formula} cannot be summed up in products: {why}."
            raise ModelError(msg)
        check_declared(levels, names)

    def summed(rows: pl.LazyFrame | EngineFrame) -> Products:
        source = open_source(spec, rows)
        sketch = outline(spec, source, levels) if like is None else outline_like(like.recipe, source)
        summary = summarise(sketch, source, call.missing, allow_none=True)
        return Products(summary.recipe, summary.moments, summary.notes, summary.n_dropped)

    memory = Control().memory
    if isinstance(frame, EngineFrame):
        try:
            return summed(frame)
        except NotThereError:  # the rows must be read out
            return from_one_run(frame.lazy(), spec.columns(), memory.limit, memory.spill, summed)[0]
    return from_one_run(frame.lazy(), spec.columns(), memory.limit, memory.spill, summed)[0]
