"""Tokens to a tree: precedence climbing (Pratt 1973) over one grammar for formulas and for arithmetic in functions."""

from __future__ import annotations

from functools import lru_cache
from math import pi

from polars_glmm.covariance.structures import ALIASES, STRUCTURES, written_around
from polars_glmm.errors import FormulaError, suggest

from .functions import KEYWORDS, RESPONSES, SIGNATURES, STRUCTURES_TO_COME, canonical, instead
from .members import MEMBERS, read_members
from .ranks import read_given
from .syntax import (
    COMPARISONS,
    FLAGS,
    POWERS,
    Bar,
    Binary,
    Expression,
    Flag,
    FunctionCall,
    Listing,
    Name,
    Number,
    Text,
    Unary,
    binding,
    quoted,
    render,
)  # fmt: skip
from .tokens import Token, tokenize, with_tilde

_FORMULA_OPERATORS = frozenset({"+", "-", "*", "/", ":", "%in%", "|", "||"}) | POWERS
_ARITHMETIC_OPERATORS = frozenset({"+", "-", "*", "/"}) | POWERS | COMPARISONS
_SPELLED = ", ".join(f"{name}()" for name in STRUCTURES)
_DEPTH = 60  # nested parentheses and calls; far below Python's own limit


class Tree:
    """The two sides of one formula."""

    __slots__ = ("left", "right", "text")

    def __init__(self, text: str, left: Expression | None, right: Expression) -> None:
        self.text, self.left, self.right = text, left, right


@lru_cache(maxsize=256)
def parse_formula(text: str) -> Tree:
    """`response ~ terms` as a tree. The left side is arithmetic; a one-sided formula has left None.

    Raises FormulaError with the place marked.
    """
    return _two_sides(text, curved=False)


@lru_cache(maxsize=256)
def parse_curve(text: str) -> Tree:
    """`response ~ curve` as a tree with arithmetic on both sides. Raises FormulaError with the place marked."""
    return _two_sides(text, curved=True)


def _two_sides(text: str, *, curved: bool) -> Tree:
    """The response, and terms or a curve."""
    parser = _Parser(text)
    parser.curved = curved
    parser.require_tilde()
    left = None if parser.at("~") else parser.expression(0, arithmetic=True)
    parser.expect("~", f"A formula is written as 'response ~ {'curve' if curved else 'terms'}'")
    right = parser.expression(0, arithmetic=curved)
    parser.finish()
    return Tree(text, left, right)


@lru_cache(maxsize=256)
def parse_terms(text: str) -> Tree:
    """Terms alone, as in groups={"g": "1 + x"}."""
    parser = _Parser(text)
    right = parser.expression(0, arithmetic=False)
    parser.finish()
    return Tree(text, None, right)


class _Parser:
    """A position in a list of tokens; every method reads forward from it."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            msg = f"A formula is text such as 'y ~ x + (1 | g)', not {type(text).__name__}."
            raise FormulaError(msg)
        if not text.strip():
            msg = "The formula is empty. Write for example 'y ~ x + (1 | g)'."
            raise FormulaError(msg)
        self.text, self.tokens, self.index, self.depth = text, tokenize(text), 0, 0
        self.contrast_allowed = False  # the next call may be a contrast: an argument of C() begins
        self.curved = False  # the formula is that of a nonlinear model

    @property
    def token(self) -> Token:
        return self.tokens[self.index]

    def at(self, *operators: str) -> bool:
        return self.token.kind == "operator" and self.token.text in operators

    def advance(self) -> Token:
        token = self.token
        self.index += 1
        return token

    def error(self, message: str, token: Token | None = None) -> FormulaError:
        token = token or self.token
        return FormulaError(message, self.text, token.start, max(token.stop, token.start + 1))

    def expect(self, operator: str, message: str) -> Token:
        if not self.at(operator):
            found = f"found {self.token.text!r}" if self.token.kind != "end" else "the text ends"
            raise self.error(f"{message}: expected {operator!r}, {found}.")
        return self.advance()

    def finish(self) -> None:
        token = self.token
        if token.kind == "end":
            return
        if self.at("~"):
            raise self.error("A formula has one '~'.")
        if self.at(")", "]"):
            raise self.error(f"This {token.text!r} closes nothing.")
        raise self.error(f"An operator is missing before {token.text!r}.{self.one_name()}")

    def require_tilde(self) -> None:
        """Raise FormulaError for a formula without '~', with what was probably meant."""
        if any(token.kind == "operator" and token.text == "~" for token in self.tokens):
            return
        depth = 0
        for token in self.tokens:
            if token.kind == "operator":
                depth += (token.text in "([") - (token.text in ")]")
            if token.kind == "operator" and token.text in ("=", "==") and depth == 0:
                raise self.error("A formula has '~' between response and terms: write it here.", token)
        message = f"The formula has no '~': write '{with_tilde(self.text)}'."
        raise FormulaError(message, self.text, 0, len(self.text))

    def one_name(self) -> str:
        """A hint at backquotes where names stand beside each other, as in a column name with spaces."""
        first, last = self.index, self.index
        while first > 0 and self.bare_name(first - 1):
            first -= 1
        while self.bare_name(last + 1):
            last += 1
        if first == last or not self.bare_name(self.index):
            return ""
        name = self.text[self.tokens[first].start : self.tokens[last].stop]
        return f" A column of that name stands in backquotes: `{name}`."

    def bare_name(self, index: int) -> bool:
        token = self.tokens[index]
        return token.kind == "name" and self.text[token.start] != "`"

    def expression(self, level: int, *, arithmetic: bool) -> Expression:
        """Everything that binds at least as tightly as `level`."""
        left = self.prefix(arithmetic=arithmetic)
        while self.token.kind == "operator":
            operator = self.token.text
            if operator not in _FORMULA_OPERATORS | _ARITHMETIC_OPERATORS or binding(operator) < level:
                break
            self.check_operator(operator, arithmetic=arithmetic)
            self.advance()
            right = self.expression(binding(operator) + (0 if operator in POWERS else 1), arithmetic=arithmetic)
            span = left.span[0], right.span[1]
            if operator in ("|", "||") and isinstance(left, Bar) and not left.enclosed:
                left = self.labelled(left, right, operator)
            elif operator in ("|", "||"):
                left = Bar(left, right, "us" if operator == "|" else "diag", enclosed=False, span=span)
            else:
                left = Binary(operator, left, right, span)
        return left

    def labelled(self, bar: Bar, group: Expression, operator: str) -> Bar:
        """`left |label| group`, whose label was read as a group at first."""
        span = bar.span[0], group.span[1]
        if bar.label or not STRUCTURES[bar.structure].correlated or operator != "|" or not isinstance(bar.right, Name):
            message = "Between two bars stands the label by which terms are correlated, as in (1 |p| g)."
            raise FormulaError(message, self.text, *span)
        return Bar(bar.left, group, "us", enclosed=False, label=bar.right.name, span=span)

    def check_operator(self, operator: str, *, arithmetic: bool) -> None:
        if arithmetic and operator not in _ARITHMETIC_OPERATORS:
            raise self.error(f"'{operator}' has no meaning inside a function or a response, where arithmetic is read.")
        if not arithmetic and operator not in _FORMULA_OPERATORS:
            raise self.error(f"'{operator}' compares values: write it inside I(), as in I(x {operator} 3).")

    def prefix(self, *, arithmetic: bool) -> Expression:
        if self.at("+", "-"):
            token = self.advance()
            # between terms a sign belongs to the whole product, in arithmetic to the number
            level = binding("/") + 1 if arithmetic else binding("+") + 1
            self.deepen(token, "signs")
            operand = self.expression(level, arithmetic=arithmetic)
            self.depth -= 1
            return Unary(token.text, operand, (token.start, operand.span[1]))
        return self.primary(arithmetic=arithmetic)

    def primary(self, *, arithmetic: bool) -> Expression:
        token = self.advance()
        span = token.start, token.stop
        if token.kind == "number":
            return Number(float(token.text) if set(token.text) & set(".eE") else int(token.text), span)
        if token.kind == "text":
            if not arithmetic:
                message = "A string is no term. Names with unusual characters stand in backquotes: `a b`."
                raise self.error(message, token)
            return Text(token.text, span)
        if token.kind == "name":
            return self.name(token, arithmetic=arithmetic)
        if token.kind == "operator" and token.text == "(":
            return self.enclosed(token, arithmetic=arithmetic)
        if token.kind == "operator" and token.text == "[" and arithmetic:
            return self.listing(token, "]", vector=False)
        if token.kind == "end":
            raise self.error("The formula ends where a term is expected.", token)
        raise self.error(f"A term is expected where {token.text!r} stands.", token)

    def enclosed(self, opening: Token, *, arithmetic: bool) -> Expression:
        self.deepen(opening)
        if self.at(")"):
            raise self.error("Nothing stands between the parentheses.", opening)
        inner = self.expression(0, arithmetic=arithmetic)
        if not arithmetic and self.token.kind == "name" and not isinstance(inner, Bar):
            meant = f"({render(inner, top=False)} | {quoted(self.token.text)})"
            message = f"An operator is missing before {self.token.text!r}; a random-effects term is written {meant}."
            raise self.error(message + self.one_name())
        closing = self.close(opening, ")")
        self.depth -= 1
        if isinstance(inner, Bar):
            span = (opening.start, closing.stop)
            return Bar(inner.left, inner.right, inner.structure, enclosed=True, label=inner.label, span=span)
        return inner

    def deepen(self, token: Token, what: str = "parentheses") -> None:
        self.depth += 1
        if self.depth > _DEPTH:
            raise self.error(f"More than {_DEPTH} {what} are nested here.", token)

    def close(self, opening: Token, closing: str) -> Token:
        if not self.at(closing):
            if self.token.kind == "end":
                raise self.error(f"This {opening.text!r} is not closed.", opening)
            raise self.error(f"Expected {closing!r} or an operator before {self.token.text!r}.")
        return self.advance()

    def listing(self, opening: Token, closing: str, *, vector: bool) -> Listing:
        self.deepen(opening)
        items: list[Expression] = []
        while not self.at(closing):
            items.append(self.expression(0, arithmetic=True))
            if not self.at(","):
                break
            self.advance()
        end = self.close(opening, closing)
        self.depth -= 1
        return Listing(tuple(items), vector, (opening.start, end.stop))

    def name(self, token: Token, *, arithmetic: bool) -> Expression:
        marked = self.text[token.start] == "`"
        if not marked and self.at("("):
            members = token.text == MEMBERS and not arithmetic
            return read_members(self, token) if members else self.call(token, arithmetic=arithmetic)
        if not marked and set(token.text) == {"."}:
            raise self.error("'.' for all other columns is not supported: name the columns.", token)
        if marked and not token.text:
            raise self.error("The backquotes hold no name.", token)
        if arithmetic and not marked and token.text in FLAGS:
            return Flag(FLAGS[token.text], token.text, (token.start, token.stop))
        if arithmetic and not marked and self.depth and token.text == "pi":
            return Number(pi, (token.start, token.stop), "pi")
        return Name(token.text, (token.start, token.stop))

    def call(self, token: Token, *, arithmetic: bool) -> Expression:
        opening = self.advance()
        if not arithmetic and token.text in (*STRUCTURES, *ALIASES, *STRUCTURES_TO_COME) and self.holds_bar():
            return self.structure(token, opening)
        if arithmetic and token.text == "c":
            return self.listing(opening, ")", vector=True)
        function = canonical(token.text)
        if function is None and not arithmetic and self.holds_bar():
            there = f" There are {_SPELLED}. Behind a column stands an operator: {token.text} + (1 | g)."
            hint = suggest(token.text, STRUCTURES) or there
            raise self.error(f"{token.text!r} is not a covariance structure.{hint}", token)
        if function is None:
            hint = instead(token.text)
            if token.text in STRUCTURES:
                hint = f" Around a bar it is a structure of random effects: {token.text}(0 + time | g)."
            raise self.error(f"Function {token.text!r} is not one a formula can use.{hint}", token)
        alone = function in RESPONSES
        if (alone or (function == "offset" and arithmetic)) and not self.response_start(token):
            place = "stands alone before '~'" if alone else "is a term of its own"
            raise self.error(f"{function}() {place}.", token)
        if SIGNATURES[function].kind == "curve" and not self.curved:
            message = f"{token.text}() is the curve of a nonlinear model: it stands in the first formula."
            raise self.error(message, token)
        if SIGNATURES[function].kind == "contrast" and not self.contrast_allowed:
            raise self.error(f"{token.text}() belongs inside C(), as in C(f, {token.text}).", token)
        self.contrast_allowed = False
        self.deepen(opening)
        arguments: list[tuple[str, Expression]] = []
        while not self.at(")"):
            arguments.append(self.argument(function))
            if not self.at(","):
                break
            self.advance()
        closing = self.close(opening, ")")
        self.depth -= 1
        call = FunctionCall(function, token.text, tuple(arguments), span=(token.start, closing.stop))
        self.check_arguments(call, token)
        return call

    def response_start(self, token: Token) -> bool:
        return token is self.tokens[0] and canonical(token.text) in RESPONSES

    def holds_bar(self) -> bool:
        """Whether the parentheses that were just opened hold a bar of their own."""
        depth = 1
        for token in self.tokens[self.index :]:
            if token.kind != "operator":
                continue
            depth += (token.text in "([") - (token.text in ")]")
            if depth == 0:
                return False
            if depth == 1 and token.text in ("|", "||"):
                return True
        return False

    def structure(self, name: Token, opening: Token) -> Bar:
        own = ALIASES.get(name.text, name.text)
        if own not in STRUCTURES:
            raise self.error(f"The covariance structure {name.text}() is not yet available; {_SPELLED} are.", name)
        self.deepen(opening)
        inner = self.expression(0, arithmetic=False)
        text = read_given(self, name, own)
        closing = self.close(opening, ")")
        self.depth -= 1
        if not isinstance(inner, Bar):
            raise self.error(f"{name.text}() holds one random-effects term, as in {name.text}(1 + x | g).", opening)
        if not STRUCTURES[inner.structure].correlated and (written_around(own) or STRUCTURES[own].correlated):
            raise self.error(f"{name.text}() asks for correlations and '||' for none.", name)
        if inner.label and (written_around(own) or not STRUCTURES[own].correlated):
            asks = "a structure of its own" if written_around(own) else "no correlations"
            raise self.error(f"{name.text}() asks for {asks} and a label for some: leave one of them out.", name)
        return Bar(inner.left, inner.right, text, enclosed=True, label=inner.label, span=(name.start, closing.stop))

    def argument(self, function: str) -> tuple[str, Expression]:
        keyword = ""
        following = self.tokens[self.index + 1] if self.index + 1 < len(self.tokens) else self.token
        if self.token.kind == "name" and following.kind == "operator" and following.text == "=":
            token = self.advance()
            self.advance()
            keyword = token.text
            parameters = [name.rstrip("*") for name in SIGNATURES[function].parameters]
            if KEYWORDS.get(keyword, keyword) not in parameters:
                raise self.error(f"{function}() has no argument {keyword!r}.{suggest(keyword, parameters)}", token)
        name = self.token
        known = SIGNATURES.get(canonical(name.text) or "") if name.kind == "name" and function == "C" else None
        value: Expression
        if known is not None and known.kind == "contrast" and self.tokens[self.index + 1].text != "(":
            self.advance()
            value = FunctionCall(str(canonical(name.text)), name.text, (), bare=True, span=(name.start, name.stop))
        else:
            self.contrast_allowed = function == "C"
            value = self.expression(0, arithmetic=True)
        if self.at("="):
            raise self.error("'=' names an argument; to compare write '=='.")
        return keyword, value

    def check_arguments(self, call: FunctionCall, token: Token) -> None:
        parameters = SIGNATURES[call.function].parameters
        names = [name.rstrip("*") for name in parameters]
        given: set[str] = set()
        keywords = False
        for position, (keyword, value) in enumerate(call.arguments):
            if keyword:
                keywords = True
            elif keywords or position >= len(names):
                place = Token("", "", *value.span)
                reason = "follows a named one" if keywords else f"is one more than {call.written}() takes"
                raise self.error(f"This argument {reason}.", place)
            name = KEYWORDS.get(keyword, keyword) if keyword else names[position]
            if name in given:
                raise self.error(f"{call.written}() is given {name!r} twice.", token)
            given.add(name)
            if name == "contrasts" and not _is_contrast(value):
                choices = "contr.treatment, contr.sum, contr.helmert, contr.poly, contr.diff or contr.SAS"
                raise self.error(f"A contrast is {choices}.", Token("", "", *value.span))
        lacking = [name for name in parameters if not name.endswith("*") and name not in given]
        if lacking:
            raise self.error(f"{call.written}() needs its argument {lacking[0]!r}.", token)


def _is_contrast(node: Expression) -> bool:
    return isinstance(node, FunctionCall) and SIGNATURES[node.function].kind == "contrast"
