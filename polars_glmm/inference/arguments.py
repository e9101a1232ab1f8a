"""Arguments that several verbs share, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from polars_glmm.inference.adjust import Adjustment
    from polars_glmm.inference.contrasts import ContrastLike
    from polars_glmm.inference.covariance import CovarianceChoice, DegreesOfFreedom
    from polars_glmm.typing import Kind

Part: TypeAlias = Literal["beta", "theta", "u"]
PARTS: tuple[Part, ...] = ("beta", "theta", "u")


class HowTested(TypedDict, total=False):
    """By which covariance, degrees of freedom and level."""

    df: DegreesOfFreedom
    vcov: CovarianceChoice
    conf_level: float


class HowMeans(HowTested, total=False):
    """How marginal means are averaged and shown."""

    weights: str
    random: Literal["none", "integrate"]
    scale: Literal["response", "link"]
    kind: Kind
    contrast: ContrastLike
    adjust: Adjustment | None
    offset: float | Literal["mean"] | None
    average: Literal["link", "response"]


class HowEffects(HowTested, total=False):
    """At which random effects and on which scale rows are predicted."""

    random: str | Sequence[str]
    scale: Literal["response", "link"]
    kind: Kind
