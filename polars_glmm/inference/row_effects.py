"""Predictions, comparisons and slopes of single rows: the estimate core as columns beside them, lazily.

Rows pass through a Python function some at a time, so that their Jacobian is never whole in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.frames.aggregates import computed
from polars_glmm.inference.effects import Asked, HowCompared, by_category, compared_core, of_means
from polars_glmm.inference.means import CORE
from polars_glmm.inference.schemas import table
from polars_glmm.prediction.category_quantities import CATEGORY
from polars_glmm.prediction.columns import readable_schema, refuse_clash
from polars_glmm.prediction.linear_predictor import MISSING
from polars_glmm.prediction.parameters import of_fit
from polars_glmm.prediction.quantities import with_quantity

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.inference.wald import Core
    from polars_glmm.prediction.counterfactuals import Comparison, Side
    from polars_glmm.typing import Mat, Vec

LABELS: Mapping[str, pl.DataType] = {"variable": pl.String(), "contrast": pl.String()}
Answering: TypeAlias = Callable[[pl.DataFrame], pl.DataFrame]
_NUMBERS = 1 << 21
"""Entries of a Jacobian at a time."""


def row_predictions(fit: Answer, asked: Asked) -> pl.LazyFrame:
    """The frame with the core of each row's prediction; of categories once for each of them, with `category`."""
    questions = by_category(fit, asked)
    labels = _labels(questions, {})
    _refuse(asked, list(labels))

    def predicted(one: Asked) -> Callable[[pl.DataFrame], Core]:
        return lambda rows: of_means(fit, *_values(fit, one, rows, []), one)

    answers = [_labelled(_of(name), predicted(one)) for name, one in questions]
    return _ordered(_mapped(fit, asked.frame, answers, labels), asked, labels)


def row_comparisons(fit: Answer, asked: Asked, comparisons: Sequence[Comparison], how: HowCompared) -> pl.LazyFrame:
    """The frame once for each comparison (and category), with `variable`, `contrast` and the core of each row."""
    questions = by_category(fit, asked)
    labels = _labels(questions, LABELS)
    _refuse(asked, list(labels))
    answers = [
        _labelled({**_of(name), "variable": one.variable, "contrast": one.contrast}, _answer(fit, question, one, how))
        for name, question in questions
        for one in comparisons
    ]
    return _ordered(_mapped(fit, asked.frame, answers, labels), asked, labels)


def _labels(questions: Sequence[tuple[str | None, Asked]], others: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    """The columns that say what a row of the answer is."""
    own = {} if questions[0][0] is None else {CATEGORY: pl.String()}
    return {**own, **others}


def _of(category: str | None) -> dict[str, str]:
    return {} if category is None else {CATEGORY: category}


def _ordered(whole: pl.LazyFrame, asked: Asked, labels: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """The columns of the rows, then what the answer is called, then the answer."""
    return whole.select(columns([*asked.frame.collect_schema().names(), *labels, *CORE]))


def _labelled(labels: Mapping[str, str], answer: Callable[[pl.DataFrame], Core]) -> Answering:
    def labelled(rows: pl.DataFrame) -> pl.DataFrame:
        return _with_core(rows, answer).with_columns(pl.lit(text).alias(name) for name, text in labels.items())

    return labelled


def _answer(fit: Answer, asked: Asked, one: Comparison, how: HowCompared) -> Callable[[pl.DataFrame], Core]:
    def answer(rows: pl.DataFrame) -> Core:
        high, low = (_values(fit, asked, rows, [side]) for side in (one.high, one.low))
        return compared_core(fit, asked, how, high, low, one.width)

    return answer


def _refuse(asked: Asked, labels: Sequence[str]) -> None:
    refuse_clash(readable_schema(asked.frame), [*labels, *CORE], "rename these columns first.")


def _mapped(
    fit: Answer, frame: pl.LazyFrame, answers: Sequence[Answering], labels: Mapping[str, pl.DataType]
) -> pl.LazyFrame:
    """The frame once for each answer, with it beside the rows, computed for some of them at a time.

    All in one step: Polars before 2 may take two Python functions over one frame for the same.
    """
    whole = pl.Schema({**frame.collect_schema(), **CORE, **labels})
    at_once = max(_NUMBERS // max(len(fit.estimate.report), 1), 1)

    def beside(rows: pl.DataFrame) -> pl.DataFrame:
        return pl.concat([answer(part) for answer in answers for part in _slices(rows, at_once)])

    return frame.map_batches(
        beside, schema=whole, predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False
    )


def _with_core(rows: pl.DataFrame, answer: Callable[[pl.DataFrame], Core]) -> pl.DataFrame:
    return rows.hstack(table(CORE, answer(rows).columns()))


def _slices(rows: pl.DataFrame, at_once: int) -> Iterator[pl.DataFrame]:
    for start in range(0, max(rows.height, 1), at_once):
        yield rows.slice(start, at_once)


def _values(fit: Answer, asked: Asked, rows: pl.DataFrame, sides: Sequence[Side]) -> tuple[Vec, Mat]:
    """Values (n,) and Jacobian (n, R) of rows with some columns set; NaN where a row is not complete."""
    frame = rows.lazy()
    for side in sides:
        frame = side.set_in(frame)
    frame, quantity = with_quantity(frame, frame.collect_schema(), of_fit(fit), asked.wanted)
    parts = [pl.when(~pl.col(MISSING)).then(part) for part in (quantity.value, *quantity.gradient)]
    made = computed(frame.select(part.alias(f"part_{k}") for k, part in enumerate(parts))).to_numpy()
    return made[:, 0], quantity.jacobian(made[:, 1:], len(fit.estimate.report))
