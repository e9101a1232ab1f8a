"""`circumference ~ Asym / (1 + exp(-(age - xmid)/scal))`: the formula of a nonlinear model as a curve and its inputs.

Names that have a formula of their own, or that a self-starting form says, are parameters; what holds none of them is
an input, any arithmetic on columns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from polars_glmm.errors import FormulaError, enumerate_names
from polars_glmm.families.curve import SMOOTH, Branch, Curve, CurveFunction, CurveInput, CurveParameter, CurveStep

from .forms import FORMS
from .parser import Tree, parse_curve
from .syntax import POWERS, Binary, Expression, FunctionCall, Name, Number, Unary, columns, render


@dataclass(frozen=True, slots=True)
class NonlinearFormula:
    """The first formula of a nonlinear model.

    response   its left side
    curve      its right side, over parameters and inputs
    inputs     arithmetic on columns, in the order of their places
    """

    response: Expression
    curve: Curve
    inputs: tuple[Expression, ...]


def is_nonlinear(text: str, others: Collection[str]) -> bool:
    """Whether a first formula is a curve: it names a self-starting form, or the left side of another formula."""
    right = text.partition("~")[2]
    words = set(_words(right))
    return bool(words & (FORMS.keys() | set(others)))


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c in "_." else " " for c in text).split()


def read_nonlinear(text: str, named: Collection[str]) -> NonlinearFormula:
    """A first formula whose parameters are those named, and those of its self-starting forms.

    Raises FormulaError with the place of what cannot be part of a curve.
    """
    tree = parse_curve(text)
    if tree.left is None:
        message = "The formula has no response: write 'response ~ curve'."
        raise FormulaError(message, tree.text, 0, len(tree.text))
    own = [name for call in _calls(tree.right) for name in _form_parameters(call, tree)]
    form = tree.right.function if isinstance(tree.right, FunctionCall) and tree.right.function in FORMS else ""
    parameters = tuple(dict.fromkeys([*own, *(name for name in columns(tree.right) if name in named)]))
    unused = [name for name in named if name not in parameters]
    if unused:
        written = render(tree.right, top=False)
        message = f"{enumerate_names(unused)} has a formula but is not part of the curve {written}."
        raise FormulaError(message, tree.text, *tree.right.span)
    builder = _Builder(tree, {name: k for k, name in enumerate(parameters)})
    root = builder.branch(tree.right)
    curve = Curve(render(tree.right, top=False), parameters, root, form)
    return NonlinearFormula(tree.left, curve, tuple(builder.inputs))


def _calls(node: Expression) -> list[FunctionCall]:
    """The self-starting forms in an expression."""
    match node:
        case FunctionCall(function=function) if function in FORMS:
            return [node]
        case FunctionCall(arguments=arguments):
            return [call for _, value in arguments for call in _calls(value)]
        case Unary(operand=operand):
            return _calls(operand)
        case Binary(left=left, right=right):
            return [*_calls(left), *_calls(right)]
    return []


def _arguments(call: FunctionCall) -> dict[str, Expression]:
    """What each argument of a form is, by its name."""
    form = FORMS[call.function]
    names = (*form.inputs, *form.parameters)
    return {keyword or names[place]: value for place, (keyword, value) in enumerate(call.arguments)}


def _form_parameters(call: FunctionCall, tree: Tree) -> tuple[str, ...]:
    """The names that stand for the parameters of a form."""
    given, found = _arguments(call), []
    for name in FORMS[call.function].parameters:
        value = given[name]
        if not isinstance(value, Name):
            message = f"{name} of {call.written}() is a parameter: a name, not {render(value, top=False)}."
            raise FormulaError(message, tree.text, *value.span)
        found.append(value.name)
    return tuple(found)


class _Builder:
    """A curve in the making: inputs are collected as they are met."""

    def __init__(self, tree: Tree, places: Mapping[str, int]) -> None:
        self.tree, self.places, self.inputs = tree, places, list[Expression]()

    def branch(self, node: Expression) -> Branch:
        if isinstance(node, Number):
            return float(node.value)
        if not self.holds_parameter(node):
            return CurveInput(self.place_of(node))
        match node:
            case Name(name):
                return CurveParameter(self.places[name])
            case Unary("-", operand):
                return CurveFunction("negative", self.branch(operand))
            case Unary(operand=operand):
                return self.branch(operand)
            case Binary(operator, left, right) if operator in {"+", "-", "*", "/"} | POWERS:
                symbol = "**" if operator in POWERS else operator
                return CurveStep(symbol, self.branch(left), self.branch(right))
            case FunctionCall(function=function) if function in FORMS:
                return self.form(node)
            case FunctionCall(function=function, arguments=((_, value),)) if function in SMOOTH:
                return CurveFunction(function, self.branch(value))
        message = f"{render(node, top=False)} has no derivative in a parameter, so that no curve can be made with it."
        raise FormulaError(message, self.tree.text, *node.span)

    def form(self, call: FunctionCall) -> Branch:
        """A self-starting form, written out."""
        return self.branch(_replaced(parse_curve(f"y ~ {FORMS[call.function].text}").right, _arguments(call)))

    def holds_parameter(self, node: Expression) -> bool:
        return any(name in self.places for name in columns(node))

    def place_of(self, node: Expression) -> int:
        if node not in self.inputs:
            self.inputs.append(node)
        return self.inputs.index(node)


def _replaced(node: Expression, values: Mapping[str, Expression]) -> Expression:
    """An expression with names replaced by other expressions."""
    match node:
        case Name(name):
            return values.get(name, node)
        case Unary(operator, operand, span):
            return Unary(operator, _replaced(operand, values), span)
        case Binary(operator, left, right, span):
            return Binary(operator, _replaced(left, values), _replaced(right, values), span)
        case FunctionCall(arguments=arguments):
            inner = tuple((keyword, _replaced(value, values)) for keyword, value in arguments)
            return FunctionCall(node.function, node.written, inner, node.bare, node.span)
    return node
