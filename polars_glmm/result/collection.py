"""FitCollection: one fit per key, and their tables one under the other with the keys in front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import numpy as np
import polars as pl

from polars_glmm.answer.many import Answers, Batch, scalar
from polars_glmm.errors import ColumnError, GlmmError, ModelError, enumerate_names, suggest
from polars_glmm.foreign import answered, refuse_attribute
from polars_glmm.inference.schemas import DISPERSION, FIXEF, GLANCE, RANEF, STATUS, VARCORR, Schema, table
from polars_glmm.result import overview
from polars_glmm.result.fitted import Fit
from polars_glmm.result.many_questions import ManyQuestions

if TYPE_CHECKING:
    from collections.abc import Callable

    from polars_glmm.answer.record import Answer
    from polars_glmm.inference.covariance import CovarianceChoice, DegreesOfFreedom
    from polars_glmm.prediction.given import Given
    from polars_glmm.prediction.half_widths import RowFreedom
    from polars_glmm.prediction.predictions import Interval, Uncertainty
    from polars_glmm.reports.writers import ReportFormat
    from polars_glmm.result.pictures import KeyedPictures
    from polars_glmm.typing import IntVec, Kind, Random, Scalar, Times

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

TABLE_COLUMNS = frozenset().union(FIXEF, VARCORR, DISPERSION, RANEF, GLANCE, STATUS)
"""Names that a key cannot have: it stands beside them in the tables."""


@dataclass(frozen=True, eq=False, repr=False)
class FitCollection(ManyQuestions):
    """Fits of one model to the rows of each key.

    `len` counts keys; iteration gives (key, fit) for those that were fitted; `collection[key]` raises a failed key's
    own error.
    """

    @classmethod
    def of(cls, answers: Answers) -> FitCollection:
        """Answers with verbs."""
        return cls(answers.keys, answers.outcomes, answers.n_unkeyed)

    def __iter__(self) -> Iterator[tuple[Scalar, Fit]]:
        return ((scalar(self.keys.row(k)), Fit.of(answer)) for k, answer in self.numbered())

    def __getitem__(self, key: Scalar) -> Fit:
        wanted = key if isinstance(key, tuple) else (key,)
        for k, row in enumerate(self.keys.iter_rows()):
            if len(row) == len(wanted) and all(map(_same, row, wanted)):
                outcome = self.outcomes[k]
                if isinstance(outcome, GlmmError):
                    raise outcome
                return Fit.of(outcome)
        names = [str(scalar(row)) for row in self.keys.rows()]
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
        vcov: CovarianceChoice = None,
    ) -> pl.DataFrame:
        """Fixed effects of all fits."""
        from polars_glmm.inference import stacked
        from polars_glmm.inference.coefficients import fixef

        if vcov is not None or df == "kenward_roger":
            return self._of_each(
                lambda fit: fixef(fit, conf_level=conf_level, df=df, exponentiate=exponentiate, vcov=vcov)
            )
        return self._stack(
            FIXEF,
            lambda answer: fixef(answer, conf_level=conf_level, df=df, exponentiate=exponentiate),
            lambda batch: stacked.fixef_all(batch, conf_level, df, exponentiate=exponentiate),
        )

    @answered
    def varcorr(self, conf_level: float = 0.95) -> pl.DataFrame:
        """Variances and correlations of all fits."""
        from polars_glmm.inference import stacked
        from polars_glmm.inference.varcorr import varcorr

        return self._stack(
            VARCORR,
            lambda answer: varcorr(answer, conf_level=conf_level),
            lambda batch: stacked.varcorr_all(batch, conf_level),
        )

    @answered
    def dispersion(self, conf_level: float = 0.95) -> pl.DataFrame:
        """Dispersions of all fits."""
        from polars_glmm.inference import stacked
        from polars_glmm.inference.dispersion import dispersion

        return self._stack(
            DISPERSION,
            lambda answer: dispersion(answer, conf_level=conf_level),
            lambda batch: stacked.dispersion_all(batch, conf_level),
        )

    @answered
    def ranef(self) -> pl.DataFrame:
        """Conditional modes of all fits, long."""
        from polars_glmm.inference import stacked
        from polars_glmm.inference.ranef import ranef

        return self._stack(RANEF, ranef, stacked.ranef_all, stacked.ranef_rows)

    @answered
    def glance(self) -> pl.DataFrame:
        """One row per fit."""
        from polars_glmm.inference import stacked
        from polars_glmm.inference.glance import glance

        return self._stack(GLANCE, glance, stacked.glance_all)

    # on other frames

    @answered
    def score(self, frame: pl.DataFrame | pl.LazyFrame, group: str | None = None) -> pl.DataFrame:
        """Effects of the groups of a frame by the models of their keys, keys in front."""
        from polars_glmm.inference.score import score

        return self._of_own_rows(frame, lambda fit, rows: score(rows, fit, group))

    @answered
    def distribution(
        self,
        frame: pl.DataFrame | pl.LazyFrame,
        values: Sequence[float] | None = None,
        *,
        random: str = "integrate",
        average: bool = False,
        by: str | Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Probabilities of the response by value, `row` being counted within each key."""
        from polars_glmm.prediction.distribution import distribution

        return self._of_own_rows(
            frame, lambda fit, rows: distribution(rows, fit, values, random=random, average=average, by=by)
        )

    @answered
    def count_table(self, frame: pl.DataFrame | pl.LazyFrame, *, random: str = "integrate") -> pl.DataFrame:
        """Observed counts of every value beside those expected, by key."""
        from polars_glmm.prediction.distribution import count_table

        return self._of_own_rows(frame, lambda fit, rows: count_table(rows, fit, random=random))

    @answered
    def predict(
        self,
        frame: Frame,
        *,
        kind: Kind = "response",
        random: Random = "all",
        new_levels: Literal["error", "zero", "null"] = "error",
        interval: Interval | None = None,
        conf_level: float = 0.95,
        std_error: bool = False,
        name: str = "prediction",
        uncertainty: Uncertainty = "conditional",
        df: RowFreedom = None,
        times: Times = None,
    ) -> Frame:
        """The frame with each row's prediction by the model of its key. Arguments as `polars_glmm.predict`.

        Rows of a key whose model failed get null; a key without any model follows `new_levels`: "error" raises
        UnknownLevelError, "zero" and "null" give null.
        """
        from polars_glmm.prediction.predictions import predict

        return predict(
            frame, self, kind=kind, random=random, new_levels=new_levels, interval=interval, conf_level=conf_level,
            std_error=std_error, name=name, uncertainty=uncertainty, df=df, times=times,
        )  # fmt: skip

    @answered
    def augment(
        self,
        frame: Frame,
        prefix: str = "",
        *,
        quantile: bool = False,
        given: Given = "modes",
        rng: np.random.Generator | int | None = None,
        leverage: bool = False,
    ) -> Frame:
        """The frame with fitted values and residuals of each row by the model of its key, null where that failed."""
        from polars_glmm.prediction.residuals import augment

        return augment(frame, self, prefix, quantile=quantile, given=given, rng=rng, leverage=leverage)

    @answered
    def with_ranef(self, frame: Frame, prefix: str = "") -> Frame:
        """The frame with the random effects of each row's levels in the model of its key; null where there are none."""
        from polars_glmm.prediction.ranef_join import with_ranef

        return with_ranef(frame, self, prefix)

    # on paper and in a file

    @property
    def plot(self) -> KeyedPictures:
        """Pictures of all keys as Altair charts: `collection.plot.forest()`; needs extra `plot`."""
        from polars_glmm.result.pictures import KeyedPictures

        return KeyedPictures(self)

    def report(self, format: ReportFormat = "frame", **style: Any) -> Any:  # noqa: A002
        """The fits side by side, a column for each key. Formats and arguments as `polars_glmm.report`."""
        from polars_glmm.result.reported import report

        return report(self, None, format, **style)

    @answered
    def write(self, path: str | PathLike[str]) -> None:
        """Store all but the rows as one file, as `Fit.write` does; `polars_glmm.read_fit` reads it."""
        from polars_glmm.result.stored import write_model

        write_model(self, path)

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> NoReturn:
            refuse_attribute(self, name)

    def __repr__(self) -> str:
        return overview.as_text(self)

    def _repr_html_(self) -> str:
        from polars_glmm.inference.html import render

        return render(overview.as_sheet(self))

    def _stack(
        self,
        schema: Schema,
        make: Callable[[Answer], pl.DataFrame],
        make_all: Callable[[Batch], pl.DataFrame],
        shares: Callable[[Batch], IntVec] = lambda batch: np.ones(len(batch), dtype=np.intp),
    ) -> pl.DataFrame:
        """The tables of all fits one under the other, keys in front.

        shares   how the rows of a batch's table are divided between its models (M,): equally, or by what they have
        """
        parts, places = [table(schema, {name: [] for name in schema})], [np.empty(0, dtype=np.intp)]
        for batch in self.outcomes.batches:
            rows = make_all(batch)
            parts.append(rows)
            each = shares(batch)
            places.append(np.repeat(batch.keys, each * (rows.height // max(int(each.sum()), 1))))
        for k, answer in self.outcomes.single_answers().items():
            rows = make(answer)
            parts.append(rows)
            places.append(np.full(rows.height, k))
        return self._keyed(parts, places)

    def _of_own_rows(
        self, frame: pl.DataFrame | pl.LazyFrame, question: Callable[[Answer, pl.DataFrame], pl.DataFrame]
    ) -> pl.DataFrame:
        """What each answer says of the rows of its key, one under the other, keys in front; keys without rows left out.

        Keys are compared by value, so that 1 and 1.0, a text and its Enum are the same.
        """
        from polars_glmm.prediction.by_key import rows_by_key

        parts, places = [], []
        for k, answer, rows in rows_by_key(frame, self):
            made = question(answer, rows)
            parts.append(made)
            places.append(np.full(made.height, k))
        if not parts:
            msg = "No row of the frame has the key of a model that was fitted: status() says which there are."
            raise ModelError(msg)
        return self._keyed(parts, places)

    def _of_each(self, question: Callable[[Fit], pl.DataFrame]) -> pl.DataFrame:
        """What each fit answers to a question, one under the other, keys in front."""
        answers = [(k, question(Fit.of(answer))) for k, answer in self.numbered()]
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
