"""Rows in several levels of one grouping factor: `(1 | mm(s1, s2, weights=(w1, w2)))`, its slots and their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from polars_glmm.errors import FormulaError, ModelError, suggest

from .method import AGQ, Method
from .ranks import Tokens
from .syntax import Expression, FunctionCall, Listing, Name, quoted
from .tokens import Token

if TYPE_CHECKING:
    from collections.abc import Collection

    from .relation import Relations
    from .terms import RandomTerm

MEMBERS = "mm"
_CLOSING = {"(": ")", "[": "]"}
_NOT_HERE = {
    "scale": "Weights are used as they are given: divide them by their sum in the frame.",
    "by": "Make the levels of each group in the frame.",
    "cor": "Correlations are those of the bar: '|' has them, '||' has none.",
    "id": "A label stands between two bars: (1 |p| mm(s1, s2)).",
}
"""Arguments that mm() has elsewhere, and what to write."""


@dataclass(frozen=True, slots=True)
class Members:
    """The slots of a row: the column of its level in each, and that of its weight; without any each has 1/m."""

    keys: tuple[str, ...]
    weights: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the grouping factor."""
        return f"{MEMBERS}({', '.join(map(quoted, self.keys))})"

    @property
    def text(self) -> str:
        """As it stands in a formula."""
        if not self.weights:
            return self.name
        return f"{self.name[:-1]}, weights=({', '.join(map(quoted, self.weights))}))"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a frame that it reads."""
        return (*self.keys, *self.weights)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(key, weight) of each slot; none without weights."""
        return tuple(zip(self.keys, self.weights, strict=True)) if self.weights else ()


class Gaps(NamedTuple):
    """Columns that may be missing in a row that counts.

    ends    two columns of which one may be missing, or infinite: the ends of an interval. Without a first the second
            always
    slots   (key, weight): both are missing, or the key where the weight is 0, in a slot that a row does not use
    """

    ends: tuple[str | None, str] | None = None
    slots: tuple[tuple[str, str], ...] = ()


NO_GAPS = Gaps()


def read_members(tokens: Tokens, name: Token) -> FunctionCall:
    """`mm(s1, s2, weights=(w1, w2))` from its opening parenthesis on. Raises FormulaError with the place marked."""
    keys: list[Name] = []
    weights: list[Name] = []
    tokens.advance()
    while not tokens.at(")"):
        token = tokens.advance()
        if token.kind != "name":
            raise tokens.error("mm() takes columns, and their weights: mm(s1, s2, weights=(w1, w2)).", token)
        if tokens.at("="):
            if token.text != "weights":
                hint = _NOT_HERE.get(token.text) or suggest(token.text, ["weights"]).strip()
                raise tokens.error(f"mm() has no argument {token.text!r}. {hint}".rstrip(), token)
            tokens.advance()
            weights = list(_listed(tokens))
        elif weights:
            raise tokens.error("The weights of mm() stand behind all its columns.", token)
        else:
            keys.append(Name(token.text, (token.start, token.stop)))
        if not tokens.at(","):
            break
        tokens.advance()
    if not tokens.at(")"):
        raise tokens.error("mm() takes columns, and their weights: mm(s1, s2, weights=(w1, w2)).")
    closing = tokens.advance()
    names = [one.name for one in keys]
    if twice := [one for one in names if names.count(one) > 1]:
        raise tokens.error(f"mm() is given the column {twice[0]!r} twice.", name)
    if not keys:
        raise tokens.error("mm() needs the columns of a row's levels, as in mm(s1, s2).", name)
    if weights and len(weights) != len(keys):
        message = f"mm() has {len(keys)} columns and {len(weights)} weights: give one weight for each column."
        raise tokens.error(message, name)
    arguments: list[tuple[str, Expression]] = [("", one) for one in keys]
    if weights:
        arguments.append(("weights", Listing(tuple(weights))))
    return FunctionCall(MEMBERS, MEMBERS, tuple(arguments), span=(name.start, closing.stop))


def _listed(tokens: Tokens) -> Iterator[Name]:
    """Columns in parentheses, in brackets, in c() or cbind(), or one alone."""
    token = tokens.advance()
    if token.kind == "name" and not (token.text in ("c", "cbind") and tokens.at("(")):
        yield Name(token.text, (token.start, token.stop))
        return
    opening = tokens.advance() if token.kind == "name" else token
    if opening.text not in _CLOSING:
        raise tokens.error("The weights of mm() are columns: weights=(w1, w2).", token)
    while not tokens.at(_CLOSING[opening.text]):
        one = tokens.advance()
        if one.kind != "name":
            raise tokens.error("The weights of mm() are columns: weights=(w1, w2). Make them in the frame.", one)
        yield Name(one.text, (one.start, one.stop))
        if not tokens.at(","):
            break
        tokens.advance()
    if not tokens.at(_CLOSING[opening.text]):
        raise tokens.error(f"This {opening.text!r} is not closed.", opening)
    tokens.advance()


def members_of(node: Expression) -> Members | None:
    """What `read_members` read, as columns; None for anything else."""
    if not isinstance(node, FunctionCall) or node.function != MEMBERS:
        return None
    keys = tuple(one.name for keyword, one in node.arguments if not keyword and isinstance(one, Name))
    listed = [one for keyword, one in node.arguments if keyword and isinstance(one, Listing)]
    return Members(keys, tuple(item.name for one in listed for item in one.items if isinstance(item, Name)))


def shared(random: Sequence[RandomTerm]) -> str:
    """The first grouping factor of which rows have several levels; empty without one."""
    return next((term.group for term in random if term.members is not None), "")


def gaps_of(ends: tuple[str | None, str] | None, random: Sequence[RandomTerm], others: Collection[str]) -> Gaps:
    """Columns that may be missing; `others` are those that the model reads elsewhere too, where they may not."""
    pairs = [pair for term in random if term.members is not None for pair in term.members.pairs]
    return Gaps(ends, tuple(dict.fromkeys(pair for pair in pairs if not {*pair} & {*others})))


def refuse_beside_members(random: Sequence[RandomTerm], method: Method, relations: Relations) -> None:
    """Raise ModelError for what does not go with rows in several levels."""
    found: dict[frozenset[str], RandomTerm] = {}
    for term in random:
        if term.members is None:
            continue
        first = found.setdefault(frozenset(term.members.keys), term)
        if first.members != term.members:
            msg = (
                f"{first.text} and {term.text} are of the same columns with other weights, or in another order, which "
                "would be two factors of one name. Write mm() alike in both."
            )
            raise ModelError(msg)
        if isinstance(method, AGQ):
            msg = (
                f"Rows are in several levels of {term.group!r}, so that no integral is of one level alone: quadrature "
                "cannot be had. Use method='laplace'."
            )
            raise ModelError(msg)
        if any(name == term.group for name, _ in relations):
            msg = (
                f"known= is of levels of which a row has one, and rows have several of {term.group!r}: leave it out "
                "there. Other factors beside it may have one, known={'animal': A}."
            )
            raise ModelError(msg)


def unplaced(text: str, node: FunctionCall) -> FormulaError:
    """The error for mm() that is no grouping factor."""
    message = "mm() is a grouping factor: it stands alone on the right of a bar, as in (1 | mm(s1, s2))."
    return FormulaError(message, text, *node.span)
