"""What kind of model a fit is, and by what method, in words."""

from __future__ import annotations

from polars_glmm.answer.record import Answer


def title(fit: Answer) -> str:
    """What kind of model."""
    kind = "Linear" if _linear(fit) else "Generalized linear" if fit.spec.family.curve is None else "Nonlinear"
    return kind + (" mixed model" if fit.estimate.factors else " model")


def _linear(fit: Answer) -> bool:
    return fit.spec.family.linear


def method_in_words(fit: Answer) -> str:
    """The method as a reader of a paper would write it."""
    method = fit.spec.method
    match method.name:
        case "reml":
            return "restricted maximum likelihood (REML)"
        case "ml" | "laplace" | "agq" if _linear(fit) and len(fit.estimate.gamma) and not _effects_on_phi(fit):
            return "maximum likelihood (exact: the integral over the random effects is gaussian)"
        case "laplace" if fit.estimate.factors:
            expected = ", expected curvature" if getattr(method, "curvature", "observed") == "expected" else ""
            return f"maximum likelihood, Laplace approximation{expected}"
        case "agq" if fit.estimate.factors:
            nodes = getattr(method, "nodes", 0)
            return f"maximum likelihood, adaptive Gauss-Hermite quadrature ({nodes} nodes)"
    return "maximum likelihood"


def _effects_on_phi(fit: Answer) -> bool:
    return any(part.random for part in fit.spec.predictors[1:])
