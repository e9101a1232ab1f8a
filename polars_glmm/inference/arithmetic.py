"""Arithmetic on named parameters as text: a reader that knows names, numbers, + - * / ^ and a few functions.

Every value carries its gradient in the parameters (forward differentiation) and whether it is linear in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, isfinite, log, sqrt

import numpy as np

from polars_glmm.errors import FormulaError, ModelError, brief, enumerate_names, suggest
from polars_glmm.spec.tokens import Token, tokenize
from polars_glmm.typing import Vec

_FUNCTIONS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "exp": (exp, exp),
    "log": (log, lambda x: 1.0 / x),
    "sqrt": (sqrt, lambda x: 0.5 / sqrt(x)),
    "expit": (lambda x: 1.0 / (1.0 + exp(-x)), lambda x: exp(-x) / (1.0 + exp(-x)) ** 2),
    "logit": (lambda p: log(p / (1.0 - p)), lambda p: 1.0 / (p * (1.0 - p))),
}
_DEEPEST = 40
"""Parentheses within parentheses."""


@dataclass(frozen=True, slots=True, eq=False)
class Differentiable:
    """A number at the estimates, its gradient (P,), whether it is linear, and if so what is added to gradient · θ."""

    number: float
    gradient: Vec
    linear: bool
    offset: float

    @classmethod
    def constant(cls, number: float, size: int) -> Differentiable:
        """A number, whatever the `size` parameters are."""
        return cls(number, np.zeros(size), linear=True, offset=number)

    @property
    def is_number(self) -> bool:
        """Whether no parameter is in it."""
        return self.linear and not self.gradient.any()

    def __add__(self, other: Differentiable) -> Differentiable:
        return Differentiable(
            self.number + other.number, self.gradient + other.gradient, self.linear and other.linear,
            self.offset + other.offset,
        )  # fmt: skip

    def __neg__(self) -> Differentiable:
        return Differentiable(-self.number, -self.gradient, self.linear, -self.offset)

    def __sub__(self, other: Differentiable) -> Differentiable:
        return self + -other

    def __mul__(self, other: Differentiable) -> Differentiable:
        linear = (self.is_number and other.linear) or (other.is_number and self.linear)
        offset = self.offset * other.offset if linear else 0.0
        gradient = other.number * self.gradient + self.number * other.gradient
        return Differentiable(self.number * other.number, gradient, linear, offset)

    def applied(self, value: float, slope: float) -> Differentiable:
        """A function of this value, by its value and slope."""
        if self.is_number:
            return Differentiable.constant(value, len(self.gradient))
        return Differentiable(value, slope * self.gradient, linear=False, offset=0.0)


def normal_form(text: str) -> str:
    """A name without the spaces between its tokens; as it stands where it has none."""
    try:
        return " ".join(token.text for token in tokenize(text) if token.kind != "end")
    except FormulaError:
        return text


def _spelling(tokens: Sequence[Token]) -> tuple[tuple[str, str], ...]:
    """Tokens without their places; both signs of a power are one."""
    return tuple((token.kind, "^" if token.text == "**" else token.text) for token in tokens)


class HypothesisReader:
    """Reads hypotheses about parameters of these names, with these values."""

    def __init__(self, names: Sequence[str], values: Vec) -> None:
        self.names, self.values = list(names), values

    @cached_property
    def _spellings(self) -> dict[tuple[tuple[str, str], ...], int]:
        """The parameter of each sequence of tokens that spells a name, and of each whole name in backquotes."""
        found: dict[tuple[tuple[str, str], ...], int] = {}
        for j, name in enumerate(self.names):
            found.setdefault((("name", name),), j)
            try:
                tokens = _spelling(tokenize(name)[:-1])
            except FormulaError:
                continue
            if tokens:
                found.setdefault(tokens, j)
        return found

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._spellings), default=0)

    def knows(self, text: str) -> bool:
        """Whether a text is the name of a parameter."""
        try:
            tokens = tokenize(text)
        except FormulaError:
            return False
        return _spelling(tokens[:-1]) in self._spellings

    def read(self, text: str) -> tuple[Differentiable, Differentiable | None]:
        """Both sides of a hypothesis; the right one is None where there is no "=".

        Raises FormulaError with the place of what cannot be read, ModelError for a name that is no parameter.
        """
        return _Text(self, text).equation()

    def at(self, tokens: Sequence[Token], position: int) -> tuple[int, int] | None:
        """The parameter spelled by the longest run of tokens from a position, and where that ends."""
        for length in range(min(self._longest, len(tokens) - 1 - position), 0, -1):
            key = _spelling(tokens[position : position + length])
            if key in self._spellings:
                return self._spellings[key], position + length
        return None


class _Text:
    """One text on its way: recursive descent, sums of products of powers."""

    def __init__(self, reader: HypothesisReader, text: str) -> None:
        self.reader, self.text = reader, text
        self.tokens = tokenize(text)
        self.position = self.depth = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.position]

    def taken(self, *operators: str) -> str | None:
        """The operator that stands here, if it is one of these; it is passed."""
        if self.token.kind == "operator" and self.token.text in operators:
            self.position += 1
            return self.tokens[self.position - 1].text
        return None

    def wrong(self, message: str) -> FormulaError:
        stop = max(self.token.stop, self.token.start + 1)
        return FormulaError(message, self.text or " ", self.token.start, stop)

    def equation(self) -> tuple[Differentiable, Differentiable | None]:
        left = self.sum()
        right = self.sum() if self.taken("=", "==") else None
        if self.token.kind != "end":
            if self.taken("=", "=="):
                raise self.wrong("A hypothesis has one '='. Write several hypotheses instead.")
            if self.token.text in ("<", ">", "<=", ">=", "!="):
                raise self.wrong("A hypothesis says '='; one-sided tests are alternative='greater' or 'less'.")
            raise self.wrong("An operator is missing here.")
        return left, right

    def sum(self) -> Differentiable:
        value = self.product()
        while sign := self.taken("+", "-"):
            other = self.product()
            value = value + other if sign == "+" else value - other
        return value

    def product(self) -> Differentiable:
        value = self.signed()
        while sign := self.taken("*", "/"):
            before = self.token
            other = self.signed()
            if sign == "*":
                value = value * other
            else:
                if other.number == 0.0:
                    raise FormulaError("This is zero: nothing can be divided by it.", self.text, before.start)
                value = value * other.applied(1.0 / other.number, -1.0 / other.number**2)
        return value

    def signed(self) -> Differentiable:
        sign = 1.0
        while found := self.taken("+", "-"):
            sign = -sign if found == "-" else sign
        value = self.power()
        return value if sign > 0.0 else -value

    def power(self) -> Differentiable:
        value = self.atom()
        before = self.token
        if self.taken("^", "**"):
            exponent = self.signed()
            if not exponent.is_number:
                raise FormulaError("An exponent is a number.", self.text, before.start)
            n = exponent.number
            try:
                found, slope = value.number**n, n * value.number ** (n - 1.0)
            except (ZeroDivisionError, OverflowError):
                found = slope = float("nan")
            if isinstance(found, complex) or isinstance(slope, complex) or not (isfinite(found) and isfinite(slope)):
                raise FormulaError("This power is not a finite number at the estimates.", self.text, before.start)
            return value if n == 1.0 else value.applied(found, slope)
        return value

    def atom(self) -> Differentiable:
        size = len(self.reader.names)
        if (spelled := self.reader.at(self.tokens, self.position)) is not None:
            place, stop = spelled
            if self.tokens[stop].kind == "operator" and self.tokens[stop].text in "[:":
                raise self.unknown()  # a longer name, which is none
            self.position = stop
            gradient = np.zeros(size)
            gradient[place] = 1.0
            return Differentiable(float(self.reader.values[place]), gradient, linear=True, offset=0.0)
        token = self.token
        if token.kind == "number":
            self.position += 1
            return Differentiable.constant(float(token.text), size)
        if self.taken("("):
            return self.enclosed()
        if token.kind == "name" and token.text in _FUNCTIONS and self.tokens[self.position + 1].text == "(":
            self.position += 2
            inner = self.enclosed()
            function, slope = _FUNCTIONS[token.text]
            try:
                return inner.applied(function(inner.number), slope(inner.number))
            except (ValueError, ZeroDivisionError, OverflowError) as error:
                message = f"{token.text}({inner.number:g}) is not a finite number."
                raise FormulaError(message, self.text, token.start, token.stop) from error
        if token.kind == "name":
            raise self.unknown()
        raise self.wrong("A number or the name of a parameter is missing here.")

    def enclosed(self) -> Differentiable:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.wrong(f"More than {_DEEPEST} parentheses within one another.")
        value = self.sum()
        if not self.taken(")"):
            raise self.wrong("A closing parenthesis is missing here.")
        self.depth -= 1
        return value

    def unknown(self) -> ModelError:
        """The error for a name that is no parameter: with the brackets and colons behind it, as terms have them."""
        start = position = self.position
        while position < len(self.tokens) - 1:
            following = self.tokens[position + 1]
            if following.kind == "operator" and following.text in "[(":
                closing = {"[": "]", "(": ")"}[following.text]
                ends = [i for i in range(position, len(self.tokens)) if self.tokens[i].text == closing]
                if not ends:
                    break
                position = ends[0]
            elif following.text == ":" and self.tokens[position + 2].kind == "name":
                position += 2
            else:
                break
        name = self.text[self.tokens[start].start : self.tokens[position].stop].strip("`")
        known = self.reader.names
        near = suggest(name, known)
        msg = f"The fit has no parameter {brief(name)!r}.{near} Parameters: {enumerate_names(known)}."
        return ModelError(msg)
