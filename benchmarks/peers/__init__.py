"""One adapter per package.

A Python adapter is a module with four functions. Only what `prepare` returns is timed, and only adapters import their
package.

    refuses(problem) -> str                              why the package cannot fit this model, "" if it can
    prepare(frame, problem, threads, **options) -> call  converts the data; call() fits with standard errors
    answer(fitted) -> Answer                             what was found, from what call() returned
    versions() -> dict                                   of the package and what it computes with

`BY = True` says that the adapter fits all models of `problem.by` in one call; for the others worker.py loops over
frames split beforehand. An R adapter is a file with `refuses`, `fit`, `answer` and `packages`; time.R is its worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What a fit found: log-likelihood with all constants, and fixed effects in the package's order."""

    loglik: float
    beta: list[float]


@dataclass(frozen=True, slots=True)
class Peer:
    """An adapter with its options.

    engine      the package: two adapters of one engine do not confirm each other
    exact       its log-likelihood is computed, not sampled
    alike       it gets the rows and computes default standard errors; only then may it be a denominator
    """

    engine: str
    language: str = "python"
    exact: bool = True
    alike: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    remark: str = ""


PEERS = {
    "ours": Peer("ours"),
    "glmm": Peer("glmm"),
    "glmm-lean": Peer(
        "glmm", alike=False, options={"lean": True}, remark="no exact Hessian, no Satterthwaite, no LRT refits"
    ),
    "glmm-by-hand": Peer(
        "glmm", alike=False, options={"aggregate": True}, remark="Poisson counts added up by hand first, in the time"
    ),
    "mixedlm": Peer("mixedlm"),
    "gpboost": Peer(
        "gpboost", exact=False, remark="delta_rel_conv=1e-9; stochastic log-determinant with several factors"
    ),
    "gpboost-cholesky": Peer(
        "gpboost", options={"inversion": "cholesky"}, remark="delta_rel_conv=1e-9; exact with several factors"
    ),
    "statsmodels": Peer("statsmodels", remark="MixedLM"),
    "lme4": Peer("lme4", language="r"),
    "glmmTMB": Peer("glmmTMB", language="r"),
    "ordinal": Peer("ordinal", language="r", remark="clmm"),
    "nlme": Peer("nlme", language="r", remark="lme"),
}
