"""Estimation methods as plain records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from polars_glmm.errors import ModelError, suggest


@dataclass(frozen=True, slots=True)
class ML:
    """Maximum likelihood: exact for gaussian-identity models and for models without random effects."""

    name = "ml"


@dataclass(frozen=True, slots=True)
class REML:
    """Restricted maximum likelihood (Patterson & Thompson 1971) for gaussian-identity models."""

    name = "reml"


@dataclass(frozen=True, slots=True)
class Laplace:
    """Laplace approximation of the marginal likelihood.

    curvature   "observed": −∂²log p/∂η², the Laplace approximation itself (as TMB);
                "expected": the working weights (as lme4 and MixedModels.jl). Equal for canonical links.
    """

    curvature: Literal["observed", "expected"] = "observed"
    name = "laplace"

    def __post_init__(self) -> None:
        if self.curvature not in ("observed", "expected"):
            msg = f"Laplace(curvature={self.curvature!r}): use 'observed' or 'expected'."
            raise ModelError(msg)


@dataclass(frozen=True, slots=True)
class AGQ:
    """Adaptive Gauss–Hermite quadrature with `nodes` points per random effect (Pinheiro & Bates 1995)."""

    nodes: int = 9
    name = "agq"

    def __post_init__(self) -> None:
        if not isinstance(self.nodes, int) or self.nodes < 1:
            msg = f"AGQ(nodes={self.nodes!r}): the number of nodes is a whole number of at least 1."
            raise ModelError(msg)


Method: TypeAlias = ML | REML | Laplace | AGQ
_BY_NAME: dict[str, Method] = {"ml": ML(), "reml": REML(), "laplace": Laplace(), "agq": AGQ()}


def resolve_method(method: str | Method) -> Method:
    """The method behind a name; objects pass through."""
    if not isinstance(method, str):
        if isinstance(method, ML | REML | Laplace | AGQ):
            return method
        msg = (
            f"method={method!r} is not a method: use 'reml', 'ml', 'laplace' or REML(), ML(), Laplace(), AGQ(nodes=9)."
        )
        raise ModelError(msg)
    try:
        return _BY_NAME[method.lower()]
    except KeyError:
        msg = f"method={method!r} is not known.{suggest(method, _BY_NAME)} Use 'reml', 'ml', 'laplace' or AGQ(nodes=9)."
        raise ModelError(msg) from None
