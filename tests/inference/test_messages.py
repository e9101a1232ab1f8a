"""Messages stay short and legible whatever the names, levels and texts are that they speak of."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Fit, FitWarning, FormulaError, GlmmError, Note
from polars_glmm.errors import LONGEST, counted, enumerate_names, suggest

LONG = "変数" + "a_name_that_goes_on_" * 100
LEVELS = [f"level {k} of very many {'x' * 200}" for k in range(400)]
FRAME = pl.DataFrame(
    {
        "y": np.sin(np.arange(400.0)) + np.arange(400.0) % 7,
        "one": ["same"] * 400,
        "g": [str(k % 20) for k in range(400)],
        "f": [LEVELS[k % 4] for k in range(400)],
        LONG: LEVELS,
        f"{LONG}2": [float(k % 13) for k in range(400)],
        f"{LONG}3": [float(k % 13) * 2.0 for k in range(400)],
        f"{LONG}null": pl.Series([None] * 400, dtype=pl.Float64),
        "structs": [{LONG: k} for k in range(400)],
        "some_null": [None if k < 7 else float(k) for k in range(400)],
    }
)
FIT: list[Fit] = []


def fitted() -> Fit:
    """A fit of factors with long levels, made once."""
    if not FIT:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)
            FIT.append(FRAME.glmm.fit("y ~ f + (1 | g)"))
    return FIT[0]


WRONG: dict[str, Callable[[], object]] = {
    "an absent column": lambda: FRAME.glmm.fit(f"y ~ {LONG[2:]}"),
    "many absent columns": lambda: FRAME.glmm.fit("y ~ " + " + ".join(f"absent_{k}" for k in range(900))),
    "a slip far on": lambda: FRAME.glmm.fit("y ~ " + " + ".join(f"x{k}" for k in range(900)) + " + (1 |"),
    "a response of many levels": lambda: FRAME.glmm.fit(f"`{LONG}` ~ 1", family="binomial"),
    "a response of text": lambda: FRAME.glmm.fit(f"`{LONG}` ~ 1"),
    "a saturated group": lambda: FRAME.glmm.fit(f"y ~ 1 + (1 | `{LONG}`)"),
    "an empty column": lambda: FRAME.glmm.fit(f"y ~ `{LONG}null`"),
    "missing values": lambda: FRAME.glmm.fit("y ~ some_null + (1 | g)", missing="error"),
    "a struct": lambda: FRAME.glmm.fit("y ~ structs"),
    "a group of structs": lambda: FRAME.glmm.fit("y ~ 1 + (1 | structs)"),
    "a base level": lambda: FRAME.glmm.fit(f"y ~ C(`{LONG}`, contr.treatment(base='{LONG}'))"),
    "a family": lambda: FRAME.glmm.fit("y ~ 1", family=LONG),
    "a link": lambda: FRAME.glmm.fit("y ~ 1", link=LONG),
    "a method": lambda: FRAME.glmm.fit("y ~ 1", method=LONG),
    "a control": lambda: FRAME.glmm.fit("y ~ 1", control={LONG: LONG}),
    "start names": lambda: FRAME.glmm.fit("y ~ f + (1 | g)", start={LONG: 1.0}),
    "fixed names": lambda: FRAME.glmm.fit("y ~ f + (1 | g)", fixed={LONG: 1.0}),
    "a frequency": lambda: FRAME.glmm.fit("y ~ 1", frequency=LONG),
    "a key": lambda: FRAME.glmm.fit("y ~ 1", by=f"{LONG}no"),
    "a data set": lambda: polars_glmm.datasets.load(LONG),
    "a kind": lambda: fitted().predict(FRAME, kind=LONG),
    "groups to predict by": lambda: fitted().predict(FRAME, random=[LONG]),
    "unseen levels": lambda: fitted().predict(FRAME.with_columns(g=LONG)),
    "unseen fixed levels": lambda: fitted().predict(FRAME.with_columns(f=LONG)),
    "a group": lambda: fitted().ranef(LONG),
    "a df": lambda: fitted().fixef(df=LONG),
    "the levels of a part": lambda: polars_glmm.products(FRAME, "y ~ f", levels={LONG + "x": ["a"]}),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_no_error_is_longer_than_a_paragraph(mistake: str) -> None:
    with pytest.raises((GlmmError, TypeError)) as caught:
        WRONG[mistake]()
    assert 20 < len(str(caught.value)) <= LONGEST


@pytest.mark.parametrize(
    "formula",
    [
        f"y ~ `{LONG}2` + `{LONG}3` + (1 | g)",
        f"y ~ 1 + (1 | g) + (1 | g:f) + (0 + `{LONG}2` | g) + (0 + `{LONG}3` | g)",
        "y ~ some_null + f + (f | g)",
        "y ~ 1 + (1 | g) + (f | g)",
    ],
)
def test_no_note_is_longer_than_a_paragraph(formula: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        notes = FRAME.glmm.fit(formula).notes
    assert notes
    assert all(len(note.text) <= LONGEST and len(note.advice) <= LONGEST for note in notes)


def test_a_message_of_any_length_is_cut() -> None:
    assert len(str(GlmmError("x" * 10_000))) == len(Note("code", "x" * 10_000).text) == LONGEST


@pytest.mark.parametrize("start", [0, 5, 150, 3990])
def test_the_place_in_a_long_formula_stands_above_its_mark(start: int) -> None:
    text = "".join(chr(ord("a") + k % 26) for k in range(4000))
    first, shown, mark = str(FormulaError("There.", text, start, start + 3)).splitlines()
    assert first == "There."
    at = slice(mark.index("^"), len(mark))
    assert shown[at] == text[start : start + 3]
    assert len(shown) < 250


def test_the_only_name_there_is_is_not_suggested_where_it_was_listed() -> None:
    assert suggest("grup", ["group"]) == " Did you mean 'group'?"
    assert suggest("grup", ["group"], listed=True) == ""
    assert suggest("grup", ["group", "other"], listed=True) == " Did you mean 'group'?"


def test_words_agree_with_their_number() -> None:
    assert [counted(n, noun) for n, noun in ((1, "pass"), (2, "pass"), (0, "row"))] == ["1 pass", "2 passes", "0 rows"]
    assert enumerate_names(range(7)).endswith("… (7 in all)")
