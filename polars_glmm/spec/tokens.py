"""Text to tokens: names, numbers, strings, operators, each with its place."""

from __future__ import annotations

import re
from typing import NamedTuple

from polars_glmm.errors import FormulaError

_PATTERN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<quoted>`[^`]*`)
  | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
  | (?P<name>(?:[^\W\d]|\.(?!\d))[\w.]*)
  | (?P<operator>%in%|\|\||\*\*|==|!=|<=|>=|[-+*/:^|~<>=(),\[\]])
    """,
    re.VERBOSE,
)
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
        if kind == "space":
            continue
        if kind == "quoted":
            kind, text = "name", text[1:-1]
        elif kind == "text":
            text = _ESCAPES.sub(r"\1", text[1:-1])
        tokens.append(Token(kind, text, found.start(), position))
    tokens.append(Token("end", "", len(formula), len(formula)))
    return tokens


def _unreadable(formula: str, position: int) -> FormulaError:
    character = formula[position]
    if character in "\"'`":
        return FormulaError(f"The quote {character} is not closed.", formula, position, len(formula))
    if character in "{}":
        return FormulaError("Braces have no meaning here: a formula executes no code.", formula, position)
    return FormulaError(f"Character {character!r} has no meaning in a formula.", formula, position)
