"""Everything that can be wrong with a call, as one tree.

    GlmmError
    ├── FormulaError        (ValueError)  the text of a formula; shows the place
    ├── ColumnError         (ValueError)  a column is missing or has an unusable dtype or content
    ├── ResponseError       (ValueError)  the response is outside the family's support
    ├── ModelError          (ValueError)  parts that are right alone and cannot go together
    ├── UnknownLevelError   (ValueError)  new data hold a level that the model has not seen
    ├── IdentifiabilityError(ValueError)  the data cannot determine the model
    ├── DataChangedError    (ValueError)  a source was read again and is not the same
    ├── DatasetError        (ValueError)  a shipped data set or a file of data cannot be read
    ├── ModelFileError      (ValueError)  a file holds no fit that could be read
    ├── ResourceError       (RuntimeError) memory or disk does not suffice; says how much would, and what would help
    └── ConvergenceError    (RuntimeError) a computation did not reach an answer; says what it reached
FitWarning (UserWarning): one for a fit, whatever the number of its notes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

LONGEST = 800
"""Characters of a message: the sites of errors cut their lists and names, this is for what users pass themselves."""
_AROUND = 100
"""Characters of a formula that are shown before and after the place that is meant."""
_PLAN = "\n\nThis error occurred in the following"
"""How Polars begins what it appends to an error that passes through a plan: the inside of the plan."""


class GlmmError(Exception):
    """Base of all errors raised on purpose by this package."""

    def __init__(self, message: str = "") -> None:
        # Polars makes the error of a plan again, with the expression that was running behind its message
        super().__init__(brief(str(message).partition(_PLAN)[0], LONGEST))


class FormulaError(GlmmError, ValueError):
    """A formula cannot be read; the message shows the text with the place marked."""

    def __init__(self, message: str, text: str = "", start: int = 0, stop: int | None = None) -> None:
        self.text, self.start, self.stop = text, start, stop
        if text:
            end = max(stop if stop is not None else start + 1, start + 1)
            first = max(start - _AROUND, 0)
            shown = text[first : start + _AROUND]
            marked = max(min(end, first + len(shown)) - start, 1)
            before, after = "…" * (first > 0), "…" * (first + len(shown) < len(text))
            mark = " " * (start - first + len(before)) + "^" * marked
            message = f"{brief(message, LONGEST - 5 * _AROUND)}\n  {before}{shown}{after}\n  {mark}"
        super().__init__(message)


class ColumnError(GlmmError, ValueError):
    """A column is missing, or its dtype or content cannot be used."""


class ResponseError(GlmmError, ValueError):
    """The response has values that the family cannot produce."""


class ModelError(GlmmError, ValueError):
    """Arguments that are right alone cannot go together."""


class UnknownLevelError(GlmmError, ValueError):
    """New data hold a level that the model has not seen."""


class IdentifiabilityError(GlmmError, ValueError):
    """The data cannot determine the model."""


class DataChangedError(GlmmError, ValueError):
    """A lazy source was read again and does not hold the data of the fit."""


class DatasetError(GlmmError, ValueError):
    """A shipped data set, or a file of data, is not there or cannot be read."""


class ModelFileError(GlmmError, ValueError):
    """A file of a fit is not there, is none, is broken, or was written by a later version."""


class ResourceError(GlmmError, RuntimeError):
    """The memory or the disk that may be used does not suffice."""


class ConvergenceError(GlmmError, RuntimeError):
    """A computation did not reach an answer."""


class FitWarning(UserWarning):
    """A fit has notes that its reader should see."""


def suggest(name: str, known: Iterable[str], *, listed: bool = False, cutoff: float = 0.6) -> str:
    """' Did you mean …?' with the nearest known names, or an empty string; so too where it would repeat the only name.

    Capitals and a last underscore make no difference: names that differ in these alone are meant before all others.

    listed   all that is known stands beside in the message
    cutoff   likeness from which a name is near: 2 · (letters in common) / (letters of both)
    """
    known = list(dict.fromkeys(known))
    if listed and len(known) == 1:
        return ""
    plain: dict[str, list[str]] = {}
    for one in known:
        plain.setdefault(_plain(one), []).append(one)
    asked = _plain(str(name))
    likely = [asked] if asked in plain else get_close_matches(asked, plain, n=3, cutoff=cutoff)
    near = [one for key in likely for one in plain[key]][:3]
    return f" Did you mean {enumerate_names(near, 'or')}?" if near else ""


def _plain(name: str) -> str:
    return name.casefold().rstrip("_") or name


def enumerate_names(names: Sequence[object], word: str = "and", limit: int = 5) -> str:
    """`'a', 'b' and 'c'`, cut after `limit` names with a count of all; a very long name is cut in the middle."""
    shown = [repr(brief(name)) for name in names[:limit]]
    if len(names) > limit:
        return ", ".join(shown) + f", … ({len(names)} in all)"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {word} {shown[-1]}" if shown else ""


def counted(n: int, noun: str, one: str = "", many: str = "", *, grouped: bool = False) -> str:
    """`1 row`, `2 passes`, behind it the verb for one or for many; grouped writes thousands as `1,000 rows`."""
    number = f"{n:,}" if grouped else str(n)
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if n == 1 else plural} {one if n == 1 else many}".rstrip()


def dropped_text(n: int, n_rows: int) -> str:
    """`1 of 180 rows was left out`."""
    return f"{n} of {counted(n_rows, 'row')} {'was' if n == 1 else 'were'} left out"


def brief(value: object, limit: int = 80) -> str:
    """The text of a value, such as a dtype with all its categories, cut in the middle beyond `limit` characters."""
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[len(text) - (limit - 1 - limit // 2) :]}"
