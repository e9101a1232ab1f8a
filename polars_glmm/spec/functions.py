"""The functions a formula may call: a whitelist, their arguments, and nothing that could execute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from .syntax import Expression, FunctionCall

from polars_glmm.errors import suggest

from .forms import FORMS

Kind: TypeAlias = Literal["elementwise", "learned", "categorical", "contrast", "special", "curve"]


class Signature(NamedTuple):
    """kind, and the parameters in order; a name ending in '*' may be left out."""

    kind: Kind
    parameters: tuple[str, ...]


_SPLINE = ("df*", "knots*", "lower_bound*", "upper_bound*", "constraints*")
SIGNATURES: dict[str, Signature] = {
    **{
        name: Signature("elementwise", ("x",))
        for name in (
            "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "abs",
            "sin", "cos", "tan", "floor", "ceil", "round", "I",
        )
    },
    "pmin": Signature("elementwise", ("x", "y", "z*", "u*", "v*")),
    "pmax": Signature("elementwise", ("x", "y", "z*", "u*", "v*")),
    "ave": Signature("learned", ("x", "g")),
    "rcs": Signature("learned", ("x", "k*", "knots*")),
    "poly": Signature("learned", ("x", "degree*", "raw*")),
    "bs": Signature(
        "learned",
        ("x", "df*", "knots*", "degree*", "include_intercept*", "lower_bound*", "upper_bound*", "extrapolation*"),
    ),
    "ns": Signature("learned", ("x", "df*", "knots*", "include_intercept*", "lower_bound*", "upper_bound*")),
    "cr": Signature("learned", ("x", *_SPLINE)),
    "cc": Signature("learned", ("x", *_SPLINE)),
    "scale": Signature("learned", ("x", "center*", "scale*", "ddof*")),
    "standardize": Signature("learned", ("x", "center*", "rescale*", "ddof*")),
    "center": Signature("learned", ("x",)),
    "C": Signature("categorical", ("x", "contrasts*", "levels*")),
    "contr.treatment": Signature("contrast", ("base*",)),
    "contr.SAS": Signature("contrast", ("base*",)),
    "contr.sum": Signature("contrast", ()),
    "contr.helmert": Signature("contrast", ("reverse*", "scale*")),
    "contr.diff": Signature("contrast", ("backward*",)),
    "contr.poly": Signature("contrast", ("scores*",)),
    "offset": Signature("special", ("x",)),
    "cbind": Signature("special", ("success", "failure")),
    "surv": Signature("special", ("x", "y*", "z*", "kind*")),
    "cens": Signature("special", ("x", "y*", "z*", "kind*", "lower*", "upper*")),
    **{name: Signature("curve", (*form.inputs, *form.parameters)) for name, form in FORMS.items()},
}  # fmt: skip
"""Every function, under its canonical name."""

_ALIASES = {
    "cs": "cr", "factor": "C", "as.factor": "C", "ceiling": "ceil", "standardise": "standardize",
    "Treatment": "contr.treatment", "Sum": "contr.sum", "Helmert": "contr.helmert", "Diff": "contr.diff",
    "Poly": "contr.poly", "Surv": "surv", "Cens": "cens",
    **{f"np.{name}": name for name in SIGNATURES if SIGNATURES[name].kind == "elementwise" and name != "I"},
    **{f"numpy.{name}": name for name in SIGNATURES if SIGNATURES[name].kind == "elementwise" and name != "I"},
}  # fmt: skip
KEYWORDS = {
    "intercept": "include_intercept", "Intercept": "include_intercept", "reference": "base", "center": "center",
    "type": "kind",
}  # fmt: skip
"""Other names of parameters: R's and patsy's."""

ELSEWHERE = {
    "relevel": "Write C(f, contr.treatment(base='b')), also C(f, Treatment(reference='b')).",
    "reorder": "Write C(f, levels=['b', 'a']).",
    "ordered": "Write C(f, contr.poly).",
    "as.numeric": "A numeric column is a number already; cast another one in the frame.",
    "as.integer": "Cast the column in the frame.",
    "as.character": "Write C(x) for a numeric column as categories.",
    "cut": "Make the column in the frame: pl.col('x').cut([1, 2]).",
    "ifelse": "Write I(x > 3), or make the column in the frame with pl.when().",
    "lag": "Make the column in the frame: pl.col('x').shift(1).over('g').",
    "diff": "Make the column in the frame: pl.col('x').diff().over('g').",
    "mean": "Write ave(x, g) for the mean of x in the level of g, center(x) for x minus its mean.",
    "min": "Write pmin(x, y) for the smaller of two numbers in each row.",
    "max": "Write pmax(x, y) for the larger of two numbers in each row.",
    "interaction": "Write f:g.",
    "mm": "It is a grouping factor: (1 | mm(s1, s2)).",
    "mmc": "A covariate that differs between the levels of a row has no term here.",
    "ln": "Write log(x).",
    **dict.fromkeys(("Error", "strata", "cluster", "frailty", "re", "random"), "Write (1 | g): effects of its levels."),
    **dict.fromkeys(("categorical", "category", "as_factor", "dummy", "i"), "Write C(x): its values are labels."),
    **dict.fromkeys(("spline", "smooth", "pspline"), "Splines are ns(x, df=4), rcs(x, 4) and cr(x, df=4)."),
    **dict.fromkeys(
        ("lmer", "glmer", "glmmTMB", "lme", "lm", "glm", "mixed", "gam"),
        "A formula is all that is written: fit(frame, 'y ~ x + (1 | g)').",
    ),
    "s": "Smooth terms are splines: ns(x, df=4), rcs(x, 4), cr(x, df=4).",
    "te": "Smooth terms are splines: ns(x, df=4), rcs(x, 4), cr(x, df=4).",
    "weights": "Write precision=, frequency= or trials= beside the formula.",
}
"""Functions of other packages, and what to write."""

_LIKE = 0.65
"""Likeness from which a name is a slip of a function's."""
STRUCTURES_TO_COME = ("propto", "equalto")


RESPONSES = frozenset({"cbind", "surv", "cens"})
"""Functions that stand alone on the left of a formula."""


def bind(call: FunctionCall) -> dict[str, Expression]:
    """The arguments of a call by parameter."""
    names = [name.rstrip("*") for name in SIGNATURES[call.function].parameters]
    return {
        KEYWORDS.get(keyword, keyword) if keyword else names[position]: value
        for position, (keyword, value) in enumerate(call.arguments)
    }


def canonical(name: str) -> str | None:
    """The canonical name of a function, or None where it is not in the whitelist."""
    name = _ALIASES.get(name, name)
    return name if name in SIGNATURES else None


def instead(name: str) -> str:
    """What to write instead of a function that a formula cannot use: a sentence behind a space, or nothing."""
    return f" {ELSEWHERE[name]}" if name in ELSEWHERE else suggest(name, known_functions(), cutoff=_LIKE)


def known_functions() -> tuple[str, ...]:
    """Every name that canonical() understands."""
    return (*SIGNATURES, *_ALIASES)
