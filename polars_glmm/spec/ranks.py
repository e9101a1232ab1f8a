"""What some structures are given behind their bar: the rank of rr, `, d=2`, and the smoothness of mat, `, nu=1.5`."""

from __future__ import annotations

from typing import Protocol

from polars_glmm.covariance.fields import MOST_SMOOTH
from polars_glmm.covariance.structures import of_rank, of_smoothness
from polars_glmm.errors import FormulaError

from .tokens import Token


class Tokens(Protocol):
    """What is asked of a parser."""

    @property
    def token(self) -> Token: ...

    def at(self, *operators: str) -> bool: ...

    def advance(self) -> Token: ...

    def error(self, message: str, token: Token | None = None) -> FormulaError: ...


def read_given(tokens: Tokens, name: Token, structure: str) -> str:
    """The spelling of a structure with what it is given behind its bar."""
    if structure == "rr":
        return of_rank(read_rank(tokens, name))
    return of_smoothness(read_smoothness(tokens, name)) if structure == "mat" else structure


def read_rank(tokens: Tokens, name: Token) -> int:
    """d of `rr(0 + f | g, d=2)`. Raises FormulaError where there is none, or no whole number of at least 1."""
    token = _number(tokens, name, "d", "rr() needs its rank, as in rr(0 + f | g, d=2).")
    if token.kind != "number" or not token.text.isdigit() or int(token.text) < 1:
        raise tokens.error("The rank d of rr() is a whole number of at least 1.", token)
    return int(token.text)


def read_smoothness(tokens: Tokens, name: Token) -> float:
    """nu of `mat(0 + x + y | g, nu=1.5)`. Raises FormulaError where there is none, or no number above 0."""
    needs = f"{name.text}() needs its smoothness, which is not estimated, as in {name.text}(0 + x + y | g, nu=1.5)."
    token = _number(tokens, name, "nu", needs)
    try:
        nu = float(token.text) if token.kind == "number" else 0.0
    except ValueError:
        nu = 0.0
    if not 0.0 < nu <= MOST_SMOOTH:
        remedy = f"a number above 0, at most {MOST_SMOOTH:g}: beyond it take gau()"
        raise tokens.error(f"The smoothness nu of {name.text}() is {remedy}.", token)
    return nu


def _number(tokens: Tokens, name: Token, keyword: str, needs: str) -> Token:
    """The token behind `, keyword=` or a comma alone."""
    if not tokens.at(","):
        raise tokens.error(needs, name)
    tokens.advance()
    if tokens.token.kind == "name" and tokens.token.text == keyword:
        tokens.advance()
        if not tokens.at("="):
            raise tokens.error(needs)
        tokens.advance()
    return tokens.advance()
