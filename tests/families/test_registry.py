"""Names become families in one place, and wrong names are answered with what there is."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from polars_glmm.errors import ModelError
from polars_glmm.families import (
    Binomial,
    Family,
    Gamma,
    Gaussian,
    InverseGaussian,
    Poisson,
    StudentT,
    Tweedie,
    resolve_family,
)
from polars_glmm.families.registry import FAMILIES

NAMED = [
    ("gaussian", None, "Gaussian(link='identity')"), ("normal", "log", "Gaussian(link='log')"),
    ("binomial", None, "Binomial(link='logit')"), ("binomial", "cloglog", "Binomial(link='cloglog')"),
    ("poisson", None, "Poisson(link='log')"), ("Gamma", None, "Gamma(link='log')"),
    ("inverse.gaussian", "1/mu^2", "InverseGaussian(link='inverse_squared')"),
    ("inverse_gaussian", None, "InverseGaussian(link='log')"),
    ("nbinom1", None, "NegativeBinomial1(link='log')"), ("nbinom2", None, "NegativeBinomial(link='log')"),
    ("beta_family", "probit", "Beta(link='probit')"), ("betabinomial", None, "BetaBinomial(link='logit')"),
    ("lognormal", None, "Lognormal(link='identity')"), ("t", None, "StudentT(df=4)"),
    ("tweedie", "log", "Tweedie(power=None)"), ("ordinal", "probit", "Cumulative(link='probit')"),
    ("truncated_nbinom1", None, "TruncatedNegativeBinomial1(link='log')"),
    ("truncated_nbinom2", None, "TruncatedNegativeBinomial(link='log')"),
    ("truncated_poisson", None, "TruncatedPoisson(link='log')"), ("genpois", None, "GeneralizedPoisson(link='log')"),
    ("llogis", None, "LogLogistic(link='log')"), ("weibull", None, "Weibull(metric='aft')"),
    ("nb", None, "NegativeBinomial(link='log')"), ("negative_binomial", "log", "NegativeBinomial(link='log')"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "link", "shown"), NAMED)
def test_names_resolve(name, link, shown):
    assert repr(resolve_family(name, link)) == shown


WRONG = [
    ("poison", None, "There is no family 'poison'.* Did you mean 'poisson'"),
    ("multinom", None, "There is no family 'multinom'; there are 'gaussian', .* and 'gompertz'"),
    ("quasipoisson", None, "no density; .*'negative_binomial'"),
    ("bernoulli", None, "family='binomial'"),
    ("binomial", "probti", "binomial has no link 'probti'; it has 'logit', .* Did you mean 'probit'"),
    ("gaussian", "inverse", "gaussian has no link 'inverse'; it has 'identity' and 'log'"),
    ("poisson", "logit", "poisson has no link 'logit'; it has 'log', 'identity' and 'sqrt'"),
    (Poisson(), "sqrt", "link='sqrt' given beside Poisson"),
    (Poisson, None, r"got the class Poisson; write Poisson\(\)"),
    (3, None, "needs a name or a family object, not int"),
]


@pytest.mark.parametrize(("family", "link", "message"), WRONG, ids=str)
def test_wrong_names_are_answered_with_what_there_is(family, link, message):
    with pytest.raises(ModelError, match=message):
        resolve_family(family, link)


def test_an_object_is_itself():
    family = Binomial(link="probit")
    assert resolve_family(family) is family
    assert resolve_family(family, "probit") is family
    assert resolve_family(InverseGaussian("1/mu^2"), "1/mu^2").link.name == "inverse_squared"


def test_families_are_plain_values(family):
    assert isinstance(family, Family)
    again = pickle.loads(pickle.dumps(family))  # noqa: S301 our own bytes
    assert again == family
    assert hash(again) == hash(family)
    assert repr(again) == repr(family)
    assert family == type(family)(link=family.link, **family.held)
    with pytest.raises(AttributeError):
        family.link = None


def test_families_and_links_tell_apart():
    members = [cls(link) for cls in FAMILIES.values() for link in cls.links]
    assert len(set(members)) == len(members)
    assert Gaussian("log") != Gamma("log")


def test_a_dispersion_is_described(family):
    assert bool(family.phi_definition) == family.has_phi


def test_facts_of_the_table():
    takes = {name: (cls().has_phi, cls().takes_trials, cls().takes_precision) for name, cls in FAMILIES.items()}
    assert takes == {
        "gaussian": (True, False, True),
        "binomial": (False, True, False),
        "poisson": (False, False, False),
        "gamma": (True, False, True),
        "inverse_gaussian": (True, False, True),
        "negative_binomial": (True, False, False),
        "negative_binomial1": (True, False, False),
        "beta": (True, False, False),
        "beta_binomial": (True, True, False),
        "lognormal": (True, False, False),
        "truncated_poisson": (False, False, False),
        "truncated_negative_binomial": (True, False, False),
        "truncated_negative_binomial1": (True, False, False),
        "student_t": (True, False, False),
        "generalized_poisson": (True, False, False),
        "tweedie": (True, False, False),
        "cumulative": (False, False, False),
        "categorical": (False, False, False),
        "exponential": (False, False, False),
        "weibull": (True, False, False),
        "loglogistic": (True, False, False),
        "gompertz": (False, False, False),
    }
    canonical = {repr(f) for cls in FAMILIES.values() for link in cls.links if (f := cls(link)).canonical}
    assert canonical == {
        "Gaussian(link='identity')", "Binomial(link='logit')", "Poisson(link='log')", "Gamma(link='inverse')",
        "InverseGaussian(link='inverse_squared')", "Categorical(link='logit')",
        "Lognormal(link='identity')", "TruncatedPoisson(link='log')",
    }  # fmt: skip


def test_importing_the_package_does_not_import_scipy():
    code = "import sys, polars_glmm; sys.exit(any(name.split('.')[0] == 'scipy' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_number_that_a_family_holds_is_part_of_it():
    assert StudentT(df=3) != StudentT(df=4) == resolve_family("student_t")
    assert pickle.loads(pickle.dumps(Tweedie(power=1.7))).power == 1.7  # noqa: S301 our own bytes
    for wrong in (lambda: StudentT(df=0.0), lambda: StudentT(df=float("inf")), lambda: Tweedie(power=2.0)):
        with pytest.raises(ModelError, match=r"between|above 0"):
            wrong()
