"""Text to tokens: names, numbers, strings, operators, each with its place."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from polars_glmm.errors import FormulaError

_PATTERN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<quoted>`(?:[^`]|``)*`)
  | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
  | (?P<name>(?:[^\W\d]|\.(?!\d))[\w.]*)
  | (?P<operator>%in%|\|\||\*\*|==|!=|<=|>=|[-+*/:^|~<>=(),\[\]])
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"[^\W\d][\w.]*")
_SIGNS = frozenset({*"-+*/:^|~<>=(),[]`'\"", "||", "==", "!=", "<=", ">="})
_LOOK_ALIKES = {
    "~": "\u223c\u02dc\u223d\u301c\uff5e\u2053", "|": "\u2223\u2502\u01c0\u00a6\u23d0\u2758\u2503",
    "||": "\u2016\u2225", "-": "\u2212\u2796\u02d7", "*": "\u00d7\u2217\u22c5\u00b7\u2022\u2715\u2731",
    "/": "\u2044\u2215\u00f7", "^": "\u02c6\u2303\u02c4", ":": "\u2236\ua789", "`": "\u02cb\u00b4\u2035",
    "'": "\u02bc\u2032\u2018\u2019\u201a\u201b", '"': "\u201c\u201d\u201e\u201f\u2033",
    "<=": "\u2264", ">=": "\u2265", "!=": "\u2260", "(": "\u2768\u27ee", ")": "\u2769\u27ef", "+": "\u2795",
}  # fmt: skip
"""Signs of the grammar, and the characters that are taken for them."""
_LETTERS_ONLY_IN_NAME = "\u01c0\u02c6"
"""Look-alikes that Unicode counts as letters: a column of such a name stands in backquotes."""
_ESCAPES = re.compile(r"\\(.)")


class Token(NamedTuple):
    """kind is "name", "number", "text", "operator" or "end"; text is the content without quotes."""

    kind: str
    text: str
    start: int
    stop: int


def tokenize(formula: str) -> list[Token]:
    """The tokens of a formula, closed by one of kind "end"; a character outside the grammar raises FormulaError."""
    tokens: list[Token] = []
    position = 0
    while position < len(formula):
        found = _PATTERN.match(formula, position)
        if found is None:
            raise _unreadable(formula, position)
        kind, text, position = str(found.lastgroup), found.group(), found.end()
        if kind == "name" and not text.isascii():
            for k, letter in enumerate(text):
                if letter in _LETTERS_ONLY_IN_NAME:
                    raise _unreadable(formula, found.start() + k)
        if kind == "space":
            continue
        if kind == "quoted":
            kind, text = "name", text[1:-1].replace("``", "`")
        elif kind == "text":
            text = _ESCAPES.sub(r"\1", text[1:-1])
        tokens.append(Token(kind, text, found.start(), position))
    tokens.append(Token("end", "", len(formula), len(formula)))
    return tokens


def stands_bare(name: str) -> bool:
    """Whether a text is one name of a formula without backquotes."""
    found = _PATTERN.fullmatch(name)
    return found is not None and found.lastgroup == "name" and not any(sign in name for sign in _LETTERS_ONLY_IN_NAME)


def _unreadable(formula: str, position: int) -> FormulaError:
    character = formula[position]
    if character in "\"'`":
        return FormulaError(f"The quote {character} is not closed.", formula, position, len(formula))
    if character in "{}":
        return FormulaError("Braces have no meaning here: a formula executes no code.", formula, position)
    meant = look_alike(character)
    if meant is not None:
        return FormulaError(f"Character {character!r} only looks like {meant!r}: write {meant!r}.", formula, position)
    if unicodedata.category(character) in ("Cf", "Cc"):
        message = f"An invisible character {character!r} (U+{ord(character):04X}) stands here: take it out."
        return FormulaError(message, formula, position)
    return FormulaError(f"Character {character!r} has no meaning in a formula.", formula, position)


def look_alike(character: str) -> str | None:
    """The sign of the grammar that a character from a PDF, a word processor or an input method stands for, or None."""
    for meant, signs in _LOOK_ALIKES.items():
        if character in signs:
            return meant
    plain = unicodedata.normalize("NFKC", character)
    if plain != character and plain in _SIGNS:
        return plain
    return {"Pd": "-", "Pi": "'", "Pf": "'"}.get(unicodedata.category(character))


def refuse_other_than_text(formulas: tuple[object, ...]) -> None:
    """Raise FormulaError for a formula that is no text; those of several predictors stand one after the other."""
    for given in formulas:
        if isinstance(given, str):
            continue
        msg = f"A formula is text such as 'y ~ x + (1 | g)', not {type(given).__name__}."
        if isinstance(given, list | tuple) and given and all(isinstance(one, str) for one in given):
            meant = ", ".join(map(repr, given))
            msg = f"Formulas stand one after the other, not in a {type(given).__name__}: fit({meant})."
        raise FormulaError(msg)


def with_tilde(text: str) -> str:
    """What was probably meant by a formula without '~': of two names that begin it the first is the response."""
    words = text.split()
    named = len(words) > 1 and all(_NAME.fullmatch(word) for word in words[:2])
    whole = words if named else ["response", *words]
    return f"{whole[0]} ~ {' '.join(whole[1:])}"
