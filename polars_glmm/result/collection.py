"""FitCollection: one fit per key, and their tables one under the other with the keys in front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import numpy as np
import polars as pl

from polars_glmm.errors import ColumnError, GlmmError, ModelError, counted, enumerate_names, suggest
from polars_glmm.foreign import answered, refuse_attribute
from polars_glmm.inference import stacked
from polars_glmm.inference.html import render
from polars_glmm.inference.schemas import DISPERSION, FIXEF, GLANCE, RANEF, STATUS, VARCORR, Schema, table
from polars_glmm.inference.stacked import Stacked
from polars_glmm.notes import Note
from polars_glmm.prediction.predictions import Request, predict_from
from polars_glmm.prediction.ranef_join import ranef_columns, with_ranef_from
from polars_glmm.prediction.residuals import COLUMNS as RESIDUAL_COLUMNS
from polars_glmm.prediction.residuals import augment_from
from polars_glmm.result import overview
from polars_glmm.result.keyed_prediction import KeyedVerb, apply_by_key
from polars_glmm.result.outcomes import Batch, Outcomes

if TYPE_CHECKING:
    from collections.abc import Callable

    from polars_glmm.inference.bootstrap import BootstrapInterval
    from polars_glmm.inference.coefficients import DegreesOfFreedom
    from polars_glmm.result.bootstrapped import BootstrapKind
    from polars_glmm.result.fitted import Fit
    from polars_glmm.result.intervals import IntervalMethod
    from polars_glmm.typing import IntVec, Kind, Scalar

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

TABLE_COLUMNS = frozenset().union(FIXEF, VARCORR, DISPERSION, RANEF, GLANCE, STATUS)
"""Names that a key cannot have: it stands beside them in the tables."""
MOST_NAMED = 3
"""Keys named in a warning; the others are counted."""


@dataclass(frozen=True, eq=False, repr=False)
class FitCollection:
    """Fits of one model to the rows of each key.

    keys       key columns under their own names and dtypes, one row per model, sorted
    outcomes   per key the fit, or the error that kept it from being made; fits that were made together are kept in
               arrays, and a Fit is built when it is asked for
    n_unkeyed  rows in no model, because a key is null
    `len` counts keys; iteration gives (key, fit) for those that were fitted; `collection[key]` raises a failed key's
    own error.
    """

    keys: pl.DataFrame
    outcomes: Outcomes
    n_unkeyed: int = 0

    def __len__(self) -> int:
        return len(self.outcomes)

    def __iter__(self) -> Iterator[tuple[Scalar, Fit]]:
        return ((_scalar(self.keys.row(k)), fit) for k, fit in self._numbered())

    def __getitem__(self, key: Scalar) -> Fit:
        wanted = key if isinstance(key, tuple) else (key,)
        for k, row in enumerate(self.keys.iter_rows()):
            if len(row) == len(wanted) and all(map(_same, row, wanted)):
                outcome = self.outcomes[k]
                if isinstance(outcome, GlmmError):
                    raise outcome
                return outcome
        names = [str(_scalar(row)) for row in self.keys.rows()]
        near = suggest(str(key), names)
        if str(key) in names:
            near = f" The key is {enumerate_names([str(dtype) for dtype in self.keys.dtypes])}, not text."
        msg = f"No model has the key {key!r} of {enumerate_names(self.keys.columns)}.{near}"
        raise KeyError(msg)

    @answered
    def status(self) -> pl.DataFrame:
        """One row per key: key columns, status ("ok", "singular", "failed"), code and text of what matters most, notes.

        code, text   of the error, or of the first note that asks for attention; null where there is none
        notes        every note of the model, quiet ones last, as a list of structs of code and text; empty where there
                     is none. `status().explode("notes")` gives one row per note.
        """
        return self.keys.hstack(overview.status_table(self.outcomes))

    @answered
    def fixef(
        self,
        conf_level: float = 0.95,
        df: DegreesOfFreedom = None,
        exponentiate: bool = False,  # noqa: FBT001, FBT002
    ) -> pl.DataFrame:
        """Fixed effects of all fits."""
        return self._stack(
            FIXEF,
            lambda fit: fit.fixef(conf_level, df, exponentiate),
            lambda batch: stacked.fixef_all(batch, conf_level, df, exponentiate=exponentiate),
        )

    @answered
    def varcorr(self, conf_level: float = 0.95) -> pl.DataFrame:
        """Variances and correlations of all fits."""
        return self._stack(
            VARCORR, lambda fit: fit.varcorr(conf_level), lambda batch: stacked.varcorr_all(batch, conf_level)
        )

    @answered
    def dispersion(self, conf_level: float = 0.95) -> pl.DataFrame:
        """Dispersions of all fits."""
        return self._stack(
            DISPERSION, lambda fit: fit.dispersion(conf_level), lambda batch: stacked.dispersion_all(batch, conf_level)
        )

    @answered
    def ranef(self) -> pl.DataFrame:
        """Conditional modes of all fits, long."""
        return self._stack(RANEF, lambda fit: fit.ranef(), stacked.ranef_all)

    @answered
    def glance(self) -> pl.DataFrame:
        """One row per fit."""
        return self._stack(GLANCE, lambda fit: fit.glance(), stacked.glance_all)

    @answered
    def confint(
        self,
        method: IntervalMethod = "wald",
        which: str | Sequence[str] = "all",
        conf_level: float = 0.95,
        *,
        criterion: Literal["fit", "ml"] = "fit",
        n: int = 1000,
        rng: np.random.Generator | int | None = None,
        interval: BootstrapInterval = "percentile",
    ) -> pl.DataFrame:
        """Confidence intervals of the natural parameters of all fits. Arguments as `Fit.confint`."""
        asked: dict[str, Any] = {"criterion": criterion, "n": n, "rng": rng, "interval": interval}
        return self._of_each(lambda fit: fit.confint(method, which, conf_level, **asked))

    @answered
    def r2(self) -> pl.DataFrame:
        """R² of all fits."""
        return self._of_each(lambda fit: fit.r2())

    @answered
    def icc(self) -> pl.DataFrame:
        """Intraclass correlations of all fits."""
        return self._of_each(lambda fit: fit.icc())

    @answered
    def repca(self) -> pl.DataFrame:
        """Principal components of the random effects of all fits."""
        return self._of_each(lambda fit: fit.repca())

    @answered
    def profile(
        self,
        which: str | Sequence[str] = "all",
        points: int = 16,
        cutoff: float | None = None,
        *,
        criterion: Literal["fit", "ml"] = "fit",
    ) -> pl.DataFrame:
        """The profiled deviances of all fits. Arguments as `Fit.profile`."""
        return self._of_each(lambda fit: fit.profile(which, points, cutoff, criterion=criterion))

    @answered
    def bootstrap(
        self,
        n: int = 1000,
        rng: np.random.Generator | int | None = None,
        *,
        kind: BootstrapKind = "parametric",
        group: str | None = None,
    ) -> pl.DataFrame:
        """Bootstrap draws of all fits. Arguments as `Fit.bootstrap`."""
        return self._of_each(lambda fit: fit.bootstrap(n, rng, kind=kind, group=group))

    # on other frames

    @answered
    def predict(
        self,
        frame: Frame,
        *,
        kind: Kind = "response",
        random: str | Sequence[str] = "all",
        new_levels: Literal["error", "zero", "null"] = "error",
        interval: Literal["confidence"] | None = None,
        conf_level: float = 0.95,
        std_error: bool = False,
        name: str = "prediction",
    ) -> Frame:
        """The frame with each row's prediction by the model of its key. Arguments as `polars_glmm.predict`.

        Rows of a key whose model failed get null; a key without any model follows `new_levels`: "error" raises
        UnknownLevelError, "zero" and "null" give null.
        """
        request = Request(kind, random, new_levels, interval, conf_level, std_error, name)
        remedy = 'Use new_levels="null" for no prediction.' if new_levels == "error" else None
        verb = KeyedVerb("predict", lambda rows, own: predict_from(rows, own, request), lambda _: request.names, remedy)
        return apply_by_key(frame, self, verb)

    @answered
    def augment(self, frame: Frame, prefix: str = "") -> Frame:
        """The frame with fitted values and residuals of each row by the model of its key, null where that failed."""
        names = [f"{prefix}{column}" for column in RESIDUAL_COLUMNS]
        remedy = "Drop these rows."
        verb = KeyedVerb("augment", lambda rows, own: augment_from(rows, own, prefix), lambda _: names, remedy)
        return apply_by_key(frame, self, verb)

    @answered
    def with_ranef(self, frame: Frame, prefix: str = "") -> Frame:
        """The frame with the random effects of each row's levels in the model of its key; null where there are none."""
        verb = KeyedVerb(
            "with_ranef",
            lambda rows, own: with_ranef_from(rows, own, prefix),
            lambda own: ranef_columns(own, prefix),
            None,
        )
        return apply_by_key(frame, self, verb)

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> NoReturn:
            refuse_attribute(self, name)

    def __repr__(self) -> str:
        return overview.as_text(self)

    def _repr_html_(self) -> str:
        return render(overview.as_sheet(self))

    def _numbered(self) -> Iterator[tuple[int, Fit]]:
        for k in range(len(self.outcomes)):
            if not isinstance(self.outcomes.singles.get(k), GlmmError):
                outcome = self.outcomes[k]
                assert not isinstance(outcome, GlmmError)
                yield k, outcome

    def _stack(
        self, schema: Schema, make: Callable[[Fit], pl.DataFrame], make_all: Callable[[Batch], Stacked]
    ) -> pl.DataFrame:
        """The tables of all fits one under the other, keys in front."""
        parts, places = [table(schema, {name: [] for name in schema})], [np.empty(0, dtype=np.intp)]
        for batch in self.outcomes.batches:
            rows, counts = make_all(batch)
            parts.append(rows)
            places.append(np.repeat(batch.keys, counts))
        for k, fit in self.outcomes.single_fits().items():
            rows = make(fit)
            parts.append(rows)
            places.append(np.full(rows.height, k))
        return self._keyed(parts, places)

    def _of_each(self, question: Callable[[Fit], pl.DataFrame]) -> pl.DataFrame:
        """What each fit answers to a question, one under the other, keys in front."""
        answers = [(k, question(fit)) for k, fit in self._numbered()]
        if not answers:
            msg = "No model of this collection was fitted: status() says why."
            raise ModelError(msg)
        return self._keyed([rows for _, rows in answers], [np.full(rows.height, k) for k, rows in answers])

    def _keyed(self, parts: Sequence[pl.DataFrame], places: Sequence[IntVec]) -> pl.DataFrame:
        """Tables one under the other with the key columns of their models in front, in the order of the keys."""
        body, place = pl.concat(parts), np.concatenate(places)
        if clash := [name for name in self.keys.columns if name in body.columns]:
            msg = (
                f"The table has a column {clash[0]!r} of its own, which is a key here. Rename the key before fitting, "
                f"as in df.rename({{{clash[0]!r}: '{clash[0]}_key'}})."
            )
            raise ColumnError(msg)
        if not bool((place[1:] >= place[:-1]).all()):
            order = np.argsort(place, kind="stable")
            body, place = body[order], place[order]
        return self.keys[place].hstack(body)


def _same(a: Scalar, b: Scalar) -> bool:
    """Equal, NaN with itself too: it is a value that a key can have."""
    return bool(a == b or (a != a and b != b))  # noqa: PLR0124


def collected_notes(collection: FitCollection) -> list[Note]:
    """Per code one note that names the first keys it concerns."""
    found: dict[str, list[int]] = {}
    for k, outcome in collection.outcomes.singles.items():
        if isinstance(outcome, GlmmError):
            codes = {f"failed ({type(outcome).__name__})"}
        else:
            codes = {note.code for note in outcome.notes if not note.quiet}
        for code in codes:
            found.setdefault(code, []).append(k)
    for batch in collection.outcomes.batches:
        codes = {note.code for note in (*batch.common, *batch.estimate.notes) if not note.quiet} | (
            {"singular"} if batch.estimate.singular else set()
        )
        for code in codes:
            found.setdefault(code, []).extend(batch.keys.tolist())

    def named(places: list[int]) -> str:
        rows = [collection.keys.row(k) for k in sorted(places)[: MOST_NAMED + 1]]
        names = [str(_scalar(row)) for row in rows]
        return enumerate_names(names + ["…"] * (len(places) - len(names)), limit=MOST_NAMED)

    notes = [
        Note(code, f"{code}: {len(places)} ({named(places)}).")
        for code, places in sorted(found.items(), key=lambda item: min(item[1]))
    ]
    if collection.n_unkeyed:
        belongs = "belongs" if collection.n_unkeyed == 1 else "belong"
        rows = counted(collection.n_unkeyed, "row")
        notes.append(Note("null_key", f"{rows} with a null key {belongs} to no model."))
    return notes


def _scalar(row: tuple[Scalar, ...]) -> Scalar:
    """A key of one column is its value, of several a tuple."""
    return row[0] if len(row) == 1 else row
