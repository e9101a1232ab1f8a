"""Which families a family holds as cases: what it ends at, and, of zeros beside its own, the family without them."""

from __future__ import annotations

from .base import Family
from .zero_inflated import ZeroInflated


def holds(outer: Family, inner: Family) -> bool:
    """Whether `inner` is `outer` or a case of it, on the same link.

    A negative binomial ends at Poisson, and zero inflation of probability 0 is none; a hurdle is never without its own
    law of zeros.
    """
    if (outer.name, outer.link.name) == (inner.name, inner.link.name):
        return True
    further = [outer.limit]
    if isinstance(outer, ZeroInflated) and outer.zeros_beside:
        further.append(outer.base)
    return any(one is not None and holds(one, inner) for one in further)
