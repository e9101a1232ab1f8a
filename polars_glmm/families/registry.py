"""Names of families and links: the only place where strings become families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.families import links
from polars_glmm.families.base import Family
from polars_glmm.families.beta import Beta
from polars_glmm.families.beta_binomial import BetaBinomial
from polars_glmm.families.binomial import Binomial
from polars_glmm.families.categorical import Categorical
from polars_glmm.families.cumulative import Cumulative
from polars_glmm.families.event_times import Exponential, LogLogistic, Weibull
from polars_glmm.families.gamma import Gamma
from polars_glmm.families.gaussian import Gaussian
from polars_glmm.families.generalized_poisson import GeneralizedPoisson
from polars_glmm.families.gompertz import Gompertz
from polars_glmm.families.inverse_gaussian import InverseGaussian
from polars_glmm.families.lognormal import Lognormal
from polars_glmm.families.mean_family import MeanFamily
from polars_glmm.families.negative_binomial import NegativeBinomial
from polars_glmm.families.negative_binomial1 import NegativeBinomial1
from polars_glmm.families.poisson import Poisson
from polars_glmm.families.student_t import StudentT
from polars_glmm.families.truncated import (
    TruncatedNegativeBinomial,
    TruncatedNegativeBinomial1,
    TruncatedPoisson,
)
from polars_glmm.families.tweedie import Tweedie
from polars_glmm.families.zero_inflated import PARAMETER, ZeroInflated

FAMILIES: dict[str, type[MeanFamily]] = {
    "gaussian": Gaussian,
    "binomial": Binomial,
    "poisson": Poisson,
    "gamma": Gamma,
    "inverse_gaussian": InverseGaussian,
    "negative_binomial": NegativeBinomial,
    "negative_binomial1": NegativeBinomial1,
    "beta": Beta,
    "beta_binomial": BetaBinomial,
    "lognormal": Lognormal,
    "truncated_poisson": TruncatedPoisson,
    "truncated_negative_binomial": TruncatedNegativeBinomial,
    "truncated_negative_binomial1": TruncatedNegativeBinomial1,
    "student_t": StudentT,
    "generalized_poisson": GeneralizedPoisson,
    "tweedie": Tweedie,
    "cumulative": Cumulative,
    "categorical": Categorical,
    "exponential": Exponential,
    "weibull": Weibull,
    "loglogistic": LogLogistic,
    "gompertz": Gompertz,
}

ALIASES = {
    "normal": "gaussian",
    "ordinal": "cumulative",
    "multinomial": "categorical",
    "nominal": "categorical",
    "inverse.gaussian": "inverse_gaussian",
    "nb": "negative_binomial",
    "nbinom2": "negative_binomial",
    "nbinom1": "negative_binomial1",
    "beta_family": "beta",
    "betabinomial": "beta_binomial",
    "truncated_nbinom2": "truncated_negative_binomial",
    "truncated_nbinom1": "truncated_negative_binomial1",
    "t": "student_t",
    "t_family": "student_t",
    "genpois": "generalized_poisson",
    "llogistic": "loglogistic",
    "llogis": "loglogistic",
    "log_logistic": "loglogistic",
    "lnormal": "lognormal",
}

ELSEWHERE = {
    "negbin": "Write family='negative_binomial'.",
    "bernoulli": "Write family='binomial'; without trials= every row is one trial.",
    "zip": "Write family='poisson' and a further formula, \"zi ~ 1\".",
    "zinb": "Write family='negative_binomial' and a further formula, \"zi ~ 1\".",
    "zero_inflated_poisson": "Write family='poisson' and a further formula, \"zi ~ 1\".",
    "zero_inflated_negative_binomial": "Write family='negative_binomial' and a further formula, \"zi ~ 1\".",
    "zero_inflated_beta": "Write family='beta' and a further formula, \"zi ~ 1\".",
    "hurdle": "Write family='truncated_poisson' or 'truncated_negative_binomial' and a further formula, \"zi ~ 1\".",
    "zero_one_inflated_beta": "Ones of their own have no family here: family='beta' with \"zi ~ 1\" has zeros, and the "
    "share of ones beside the rest is a family='binomial' of its own.",
    "com_poisson": "Counts that vary less than Poisson's are family='generalized_poisson'.",
    "compois": "Counts that vary less than Poisson's are family='generalized_poisson'.",
    "sequential": "Ordered categories are family='cumulative'; continuation ratios are family='binomial' of rows that "
    "stand for each step reached.",
    "quasi": "A quasi-likelihood has no density; family='gamma' or 'negative_binomial' estimate a dispersion.",
    "quasibinomial": "A quasi-likelihood has no density; for overdispersion add an observation-level effect (1 | row).",
    "quasipoisson": "A quasi-likelihood has no density; for overdispersion use family='negative_binomial' "
    "or add an observation-level effect (1 | row).",
}
"""What people ask for by another name, and the nearest thing there is."""


def with_zeros(family: Family) -> Family:
    """The family with zeros of their own, whose probability has a formula. Raises ModelError where these are none."""
    if isinstance(family, ZeroInflated):
        return family
    if not isinstance(family, MeanFamily):
        raise ModelError(f"A formula for {PARAMETER} is of the families of this package.")
    return ZeroInflated(family)


def is_unordered(family: str | Family) -> bool:
    """Whether a family, or the one of a name, is of unordered categories; a name that is none is not."""
    if isinstance(family, str):
        return getattr(FAMILIES.get(_key(family)), "unordered", False) is True
    return getattr(family, "unordered", False) is True


def _key(name: str) -> str:
    """The name of a family as the registry has it."""
    key = name.strip().lower()
    return ALIASES.get(key, key)


def resolve_family(
    family: str | Family, link: str | None = None, held: Mapping[str, float | str] | None = None
) -> Family:
    """The family of a name or an object, with the named link or its default one, and what else it is made with.

    Raises ModelError for a name or link that does not exist, and for a link beside an object that has another.
    """
    if not isinstance(family, str):
        if isinstance(family, type):
            raise ModelError(f"family= got the class {family.__name__}; write {family.__name__}() or its name.")
        if not isinstance(family, Family):
            raise ModelError(f"family= needs a name or a family object, not {type(family).__name__}.")
        if link is None or links.ALIASES.get(link, link) == family.link.name:
            return family
        raise ModelError(f"link={link!r} given beside {family!r}; give the link in one place.")
    key = _key(family)
    if key not in FAMILIES:
        hint = ELSEWHERE.get(key) or suggest(key, [*FAMILIES, *ALIASES]).strip()
        known = enumerate_names(list(FAMILIES), limit=len(FAMILIES))
        raise ModelError(f"There is no family {family!r}; there are {known}. {hint}".rstrip())
    arguments: dict[str, Any] = dict(held or {})
    return FAMILIES[key](link, **arguments)
