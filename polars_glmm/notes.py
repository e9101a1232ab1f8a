"""Doubts about a fit, as data: a code to test for, a text to read, an advice to follow."""

from __future__ import annotations

from dataclasses import dataclass

from polars_glmm.errors import LONGEST, brief


@dataclass(frozen=True, slots=True)
class Note:
    """One thing a reader of the fit should know.

    code    stable, for programs: "rows_dropped", "singular", "separation" …
    text    what was found, naming columns, terms and levels
    advice  what to do about it; empty where nothing need be done
    quiet   for information only: shown in the summary, never the cause of a FitWarning
    """

    code: str
    text: str
    advice: str = ""
    quiet: bool = False

    def __post_init__(self) -> None:
        for name in ("text", "advice"):
            object.__setattr__(self, name, brief(getattr(self, name), LONGEST))
