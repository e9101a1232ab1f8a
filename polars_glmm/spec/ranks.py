"""The rank of a reduced-rank term, `, d=2` behind its bar."""

from __future__ import annotations

from typing import Protocol

from polars_glmm.errors import FormulaError

from .tokens import Token


class Tokens(Protocol):
    """What is asked of a parser."""

    @property
    def token(self) -> Token: ...

    def at(self, *operators: str) -> bool: ...

    def advance(self) -> Token: ...

    def error(self, message: str, token: Token | None = None) -> FormulaError: ...


def read_rank(tokens: Tokens, name: Token) -> int:
    """d of `rr(0 + f | g, d=2)`. Raises FormulaError where there is none, or no whole number of at least 1."""
    if not tokens.at(","):
        raise tokens.error("rr() needs its rank, as in rr(0 + f | g, d=2).", name)
    tokens.advance()
    if tokens.token.kind == "name" and tokens.token.text == "d":
        tokens.advance()
        if not tokens.at("="):
            raise tokens.error("rr() needs its rank, as in rr(0 + f | g, d=2).")
        tokens.advance()
    token = tokens.advance()
    if token.kind != "number" or not token.text.isdigit() or int(token.text) < 1:
        raise tokens.error("The rank d of rr() is a whole number of at least 1.", token)
    return int(token.text)
