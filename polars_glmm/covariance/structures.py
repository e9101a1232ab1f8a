"""Covariance structures of random effects: from working parameters θ to a factor Λ of Σ = ΛΛ', and back.

ℓ is even in every column of Λ, so there are no bounds, and a zero variance is an interior stationary point
(Bates et al. 2015, §3.1, without the constraint on the diagonal). Of some structures the parameters are entries of Λ
itself; of the others Λ bends in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np

from polars_glmm.typing import Cube, IntVec, Mat, Vec

from .factors import canonical_factor, trapezoid
from .fields import FIELDS, Field, Points, read_field, spelled
from .roots import Alike, MarkovChain, Stationary, Uncorrelated
from .scaled import Scaled


@runtime_checkable
class Structure(Protocol):
    """A family of covariance matrices of r effects, by a factor.

    correlated   effects may have covariances
    invariant    any linear map of the effects leaves the family as it is
    free_scale   effects may be rescaled one by one; otherwise only all of them together
    bends        Λ is no linear function of its parameters, or not of single entries: the structure is `Scaled`
    plural       it means nothing for a single effect
    """

    @property
    def name(self) -> str: ...
    @property
    def words(self) -> str: ...
    @property
    def correlated(self) -> bool: ...
    @property
    def invariant(self) -> bool: ...
    @property
    def free_scale(self) -> bool: ...
    @property
    def bends(self) -> bool: ...
    @property
    def plural(self) -> bool: ...

    def size(self, r: int) -> int:
        """Number of parameters."""

    def rank(self, r: int) -> int:
        """The rank of Σ inside the family."""

    def factor(self, theta: Vec, r: int) -> Mat:
        """Λ (r, r)."""

    def pull(self, theta: Vec, r: int, gradient: Mat) -> Vec:
        """∂ℓ/∂θ from ∂ℓ/∂Λ (r, r)."""

    def tangent(self, theta: Vec, r: int) -> Cube:
        """∂Λ/∂θ (size, r, r)."""

    def entries(self, r: int) -> tuple[IntVec, IntVec]:
        """Rows and columns of Λ that the parameters fill, in their order; not of a structure that bends."""

    def vech(self, r: int) -> tuple[IntVec, IntVec]:
        """Rows and columns of the entries of Σ that determine it and are therefore reported."""

    def start(self, r: int, sizes: Vec) -> Vec:
        """θ of independent effects with standard deviations `sizes` (r,), or as near to that as there is a slope."""

    def of(self, sigma: Mat) -> Vec:
        """θ of a covariance matrix of the family."""


@lru_cache(maxsize=64)
def _lower_triangle(r: int) -> tuple[IntVec, IntVec]:
    rows, columns = np.tril_indices(r)
    rows.setflags(write=False)
    columns.setflags(write=False)
    return rows, columns


def _diagonal(r: int) -> tuple[IntVec, IntVec]:
    rows, columns = np.diag_indices(r)
    return rows, columns


class _Entries:
    """What is the same for all structures whose parameters are entries of Λ."""

    __slots__ = ()

    bends = False
    plural = False
    free_scale = True

    def entries(self, r: int) -> tuple[IntVec, IntVec]:
        raise NotImplementedError

    def size(self, r: int) -> int:
        return len(self.entries(r)[0])

    def factor(self, theta: Vec, r: int) -> Mat:
        factor = np.zeros((r, r))
        factor[self.entries(r)] = theta
        return factor

    def pull(self, theta: Vec, r: int, gradient: Mat) -> Vec:  # noqa: ARG002  the same everywhere
        return np.asarray(gradient[self.entries(r)])

    def tangent(self, theta: Vec, r: int) -> Cube:  # noqa: ARG002
        return units(*self.entries(r), r)

    def start(self, r: int, sizes: Vec) -> Vec:
        return np.asarray(np.diag(sizes)[self.entries(r)])


def units(rows: IntVec, columns: IntVec, r: int) -> Cube:
    """One matrix (r, r) with a single 1 for each entry."""
    out = np.zeros((len(rows), r, r))
    out[np.arange(len(rows)), rows, columns] = 1.0
    return out


@dataclass(frozen=True, slots=True)
class Unstructured(_Entries):
    """Any covariance matrix: the lower triangle of Λ by rows."""

    name = "us"
    words = "any covariance matrix"
    correlated = True
    invariant = True

    def entries(self, r: int) -> tuple[IntVec, IntVec]:
        return _lower_triangle(r)

    def vech(self, r: int) -> tuple[IntVec, IntVec]:
        return _lower_triangle(r)

    def rank(self, r: int) -> int:
        return r

    def of(self, sigma: Mat) -> Vec:
        return np.asarray(trapezoid(canonical_factor(sigma, 0.0)[0], len(sigma))[self.entries(len(sigma))])


@dataclass(frozen=True, slots=True)
class Diagonal(_Entries):
    """Independent effects: the diagonal of Λ."""

    name = "diag"
    words = "independent effects"
    correlated = False
    invariant = False

    def entries(self, r: int) -> tuple[IntVec, IntVec]:
        return _diagonal(r)

    def vech(self, r: int) -> tuple[IntVec, IntVec]:
        return _diagonal(r)

    def rank(self, r: int) -> int:
        return r

    def of(self, sigma: Mat) -> Vec:
        return np.sqrt(np.diag(sigma))


@dataclass(frozen=True, slots=True)
class ReducedRank(_Entries):
    """Covariance matrices of rank d: r effects are combinations of d latent ones.

    Λ (r, d) is lower trapezoidal: its zeros fix the rotation of the latent effects (as the loadings of a factor
    analysis; Warton et al. 2015).
    """

    d: int

    correlated = True
    invariant = True

    @property
    def name(self) -> str:
        return f"rr({self.d})"

    @property
    def words(self) -> str:
        return f"of rank {self.d}"

    def entries(self, r: int) -> tuple[IntVec, IntVec]:
        rows, columns = _lower_triangle(r)
        keep = columns < self.d
        return rows[keep], columns[keep]

    def vech(self, r: int) -> tuple[IntVec, IntVec]:
        return _lower_triangle(r)

    def rank(self, r: int) -> int:
        return min(self.d, r)

    def of(self, sigma: Mat) -> Vec:
        factor, _ = canonical_factor(sigma, 1e-12 * float(np.trace(sigma)))
        return np.asarray(trapezoid(factor, len(sigma))[self.entries(len(sigma))])


def _learned(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",")) if text else ()


_NAMED: Mapping[str, Structure] = {
    "us": Unstructured(),
    "diag": Diagonal(),
    "id": Scaled("id", "independent effects of equal variance", Uncorrelated(), equal=True),
    "cs": Scaled("cs", "one correlation between any two effects", Alike(), equal=False),
    "homcs": Scaled("homcs", "equal variances, one correlation between any two effects", Alike(), equal=True),
    "toep": Scaled("toep", "a correlation for every distance", Stationary(), equal=False),
    "homtoep": Scaled("homtoep", "equal variances, a correlation for every distance", Stationary(), equal=True),
}  # fmt: skip
_PLACED = {
    "ar1": ("equal variances, correlation ρ^distance in order (autoregressive of order 1)", 1, True),
    "hetar1": ("correlation ρ^distance in order (autoregressive of order 1)", 1, False),
    "ou": ("equal variances, correlation exp(−distance/range) in time (Ornstein–Uhlenbeck)", 2, True),
}
"""Structures over places: what they are, the power of a MarkovChain chain, and whether variances are equal."""
ALIASES = {"hetcs": "cs", "homar1": "ar1", "hettoep": "toep", "homdiag": "id", "matern": "mat"}
"""Other packages' names."""


@lru_cache(maxsize=256)
def _read(text: str) -> Structure:
    """The structure of a spelling: a name, with what it was given or taught in parentheses. Raises KeyError."""
    if text in _NAMED:
        return _NAMED[text]
    name, opened, rest = text.partition("(")
    if not opened or not rest.endswith(")"):
        if text in _PLACED or text in FIELDS or text == "rr":
            return _read(f"{text}(1.5)" if text == "mat" else f"{text}()")
        raise KeyError(text)
    if name in FIELDS:
        return Scaled(text.removesuffix("()"), FIELDS[name], read_field(name, rest[:-1]), equal=True)
    try:
        given = _learned(rest[:-1])
    except ValueError:
        raise KeyError(text) from None
    if name == "rr":
        d = given[0] if given else 1.0
        if len(given) > 1 or d != int(d) or d < 1:
            raise KeyError(text)
        return ReducedRank(int(d))
    if name not in _PLACED or not np.isfinite(given).all() or (np.diff(given) <= 0.0).any():
        raise KeyError(text)
    words, power, equal = _PLACED[name]
    if not given:
        return Scaled(text.removesuffix("()"), words, MarkovChain((), power), equal)
    unit = 1.0 if power == 1 else float(np.diff(given).min(initial=np.inf))
    if power == 1 and any(place != int(place) for place in given):
        raise KeyError(text)
    return Scaled(text, words, MarkovChain(given, power, unit), equal)


class _Structures(Mapping[str, Structure]):
    """Structures by their spelling: "us", "ar1", "rr(2)", "ou(0.0, 0.5, 2.0)"; iterates over what a formula writes."""

    def __getitem__(self, text: str) -> Structure:
        return _read(text)

    def __iter__(self) -> Iterator[str]:
        return iter((*_NAMED, *_PLACED, *FIELDS, "rr"))

    def __len__(self) -> int:
        return len(_NAMED) + len(_PLACED) + len(FIELDS) + 1


STRUCTURES: Mapping[str, Structure] = _Structures()


def known(text: str) -> bool:
    """Whether a text spells a structure."""
    return text in STRUCTURES


def placed(name: str, places: tuple[float, ...]) -> str:
    """The spelling of a structure over places; whole ones in a row need not be said."""
    if _PLACED[name][1] == 1:
        places = tuple(place - places[0] for place in places)
        if places == tuple(range(len(places))):
            return name
    return f"{name}({', '.join(map(repr, places))})"


def over_points(text: str) -> bool:
    """Whether a structure is over points with coordinates, that data teach."""
    return plain_name(text) in FIELDS


def at_points(text: str, points: Points) -> str:
    """The spelling of a structure over points."""
    return spelled(plain_name(text), smoothness(text), points)


def field_of(text: str) -> Field | None:
    """The field of a structure over points, None of any other structure."""
    found = STRUCTURES[text]
    return found.field if isinstance(found, Scaled) else None


def smoothness(text: str) -> float | None:
    """The smoothness nu of "mat(nu)", None of any other structure."""
    field = field_of(text)
    return None if field is None else field.smoothness


def of_smoothness(nu: float) -> str:
    """The spelling of a Matérn structure, whose points are not known."""
    return spelled("mat", nu)


def range_of(text: str, sigma: Mat) -> float | None:
    """The range of a field whose covariance matrix is sigma, None of any other structure."""
    found = STRUCTURES[text]
    return found.length(sigma) if isinstance(found, Scaled) and found.field is not None else None


def alone(text: str) -> bool:
    """Whether a single level, with as many effects as rows, tells a structure's parameters."""
    found = STRUCTURES[text]
    return isinstance(found, Scaled) and found.alone


def elsewhere(text: str, sigma: Mat, at: Mat, places: Mat) -> tuple[Mat, Vec]:
    """Weights (m, r) of the effects at (r, d) for those at places (m, d), and the variance of the rest, (m,)."""
    found = STRUCTURES[text]
    assert isinstance(found, Scaled)
    return found.elsewhere(sigma, at, places)


def takes_places(name: str) -> bool:
    """Whether a structure is over places in an order or in time, that data teach."""
    return name in _PLACED


def in_order(name: str) -> bool:
    """Whether a structure's effects are the levels of one variable, in their order."""
    return name in _PLACED or name in ("toep", "homtoep")


def whole_distances(name: str) -> bool:
    """Whether the places of a structure are whole numbers."""
    return name in _PLACED and _PLACED[name][1] == 1


def plain_name(text: str) -> str:
    """What a formula writes for a structure: "ou" for "ou(0.0, 0.5)"."""
    return text.partition("(")[0]


def written_around(text: str) -> bool:
    """Whether a formula writes the structure's name around its term; bars alone mean the others."""
    return plain_name(text) not in ("us", "diag")


def reduced_rank(text: str) -> int | None:
    """The rank d of "rr(d)", None of any other structure."""
    found = STRUCTURES[text]
    return found.d if isinstance(found, ReducedRank) else None


def of_rank(d: int) -> str:
    """The spelling of a structure of rank d."""
    return f"rr({d})"


def natural_slopes(structure: Structure, sigma: Mat) -> Cube:
    """∂Σ/∂(its reported entries), (m, r, r) symmetric: how all of Σ moves with what determines it.

    NaN where Σ is on the boundary of its family.
    """
    r = len(sigma)
    rows, columns = structure.vech(r)
    if not structure.bends:
        out = units(rows, columns, r)
        return np.asarray(np.maximum(out, out.swapaxes(1, 2)))
    theta = structure.of(sigma)
    factor, tangent = structure.factor(theta, r), structure.tangent(theta, r)
    half = tangent @ factor.T
    moves = half + half.swapaxes(1, 2)
    jacobian = moves[:, rows, columns]
    if np.linalg.matrix_rank(jacobian, tol=1e-9 * max(float(np.abs(jacobian).max(initial=0.0)), 1e-300)) < len(rows):
        return np.full((len(rows), r, r), np.nan)
    return np.asarray(np.tensordot(np.linalg.inv(jacobian), moves, 1))
