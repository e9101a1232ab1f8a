"""What was asked of a fit, kept so that it can be asked again with a change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from polars_glmm.errors import FormulaError, ModelError, enumerate_names, suggest
from polars_glmm.foreign import answer
from polars_glmm.spec import groups as spec_groups
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spec.tokens import tokenize

if TYPE_CHECKING:
    from polars_glmm.families.base import Family
    from polars_glmm.spec.method import Method
    from polars_glmm.spec.relation import KnownLevels
    from polars_glmm.typing import FamilyName, LinkName, MethodName

Groups: TypeAlias = "spec_groups.Groups | Mapping[str, str] | None"
"""As in spec.groups, or None; a dict of plain strings is named apart, because a Mapping is invariant in its keys."""
Missing: TypeAlias = Literal["drop", "error"]


class ProductArguments(TypedDict, total=False):
    """Keyword arguments that make a gaussian model, as `polars_glmm.fit` explains them."""

    groups: Groups
    method: MethodName | Method | None
    offset: str | None
    frequency: str | None
    precision: str | None
    missing: Missing
    residual: str | None


class ModelArguments(ProductArguments, total=False):
    """Keyword arguments that make a model."""

    family: FamilyName | Family
    link: LinkName | None
    trials: str | None
    known: Mapping[str, KnownLevels | Any] | None


@dataclass(frozen=True)
class Call:
    """The arguments of `fit` that make a model; what they mean is told there."""

    formulas: tuple[str, ...]
    groups: Any = None
    family: str | Family = "gaussian"
    link: str | None = None
    method: str | Method | None = None
    trials: str | None = None
    offset: str | None = None
    frequency: str | None = None
    precision: str | None = None
    missing: Missing = "drop"
    start: Mapping[str, float] | None = None
    fixed: Mapping[str, float] | None = None
    residual: str | None = None
    known: Mapping[str, KnownLevels | Any] | None = None

    def spec(self) -> ModelSpec:
        """The question as a ModelSpec; everything that can be wrong without data is raised here."""
        return self._read

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _read(self) -> ModelSpec:
        return ModelSpec.parse(
            self.formulas,
            groups=self.groups,
            family=self.family,
            link=self.link,
            method=self.method,
            trials=self.trials,
            offset=self.offset,
            frequency=self.frequency,
            precision=self.precision,
            residual=self.residual,
            known=self.known,
        )

    def changed(self, formula: str | None = None, *, understood: tuple[str, ...] | None = None, **changes: Any) -> Call:
        """The same call with other arguments; a lone dot in `formula` stands for that side of the present one.

        `understood` are the formulas with the terms of groups= in them, so that '-' can take these out.

        Raises ModelError for an argument that `fit` does not have.
        """
        known = [field.name for field in fields(self)]
        unknown = [name for name in changes if name not in known]
        if unknown:
            found = answer(unknown[0])
            near = suggest(unknown[0], known) if found is None else f" {found}"
            all_names = enumerate_names(known, limit=len(known))
            msg = f"update() has no argument {unknown[0]!r}.{near} It takes {all_names}."
            raise ModelError(msg)
        if "family" in changes and "link" not in changes:
            changes["link"] = None
        if "family" in changes and "method" not in changes and self.method is not None:
            changes["method"] = None
        if formula is not None and not isinstance(formula, str):
            raise FormulaError(f"A formula is text such as '. ~ . + x', not {type(formula).__name__}.")
        if formula is not None:
            old = self.formulas
            if self.groups is not None and "groups" not in changes and understood and _dots(_sides(formula)[1]):
                old, changes["groups"] = understood, None
            changes["formulas"] = (_merge(old[0], formula), *self.formulas[1:])
        made = replace(self.asked, **changes)
        if self.known and "known" not in changes and {"formulas", "groups"} & changes.keys():
            return replace(made, known=made.still_known())
        return made

    def still_known(self) -> Mapping[str, KnownLevels | Any] | None:
        """What is known of levels, of grouping factors that the model still has."""
        assert self.known is not None  # there is something to know
        groups = {term.group for term in replace(self, known=None).spec().random}
        there = {name: one for name, one in self.known.items() if name in groups or self.groups is not None}
        return there or None

    @property
    def asked(self) -> Call:
        """The call as it was made: without the categories that the rows of a fit taught its family."""
        family = self.family
        return self if isinstance(family, str) or not family.unordered else replace(self, family=family.plain)

    def of_categories(self, labels: Sequence[str]) -> Call:
        """The same question of a response with these categories, where its family has predictors for them."""
        return replace(self, family=self.spec().family.of_categories(labels), link=None)


def _merge(old: str, new: str) -> str:
    """`. ~ . + x` against `y ~ a`: `y ~ a + x`."""
    left, right = map(str.strip, _sides(old))
    new_left, new_right = _sides(new)
    if not new_right:
        return new

    def whole(before: str, after: str) -> str:
        """The old right side, in parentheses where an operator other than '+' would tear it apart."""
        return f"({right})" if before in _TIGHT | {"-"} or after in _TIGHT else right

    made_left, made_right = _without_dots(new_left, lambda *_: left), _without_dots(new_right, whole)
    return f"{made_left.strip() or left} ~ {made_right.strip()}"


def _sides(formula: str) -> tuple[str, str]:
    """What stands before and after the '~' of a formula; nothing after it where there is none."""
    for token in tokenize(formula):
        if token.kind == "operator" and token.text == "~":
            return formula[: token.start], formula[token.stop :]
    return formula, ""


def _dots(side: str) -> list[int]:
    """Where dots stand alone; names may contain dots, as in R."""
    return [one.start for one in tokenize(side) if one.kind == "name" and side[one.start : one.stop] == "."]


def _without_dots(side: str, meant: Callable[[str, str], str]) -> str:
    """A side with something in place of every dot that stands alone.

    meant   from the signs before and after the dot
    """
    for at in reversed(_dots(side)):
        before, after = side[:at], side[at + 1 :]
        side = before + meant(before.rstrip()[-1:], after.lstrip()[:1]) + after
    return side


_TIGHT = frozenset("*/:^%")
