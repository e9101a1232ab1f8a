"""The natural parameters of a model by name: fixed effects, standard deviations, correlations, dispersion."""

from __future__ import annotations

from typing import NamedTuple

from polars_glmm.likelihood.model import AnyModel
from polars_glmm.likelihood.parameters.effects import TermMap


class Block(NamedTuple):
    """Where one term's parameters live: its factor in order of elimination, the term, and its first sd."""

    factor: int
    term: TermMap
    start: int

    @property
    def n_cor(self) -> int:
        return self.term.r * (self.term.r - 1) // 2 if self.term.structure == "us" else 0


def parameter_names(model: AnyModel) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """Names of the natural parameters, and where the covariance parameters of each term stand among them."""
    names = list(model.names)
    blocks = []
    factors = model.effects.factors
    for i in sorted(range(len(factors)), key=lambda i: factors[i].place):
        f = factors[i]
        for t in f.terms:
            blocks.append(Block(i, t, len(names)))
            names += [f"sd({f.name}: {name})" for name in t.names]
            if t.structure == "us":
                names += [f"cor({f.name}: {t.names[k]}, {t.names[j]})" for j in range(t.r) for k in range(j)]
    if model.phi_names is not None:
        names += [f"phi: {name}" for name in model.phi_names]
    elif model.family.has_phi:
        names.append("phi")
    return tuple(blocks), tuple(names)
