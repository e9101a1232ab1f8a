"""The question: everything a call to fit says about the model, before any data are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from polars_glmm.errors import FormulaError, ModelError, enumerate_names, suggest
from polars_glmm.families.base import Family
from polars_glmm.families.censored import censored
from polars_glmm.families.nonlinear import nonlinear
from polars_glmm.families.registry import FAMILIES, resolve_family, with_zeros
from polars_glmm.families.zero_inflated import PARAMETER as ZERO_PARAMETER

from .categories import for_each_category, refuse_further
from .groups import Groups, Shorthand, read_groups
from .members import Gaps, gaps_of
from .method import ML, REML, Laplace, Method, resolve_method
from .nonlinear import NonlinearFormula, is_nonlinear, read_nonlinear
from .parser import Tree, parse_formula
from .relation import Relations, read_relations, refuse_levels
from .residual import ResidualTerm, read_residual, refuse_where_independent
from .response import Observation, Response, response_of
from .syntax import Bar, Binary, Expression, Number, Unary, columns, names_pi, quoted, render
from .terms import INTERCEPT, PredictorTerms, RandomTerm, predictor, summands
from .thresholds import with_thresholds
from .tokens import refuse_other_than_text


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as asked for.

    formulas     as understood, random terms of groups= included; reading them again gives the same model
    predictors   mu first, then other parameters with a formula of their own, in the order of the family's
    shorthands   entries of groups= that wait for the frame's column names; resolve() settles them
    inputs       of a nonlinear model: arithmetic on columns that its curve takes, beside its parameters
    residual     which residuals are correlated, and how
    relations    grouping factors whose levels know each other, and how
    """

    formulas: tuple[str, ...]
    response: Response
    family: Family
    method: Method
    predictors: tuple[PredictorTerms, ...]
    trials: str | None = None
    offset: str | None = None
    frequency: str | None = None
    precision: str | None = None
    shorthands: tuple[Shorthand, ...] = ()
    asked: Method | None = None
    inputs: tuple[Expression, ...] = ()
    residual: ResidualTerm | None = None
    relations: Relations = ()

    @property
    def formula(self) -> str:
        """The formulas in one line, what correlates the residuals, and whose levels know each other."""
        correlated = () if self.residual is None else (f"residual={self.residual.text}",)
        return ", ".join((*self.formulas, *correlated, *(f"known={name}" for name, _ in self.relations)))

    @property
    def beside_columns(self) -> str:
        """What a name that is no column may be."""
        return " A parameter of a curve has a formula of its own, as in 'xmid ~ 1'." if self.inputs else ""

    @property
    def mu(self) -> PredictorTerms:
        return self.predictors[0]

    @property
    def random(self) -> tuple[RandomTerm, ...]:
        """The random-effects terms of all predictors."""
        return tuple(term for part in self.predictors for term in part.random)

    def predictor(self, parameter: str) -> PredictorTerms | None:
        return next((found for found in self.predictors if found.parameter == parameter), None)

    @property
    def gaps(self) -> Gaps:
        """Columns that may be missing in a row that counts."""
        return gaps_of(self.response.ends, self.random, self.columns(slots=False))

    def columns(self, *, slots: bool = True) -> tuple[str, ...]:
        """Every column of the frame the model uses, each once; without `slots` but for those of mm()."""
        named = (self.trials, self.offset, self.frequency, self.precision)
        found = [*self.response.columns(), *(name for one in self.inputs for name in columns(one))]
        for part in self.predictors:
            found += part.columns(slots=slots)
        if self.residual is not None:
            found += (*self.residual.places, *self.residual.keys)
        return tuple(dict.fromkeys([*found, *(name for name in named if name is not None)]))

    def _expressions(self) -> Iterator[Expression]:
        """Every expression of the formulas."""
        yield from self.response.expressions()
        yield from self.inputs
        for part in self.predictors:
            yield from part.offsets
            for term in (*part.fixed, *(one for random in part.random for one in random.design)):
                yield from term.factors

    def resolve(self, frame_columns: Collection[str]) -> ModelSpec:
        """The same question with every entry of groups= settled by the frame's column names."""
        if "pi" in frame_columns and any(map(names_pi, self._expressions())):
            msg = "Inside a function pi is the number 3.14159…, and the frame has a column 'pi': rename the column."
            raise ModelError(msg)
        if not self.shorthands:
            return self
        random = [term for entry in self.shorthands for term in entry.terms(frame_columns)]
        mu = replace(self.mu, random=(*self.mu.random, *random))
        _refuse_double_terms(mu.random)
        predictors = for_each_category(mu, self.family) if self.family.unordered else (mu, *self.predictors[1:])
        _refuse_labels_apart(predictors)
        method = _resolve_method(self.asked, self.family, predictors, open_terms=False)
        refuse_levels(self.relations, [term for part in predictors for term in part.random], method)
        first = " + ".join([self.formulas[0], *(term.text for term in random)])
        return replace(
            self,
            formulas=(first, *self.formulas[1:]),
            predictors=predictors,
            method=method,
            shorthands=(),
        )

    @classmethod
    def parse(
        cls,
        formulas: tuple[str, ...],
        *,
        groups: Groups | None = None,
        family: str | Family = "gaussian",
        link: str | None = None,
        method: str | Method | None = None,
        trials: str | None = None,
        offset: str | None = None,
        frequency: str | None = None,
        precision: str | None = None,
        residual: str | None = None,
        known: object = None,
    ) -> ModelSpec:
        """Read the arguments of fit. Raises FormulaError or ModelError for whatever needs no data to be wrong."""
        if not formulas:
            msg = "A fit needs a formula, such as 'y ~ x + (1 | g)'."
            raise FormulaError(msg)
        refuse_other_than_text(formulas)
        resolved = resolve_family(family, link)
        resolved = resolved.plain if resolved.is_censored else resolved
        asked = None if method is None else resolve_method(method)
        refuse_further(formulas[1:], offset, resolved)
        if any(_names_zeros(text) for text in formulas[1:]):
            resolved = with_zeros(resolved)
        correlated = read_residual(residual)
        if correlated is not None:
            refuse_where_independent(correlated, resolved, frequency)
            if correlated.own_variances is not None and len(formulas) == 1:
                formulas = (*formulas, correlated.own_variances)
        shorthands = read_groups(groups)
        curve = _curve(formulas, resolved)
        if curve is not None:
            _refuse_beside_curve(groups=groups, offset=offset, trials=trials)
            if correlated is not None:
                msg = "residual= is of models that are linear in their mean, and not of curves."
                raise ModelError(msg)
            resolved = nonlinear(resolved, curve.curve)
            response = Response(curve.response)
            further = _further((*formulas[1:], *_constants(formulas, curve)), resolved, first=0)
            understood, first = f"{response.text} ~ {curve.curve.text}", tuple[PredictorTerms, ...]()
        else:
            tree = parse_formula(formulas[0])
            response = response_of(tree)
            if response.observation is not None:
                _refuse_uncensored(response.observation, resolved)
                resolved = censored(resolved, response.observation.entry is not None)
            mu = predictor(tree, "mu")
            further = _further(formulas[1:], resolved)
            if not any(entry.open for entry in shorthands):  # nothing needs the frame: settled here
                mu = replace(mu, random=(*mu.random, *(term for entry in shorthands for term in entry.terms())))
                shorthands = ()
            understood, first = _understood(tree, response, mu), for_each_category(mu, resolved)
        predictors = with_thresholds((*first, *(part for part, _ in further)), resolved)
        for part in predictors:
            _refuse_double_terms(part.random)
        _refuse_labels_apart(predictors)
        spec = cls(
            formulas=(understood, *(_understood(text, None, part) for part, text in further)),
            response=response,
            family=resolved,
            method=_resolve_method(asked, resolved, predictors, open_terms=bool(shorthands)),
            predictors=predictors,
            trials=_column("trials", trials),
            offset=_column("offset", offset),
            frequency=_column("frequency", frequency),
            precision=_column("precision", precision),
            shorthands=shorthands,
            asked=asked,
            inputs=() if curve is None else curve.inputs,
            residual=correlated,
            relations=read_relations(known),
        )
        if not shorthands:
            refuse_levels(spec.relations, spec.random, spec.method)
        _refuse_misfits(spec)
        return spec


def _names_zeros(text: str) -> bool:
    """Whether a further formula is of the probability of zeros."""
    return text.partition("~")[0].strip() == ZERO_PARAMETER


def _curve(formulas: tuple[str, ...], family: Family) -> NonlinearFormula | None:
    """The first formula of a nonlinear model; None of any other."""
    known = {one.name for one in family.parameters}
    named = [name for name in (text.partition("~")[0].strip() for text in formulas[1:]) if name not in known]
    return read_nonlinear(formulas[0], named) if is_nonlinear(formulas[0], named) else None


def _constants(formulas: tuple[str, ...], curve: NonlinearFormula) -> tuple[str, ...]:
    """Formulas of the parameters of a self-starting form that have none of their own: one number each."""
    named = {text.partition("~")[0].strip() for text in formulas[1:]}
    return tuple(f"{quoted(name)} ~ 1" for name in curve.curve.parameters if not {name, quoted(name)} & named)


def _refuse_beside_curve(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            msg = f"{name}= means nothing beside a curve: write what it says in the formulas of the parameters."
            raise ModelError(msg)


def _further(formulas: tuple[str, ...], family: Family, first: int = 1) -> list[tuple[PredictorTerms, Tree]]:
    """Formulas after the first, in the order of the family's parameters: one each, named on the left of '~'.

    first   the first parameter that they may name
    """
    found: dict[int, tuple[PredictorTerms, Tree]] = {}
    names = [one.name for one in family.parameters]
    for text in formulas:
        tree = parse_formula(text)
        parameter = render(tree.left) if tree.left is not None else ""
        span = tree.left.span if tree.left is not None else (0, 1)
        parameter = "phi" if parameter and parameter == family.phi_alias else parameter
        if parameter == "phi" and parameter not in names:
            message = f"The {family.name} family has no dispersion phi to model."
            raise FormulaError(message, tree.text, *span)
        if parameter not in names[first:]:
            known = names[first:] or ["phi"]
            said = enumerate_names([f"{name} ~ …" for name in known], "or")
            message = f"A further formula names a parameter of the family, {said}; {parameter!r} is none."
            raise FormulaError(message + suggest(parameter, known), tree.text, *span)
        place = names.index(parameter)
        if place in found:
            message = f"{parameter} has two formulas."
            raise FormulaError(message, tree.text, *span)
        found[place] = (predictor(tree, parameter, place), tree)
    return [found[place] for place in sorted(found)]


def _understood(tree: Tree, response: Response | None, part: PredictorTerms) -> str:
    """The formula in normal spelling: nestings written out, what '-' takes out gone, terms of groups= at its end."""
    parts = [*(_after_removal(part) if _removes(tree) else _as_written(tree)), *(("+", t.text) for t in part.random)]
    (sign, first), *rest = parts
    left = response.text if response is not None else part.parameter
    return f"{left} ~ {'-' if sign == '-' else ''}{first}" + "".join(f" {sign} {text}" for sign, text in rest)


def _removes(tree: Tree) -> bool:
    """Whether a '-' takes out more than the intercept."""
    return any(sign == "-" and not isinstance(node, Number) for sign, node in summands(tree.right))


def _as_written(tree: Tree) -> list[tuple[str, str]]:
    """Fixed terms and offsets with their signs, in the order of the text."""
    parts: list[tuple[str, str]] = []
    for sign, node in summands(tree.right):
        if not isinstance(node, Bar):
            text = render(node, top=False)
            parts.append((sign, f"({text})" if isinstance(node, Unary | Binary) and node.operator in "+-" else text))
    return parts


def _after_removal(part: PredictorTerms) -> list[tuple[str, str]]:
    """The fixed terms that are left, and the offsets."""
    terms = [term.written for term in part.fixed if term != INTERCEPT]
    spoken = (terms or ["1"]) if INTERCEPT in part.fixed else ["0", *terms]
    return [("+", text) for text in (*spoken, *(f"offset({render(one, top=False)})" for one in part.offsets))]


def _refuse_double_terms(random: tuple[RandomTerm, ...]) -> None:
    seen: dict[object, RandomTerm] = {}
    for term in random:
        if term.key in seen:
            msg = f"The random-effects term {term.text} is given twice. Take it out of the formula or of groups=."
            raise ModelError(msg)
        seen[term.key] = term


def _refuse_labels_apart(predictors: tuple[PredictorTerms, ...]) -> None:
    """Raise ModelError for a label on terms of different groups, which have no covariance."""
    seen: dict[str, RandomTerm] = {}
    for term in (term for part in predictors for term in part.random if term.label):
        first = seen.setdefault(term.label, term)
        if set(first.keys) != set(term.keys):
            msg = (
                f"{first.text} and {term.text} share the label {term.label!r}, which makes one covariance matrix of "
                f"terms on one grouping factor. Give them different labels, or leave the labels out."
            )
            raise ModelError(msg)


def _resolve_method(
    asked: Method | None, family: Family, predictors: tuple[PredictorTerms, ...], *, open_terms: bool
) -> Method:
    """The method used: the one asked for if it can go with the model, else the default of its kind."""
    terms = [term for part in predictors for term in part.random]
    others = "".join(f" and a formula for {part.parameter}" for part in predictors[1:])
    further = [part.parameter for part in predictors[1:] if part.random]
    if further and (isinstance(asked, ML | REML) or (isinstance(asked, Laplace) and asked.curvature == "expected")):
        why = "has no exact likelihood" if isinstance(asked, ML | REML) else "has no expected curvature"
        on = further[0]
        msg = f"With random effects in {on} a model {why}. Use method='laplace' or, with one group, AGQ(nodes=9)."
        raise ModelError(msg)
    if isinstance(asked, Laplace) and asked.curvature == "expected" and not family.knows_information:
        msg = f"The expected curvature of {family.name} has no closed form: use Laplace() with the observed one."
        raise ModelError(msg)
    exact = family.linear and not further  # integrals over u and beta
    random = bool(terms) or open_terms
    model = f"family={family.name!r} with link {family.link.name!r}{others}"
    if isinstance(asked, REML) and not exact:
        msg = f"REML is defined for gaussian models with identity link, not for {model}."
        raise ModelError(msg)
    if isinstance(asked, ML) and random and not exact:
        msg = f"With random effects {model} has no exact likelihood. Use method='laplace' or AGQ(nodes=9)."
        raise ModelError(msg)
    if not random:
        return asked if isinstance(asked, REML | ML) else REML() if asked is None and exact else ML()
    if asked is not None:
        return asked
    return REML() if exact else Laplace()


def _refuse_misfits(spec: ModelSpec) -> None:
    """Arguments that the family has no use for."""
    name = spec.family.name
    if spec.residual is not None and any(part.random for part in spec.predictors[1:]):
        msg = "residual= goes with fixed effects of phi only: take the random effects out of 'phi ~ …'."
        raise ModelError(msg)
    if spec.residual is not None and not isinstance(spec.method, ML | REML):
        msg = f"residual= has an exact likelihood: use method='reml' or 'ml', not {spec.method.name!r}."
        raise ModelError(msg)
    if spec.precision is not None and not spec.family.takes_precision:
        msg = (
            f"precision= divides the variance of gaussian, gamma and inverse_gaussian rows; {name} has none to divide. "
            "Use trials= for the number of binomial trials, frequency= for rows that stand for several."
        )
        raise ModelError(msg)
    if spec.trials is not None and not spec.family.takes_trials:
        msg = f"trials= belongs to the binomial family, not to {name}. For rows that stand for several use frequency=."
        raise ModelError(msg)
    without = spec.trials is None and spec.response.failure is None
    if spec.family.takes_trials and spec.family.has_phi and without:
        msg = (
            f"Single trials say nothing of the dispersion of family={name!r}: it needs their number, trials= or "
            "cbind(success, failure). For single trials use family='binomial'."
        )
        raise ModelError(msg)
    if spec.response.failure is not None:
        if not spec.family.takes_trials:
            msg = f"cbind(success, failure) is a binomial response; the family is {name}. Say family='binomial'."
            raise ModelError(msg)
        if spec.trials is not None:
            msg = "cbind(success, failure) already says the number of trials: leave out trials=."
            raise ModelError(msg)


def _refuse_uncensored(seen: Observation, family: Family) -> None:
    """Raise ModelError for a family that cannot say how likely it is to be above or below a value."""
    if not family.censorable:
        others = enumerate_names(
            [name for name, one in FAMILIES.items() if one.censorable and (one.of_times or not seen.times)], limit=20
        )
        msg = f"The {family.name} family takes no {seen.text}: that is for {others}."
        raise ModelError(msg)
    if seen.times and not family.of_times:
        msg = (
            f"Times are no {family.name} responses: say family='weibull' (or 'exponential', 'loglogistic', "
            "'lognormal', 'gamma', 'gompertz'). A censored response that may be negative is written cens(y, status)."
        )
        raise ModelError(msg)


def _column(argument: str, name: object) -> str | None:
    if name is None or isinstance(name, str):
        return name
    msg = f"{argument}= names a column by a string, not {type(name).__name__}; make a column of an expression first."
    raise ModelError(msg)
