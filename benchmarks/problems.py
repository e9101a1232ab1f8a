"""The problems: models with a source of data and, where known, the right log-likelihood.

Everything is fitted by maximum likelihood, so that log-likelihoods compare between packages. This module imports
nothing heavy: the process that measures others must stay small.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Literal

Size = Literal["small", "medium", "large"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One model on one data set.

    source   "dataset:NAME" ships with the package; "reference:NAME" is NAME.csv in the folder that the environment
             variable POLARS_GLMM_REFERENCE names; "generated:NAME:key=value,…" is a function of generators.py
    random   (terms, group) pairs: (("1 + x", "g"),) is (1 + x | g)
    nodes    of adaptive quadrature; 1 is Laplace, or exact for gaussian
    further  formulas of the other predictors, as polars_glmm reads them
    residual correlation of the residuals, as polars_glmm reads it
    trials   column of binomial trials
    by       column of keys: one model each
    scan     polars_glmm reads a Parquet file within the time; the others have the data in memory
    loglik   from a corpus of reference fits that two engines agree on
    seconds, ratio   what we aim at: time of one fit on two threads, and time relative to the fastest right peer
    """

    name: str
    structure: str
    size: Size
    source: str
    response: str
    fixed: str
    random: tuple[tuple[str, str], ...]
    family: str = "gaussian"
    nodes: int = 1
    further: tuple[str, ...] = ()
    residual: str | None = None
    trials: str | None = None
    by: str | None = None
    scan: bool = False
    loglik: float | None = None
    seconds: float | None = None
    ratio: float | None = None

    @property
    def bars(self) -> str:
        """The random part of the formula: `(1 + x | g) + (1 | h)`."""
        return " + ".join(f"({terms} | {group})" for terms, group in self.random)

    @property
    def groups(self) -> tuple[str, ...]:
        """Grouping factors, each once, in order."""
        return tuple(dict.fromkeys(group for _, group in self.random))

    @property
    def slopes(self) -> bool:
        """Some term has more than an intercept."""
        return any(terms != "1" for terms, _ in self.random)

    @property
    def plain(self) -> bool:
        """A model of one predictor that every package for mixed models knows."""
        return self.family in ("gaussian", "binomial", "poisson") and not self.further and self.residual is None

    @property
    def zeros(self) -> str:
        """The right side of the formula of zeros, "" without one."""
        return next((text.partition("~")[2].strip() for text in self.further if text.startswith("zi")), "")

    def formula(self, response: str | None = None) -> str:
        """The whole formula as in lme4, with another left side if given."""
        return f"{response or self.response} ~ {self.fixed} + {self.bars}"

    def to_json(self, *, brief: bool = False) -> str:
        """One line that `from_json` reads; `brief` leaves defaults out, for trees that know fewer fields."""
        usual = {one.name: one.default for one in fields(self)} if brief else {}
        return json.dumps({name: value for name, value in asdict(self).items() if value != usual.get(name, MISSING)})

    @classmethod
    def from_json(cls, text: str) -> Problem:
        """The problem that `to_json` wrote."""
        found = json.loads(text)
        pairs = tuple(tuple(pair) for pair in found["random"])
        return cls(**found | {"random": pairs, "further": tuple(found.get("further", ()))})


def _w3(
    name: str, rows: int, size: Size, seconds: float | None, ratio: float | None, *, slope: bool = False
) -> Problem:
    return Problem(
        name, "one factor, slope" if slope else "one factor", size, f"generated:w3:rows={rows}",
        "ys" if slope else "y", "x1 + x2 + b1 + b2", (("1 + x1" if slope else "1", "g"),), "binomial",
        seconds=seconds, ratio=ratio,
    )  # fmt: skip


def _w5(name: str, rows: int, users: int, items: int, *, family: str, ratio: float) -> Problem:
    return Problem(
        name, "crossed", "medium" if rows < 10**6 else "large",
        f"generated:w5:rows={rows},users={users},items={items}", f"y{family[0]}", "x1 + x2",
        (("1", "user"), ("1", "item")), {"b": "binomial", "p": "poisson", "g": "gaussian"}[family[0]], ratio=ratio,
    )  # fmt: skip


_TOENAIL = {
    "source": "dataset:toenail", "response": "y", "fixed": "treatment * time", "random": (("1", "patientID"),),
    "family": "binomial",
}  # fmt: skip
_CBPP = {
    "source": "dataset:cbpp", "response": "incidence", "fixed": "period", "random": (("1", "herd"),),
    "family": "binomial", "trials": "size",
}  # fmt: skip
_W4 = {
    "structure": "one factor, few cells", "response": "y", "fixed": "a + b + c", "random": (("1", "g"),),
    "family": "poisson",
}  # fmt: skip
_OWLS = {
    "structure": "two parts", "size": "small", "response": "SiblingNegotiation",
    "fixed": "FoodTreatment * SexParent + logBroodSize", "random": (("1", "Nest"),),
}  # fmt: skip
_SALAMANDERS = {
    "structure": "two parts", "size": "small", "source": "reference:salamanders", "response": "count",
    "fixed": "mined + spp", "random": (("1", "site"),), "further": ("zi ~ mined",),
}  # fmt: skip
_W6 = {"structure": "one factor, slope", "response": "y", "fixed": "x", "random": (("1 + x", "g"),)}

_ALL = (
    # small data: the time of the call itself
    Problem("sleepstudy", "one factor, slope", "small", "dataset:sleepstudy", "Reaction", "Days",
            (("Days", "Subject"),), loglik=-875.969672231599, seconds=0.010),
    Problem("pig", "one factor", "small", "reference:pig", "weight", "week", (("1", "id"),),
            loglik=-1014.92679357826, seconds=0.010),
    Problem("cbpp", "one factor", "small", **_CBPP, loglik=-92.02628186, seconds=0.010),
    Problem("cbpp_agq9", "one factor, quadrature", "small", **_CBPP, nodes=9, loglik=-91.9833717963345),
    Problem("kubo", "one factor", "small", "reference:kubo_seeds", "y", "x", (("1", "id"),), "binomial", trials="N",
            loglik=-200.591774579454, seconds=0.010),
    Problem("toenail", "one factor", "small", **_TOENAIL, loglik=-627.808934220406, seconds=0.010),
    Problem("toenail_agq9", "one factor, quadrature", "small", **_TOENAIL, nodes=9, loglik=-625.566769271302),
    Problem("grouseticks", "nested and crossed", "small", "dataset:grouseticks", "TICKS", "YEAR + cHEIGHT",
            (("1", "BROOD"), ("1", "INDEX"), ("1", "LOCATION")), "poisson", loglik=-890.271330087398, seconds=0.060),
    Problem("verbagg", "crossed", "small", "dataset:verbagg", "r2", "Anger + Gender + btype + situ",
            (("1", "id"), ("1", "item")), "binomial", seconds=0.150),
    Problem("insteval", "crossed", "medium", "dataset:insteval", "y", "service",
            (("1", "s"), ("1", "d"), ("1", "dept")), loglik=-118860.884387247, seconds=1.5, ratio=0.6),
    # one factor, many rows
    _w3("w3_1e4", 10**4, "small", None, None),
    _w3("w3_1e5", 10**5, "medium", 0.25, 0.6),
    _w3("w3_1e6", 10**6, "large", 1.5, 0.3),
    _w3("w3_1e7", 10**7, "large", None, 0.2),
    _w3("w3_slope_1e4", 10**4, "small", None, None, slope=True),
    _w3("w3_slope_1e5", 10**5, "medium", None, 0.5, slope=True),
    _w3("w3_slope_1e6", 10**6, "large", None, 0.3, slope=True),
    Problem("w4_1e5", size="medium", source="generated:w4:rows=100000", **_W4),
    Problem("w4_1e6", size="large", source="generated:w4:rows=1000000", **_W4, ratio=0.1),
    Problem("w4_1e7", size="large", source="generated:w4:rows=10000000", **_W4, ratio=0.1),
    Problem("w6_1e5", size="medium", source="generated:w6:rows=100000", **_W6),
    Problem("w6_1e6", size="large", source="generated:w6:rows=1000000", **_W6, ratio=1.0),
    Problem("w6_1e6_scan", size="large", source="generated:w6:rows=1000000", **_W6, scan=True, ratio=1.0),
    Problem("w6_1e7_scan", size="large", source="generated:w6:rows=10000000", **_W6, scan=True, ratio=1.0),
    # crossed and nested
    _w5("w5_binomial_1e5", 10**5, 5000, 1000, family="binomial", ratio=1.0),
    _w5("w5_poisson_1e5", 10**5, 5000, 1000, family="poisson", ratio=0.35),
    _w5("w5_gaussian_1e5", 10**5, 5000, 1000, family="gaussian", ratio=0.7),
    _w5("w5_poisson_1e6", 10**6, 50_000, 5000, family="poisson", ratio=0.5),
    _w5("w5_gaussian_1e6", 10**6, 50_000, 5000, family="gaussian", ratio=0.6),
    Problem("w8", "nested", "medium", "generated:w8:", "y", "x1 + x2", (("1", "school"), ("1", "cls")), "binomial",
            ratio=0.25),
    # other families, several predictors, correlated residuals
    Problem("owls_zip", source="reference:owls", family="poisson", further=("zi ~ 1",), **_OWLS),
    Problem("owls_zinb", source="reference:owls", family="negative_binomial", further=("zi ~ 1",), **_OWLS),
    Problem("salamanders_zip", family="poisson", **_SALAMANDERS),
    Problem("salamanders_zinb", family="negative_binomial", **_SALAMANDERS),
    Problem("salamanders_hurdle", family="truncated_poisson", **_SALAMANDERS),
    Problem("zinb_1e5", "two parts", "medium", "generated:zero_inflated:rows=100000,levels=2000", "y", "x1 + x2",
            (("1", "g"),), "negative_binomial", further=("zi ~ x1",), ratio=0.2),
    Problem("wine", "ordinal", "small", "reference:wine", "rating", "temp + contact", (("1", "judge"),), "cumulative"),
    Problem("ordinal_1e5", "ordinal", "medium", "generated:ordered:rows=100000", "y", "x1 + x2", (("1", "g"),),
            "cumulative", ratio=0.2),
    Problem("pig_ar1", "correlated residuals", "small", "reference:pig", "weight", "week", (("1", "id"),),
            residual="ar1(week | id)"),
    Problem("ar1_1e5", "correlated residuals", "medium", "generated:autoregressive:rows=100000", "y", "x",
            (("1", "g"),), residual="ar1(t | g)", ratio=0.2),
    # many models
    Problem("w7", "many models", "medium", "generated:w7:", "y", "x", (("1", "g"),), "poisson", by="m", ratio=0.5),
)  # fmt: skip

PROBLEMS = {problem.name: problem for problem in _ALL}


def select(names: list[str]) -> tuple[Problem, ...]:
    """The problems of these names; "small", "medium" and "large" stand for all of that size.

    Raises SystemExit for a name that is none of these.
    """
    chosen: dict[str, Problem] = {}
    for name in names:
        found = [problem for problem in _ALL if name in (problem.name, problem.size)]
        if not found:
            raise SystemExit(f"There is no problem {name!r}. Known: small, medium, large, {', '.join(PROBLEMS)}.")
        chosen |= {problem.name: problem for problem in found}
    return tuple(chosen.values())
