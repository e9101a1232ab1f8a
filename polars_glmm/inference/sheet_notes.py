"""The notes of a fit as its sheet shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


def sheet_notes(fit: Answer) -> tuple[tuple[str, str], ...]:
    """What was noticed and what to do, one pair each; a search that did not end comes first."""
    notes = [(note.text, note.advice) for note in fit.notes]
    if not fit.converged and not any("converge" in note.code for note in fit.notes):
        notes.insert(0, ("The search did not converge: the numbers above are where it stopped.", "See fit.diagnose()."))
    return tuple(notes)
