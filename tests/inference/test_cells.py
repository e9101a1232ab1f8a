"""Text in terminal cells: widths, lines, and labels that stay apart."""

from __future__ import annotations

import polars as pl
import pytest

import polars_glmm  # noqa: F401  the namespace glmm
from polars_glmm.errors import enumerate_names
from polars_glmm.inference.cells import ljust, shorten_all, visible, width, wrap


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("abc", 3),
        ("\u6771\u4eac", 4),
        ("e\u0301", 1),
        ("\U0001f600", 2),
        ("\u2764\ufe0f", 2),
        ("\uff21", 2),
        ("\u00e9", 1),
    ],
)
def test_a_text_is_as_wide_as_a_terminal_draws_it(text: str, cells: int) -> None:
    assert width(text) == cells
    assert width(ljust(text, 9)) == 9


@pytest.mark.parametrize("room", [12, 13, 20, 36])
def test_different_labels_stay_different_when_they_are_cut(room: int) -> None:
    labels = [f"{'a' * 40}[T.{k}]:{'b' * 40}" for k in range(30)] + [
        "\u6771" + "\u4eac" * 30 + f"{k}x" + "y" * 30 for k in range(30)
    ]
    cut = shorten_all([*labels, labels[0]], room)
    assert len(set(cut)) == len(labels)
    assert cut[-1] == cut[0]
    assert max(map(width, cut)) <= room


def test_wrapped_lines_hold_all_the_text_and_are_no_wider_than_asked() -> None:
    text = "\u6771\u4eac" * 30 + " and some words " + "\u5317" * 7
    lines = wrap(text, 21, " - ", "   ")
    assert max(map(width, lines)) <= 21
    assert "".join("".join(lines).removeprefix(" - ").split()) == "".join(text.split())


def test_a_list_of_many_or_long_names_is_cut_with_a_count() -> None:
    text = enumerate_names(["x" * 5000] * 100)
    assert "100 in all" in text
    assert len(text) < 600


@pytest.mark.parametrize("mark", ["\n", "\r", "\x1b[31m", "\x00", "\t", "\x7f", "\x9b"])
def test_what_is_printed_does_nothing_to_a_terminal(mark: str) -> None:
    name = f"a{mark}b"
    assert width(visible(name)) == len(name)
    values = {"y": [1.0, 3.0, 2.0, 5.0] * 6, name: [1.0, 2.0, 2.0, 4.0, 5.0, 1.0] * 4, "g": [*"abcdef"] * 4}
    frame = pl.DataFrame(values)
    fit = frame.glmm.fit(f"y ~ `{name}`")
    printed = [str(fit), str(frame.glmm.explain(f"y ~ `{name}` + (1 | g)")), fit.report("text")]
    for text in printed:
        assert all(line.isprintable() for line in text.split("\n"))
    assert sum("4" in line and visible(name) in line for line in printed[0].split("\n")) >= 1


def test_turns_of_direction_are_left_out_and_scripts_stay() -> None:
    assert visible("a\u202eb\u2066c") == "abc"
    assert visible("\u0645\u062f\u0631\u0633\u0629 \u200f") == "\u0645\u062f\u0631\u0633\u0629 \u200f"
