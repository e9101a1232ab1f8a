"""The left side of a formula: what is modelled, and how much of it is seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from polars_glmm.errors import FormulaError, enumerate_names

from .functions import bind
from .parser import Tree
from .syntax import Expression, FunctionCall, Name, Number, Text, Unary, columns, render

Sight: TypeAlias = Literal["right", "left", "interval", "counting", "coded", "limits"]
"""How censoring is said: by an event, by the two ends of an interval, by codes, by limits of what can be measured."""

SIGHTS: dict[str, Sight] = {
    "right": "right", "left": "left", "interval": "interval", "interval2": "interval", "counting": "counting",
}  # fmt: skip
"""Values of kind=, R's among them."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What `surv()` or `cens()` says beside the value.

    text     in normal spelling
    sight    right, left: `status` is an event; counting: so too, seen from `entry` on; coded: `status` is 0 right, 1
             seen, 2 left, 3 interval; interval: the ends are the value and `upper`, null where open; limits: constants
             `low` and `high`, at and beyond which only that is known
    times    the values are times: above 0
    """

    text: str
    sight: Sight
    times: bool
    status: Expression | None = None
    upper: Expression | None = None
    entry: Expression | None = None
    low: float | None = None
    high: float | None = None

    def expressions(self) -> Iterator[Expression]:
        """Everything that is read from columns."""
        yield from (one for one in (self.status, self.upper, self.entry) if one is not None)


@dataclass(frozen=True, slots=True)
class Response:
    """What is modelled: one column or arithmetic on columns; with `cbind(success, failure)` two.

    observation   of a response that may be censored: `success` is its value
    """

    success: Expression
    failure: Expression | None = None
    observation: Observation | None = None

    @property
    def text(self) -> str:
        if self.observation is not None:
            return self.observation.text
        if self.failure is None:
            return render(self.success, top=False)
        return f"cbind({render(self.success, top=False)}, {render(self.failure, top=False)})"

    def expressions(self) -> Iterator[Expression]:
        """Everything that is read from columns."""
        yield self.success
        if self.failure is not None:
            yield self.failure
        if self.observation is not None:
            yield from self.observation.expressions()

    def columns(self) -> Iterator[str]:
        for one in self.expressions():
            yield from columns(one)

    @property
    def ends(self) -> tuple[str | None, str] | None:
        """The two columns of an interval, of which one may be null; without the first the second always may."""
        seen = self.observation
        if seen is None or not isinstance(seen.upper, Name):
            return None
        if seen.sight != "interval":
            return None, seen.upper.name
        assert isinstance(self.success, Name)
        return self.success.name, seen.upper.name


def response_of(tree: Tree) -> Response:
    """The response of a formula. Raises FormulaError where there is none."""
    left = tree.left
    if left is None:
        message = "The formula has no response: write 'response ~ terms'."
        raise FormulaError(message, tree.text, 0, len(tree.text))
    if isinstance(left, FunctionCall) and left.function == "cbind":
        response = Response(left.arguments[0][1], left.arguments[1][1])
    elif isinstance(left, FunctionCall) and left.function in ("surv", "cens"):
        response = _observed(left, tree)
    else:
        response = Response(left)
    if not tuple(response.columns()):
        message = "The response names no column."
        raise FormulaError(message, tree.text, *left.span)
    return response


def _observed(call: FunctionCall, tree: Tree) -> Response:
    """surv(time, event), surv(start, stop, event), surv(lower, upper, kind="interval"), cens(y, status) and so on."""

    def refuse(message: str) -> FormulaError:
        return FormulaError(message, tree.text, *call.span)

    times, bound = call.function == "surv", bind(call)
    kind = bound.pop("kind", None)
    limits = [bound.pop(name, None) for name in ("lower", "upper")]
    if kind is not None and not (isinstance(kind, Text) and kind.value in SIGHTS):
        raise refuse(f"kind is one of {enumerate_names(list(SIGHTS))}, in quotes.")
    sight = SIGHTS[kind.value] if isinstance(kind, Text) else None
    given = [bound[name] for name in ("x", "y", "z") if name in bound]
    text = _spelled(call, given, limits, sight)
    if limits != [None, None]:
        if times or sight is not None or len(given) != 1:
            raise refuse("Limits of what can be measured are written cens(y, lower=0), cens(y, lower=0, upper=10).")
        low, high = (None if one is None else _limit(one) for one in limits)
        if low is not None and high is not None and not low < high:
            raise refuse("The lower limit is not below the upper one.")
        return Response(given[0], observation=Observation(text, "limits", times, low=low, high=high))
    if sight is None:
        sight = "coded" if not times else "counting" if len(given) == 3 else "right"
    elif sight == "interval" and len(given) == 3:
        sight = "coded"
    if wrong := _wrong(sight, given, times=times):
        raise refuse(wrong)
    match sight:
        case "counting":
            return Response(given[1], observation=Observation(text, sight, times, status=given[2], entry=given[0]))
        case "interval":
            return Response(given[0], observation=Observation(text, sight, times, upper=given[1]))
        case "coded":
            upper = given[1] if len(given) == 3 else None
            return Response(given[0], observation=Observation(text, sight, times, status=given[-1], upper=upper))
    status = given[1] if len(given) == 2 else Number(1)
    return Response(given[0], observation=Observation(text, sight, times, status=status))


def _wrong(sight: Sight, given: list[Expression], *, times: bool) -> str:
    """What is wrong with the number or kind of arguments, or nothing."""
    match sight:
        case "coded" if not times and len(given) == 1:
            return "cens() needs what tells seen from censored values: cens(y, status), or cens(y, lower=0)."
        case "counting" if len(given) != 3 or not times:
            return "Delayed entry is written surv(start, stop, event)."
        case "interval" if len(given) != 2 or not all(isinstance(one, Name) for one in given):
            return "An interval is two columns, null where it is open: surv(lower, upper, kind='interval')."
        case "right" | "left" if len(given) > 2:
            return f"kind={sight!r} takes two arguments, as in surv(time, event)."
    return ""


def _spelled(
    call: FunctionCall, given: list[Expression], limits: list[Expression | None], sight: Sight | None
) -> str:
    parts = [render(one, top=False) for one in given]
    named = zip(("lower", "upper"), limits, strict=True)
    parts += [f"{name}={render(one, top=False)}" for name, one in named if one is not None]
    if sight not in (None, "right", "counting"):
        parts.append(f"kind={sight!r}")
    return f"{call.function}({', '.join(parts)})"


def _limit(node: Expression) -> float:
    match node:
        case Number(value=value):
            return float(value)
        case Unary("-", Number(value=value)):
            return -float(value)
    msg = f"A limit of what can be measured is a number, not {render(node)!r}."
    raise FormulaError(msg)
