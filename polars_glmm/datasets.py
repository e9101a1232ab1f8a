"""Published data sets that ship with the package, and one simulation with known truth.

Where each data set comes from, and under which terms, is in `data/SOURCES.md` beside this file.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.errors import DatasetError, enumerate_names, suggest

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def names() -> tuple[str, ...]:
    """Names that `load` knows, sorted."""
    return tuple(sorted(_shipped()))


def load(name: str) -> pl.DataFrame:
    """The data set `name` (upper or lower case) as a new frame; factors are Enum columns in their published order.

    Raises DatasetError for a name that is not among `names()`.

    Examples
    --------
    >>> load("sleepstudy").columns
    ['Reaction', 'Days', 'Subject']
    """
    shipped = _shipped()
    if (path := shipped.get(name.lower())) is None:
        near = suggest(name.lower(), shipped)
        msg = f"There is no data set {name!r}.{near} Known: {enumerate_names(sorted(shipped), limit=len(shipped))}."
        raise DatasetError(msg)
    with as_file(path) as file:
        return pl.read_parquet(file)


def seeds(  # noqa: PLR0913  the parameters of the model it simulates
    rng: np.random.Generator | int,
    *,
    plants: int = 100,
    trials: int = 8,
    mu: float = 0.0,
    sigma: float = 3.0,
    pots: int | None = None,
    sigma_pot: float = 1.0,
) -> pl.DataFrame:
    """Overdispersed seed survival with known truth.

    z ~ N(mu, sigma), p = 1 / (1 + exp(-z)), survived ~ Binomial(trials, p). Every plant has its own z, so that the
    counts vary more than a binomial with one p allows (the teaching example of Kubo 2012, chapter 7).

    Parameters
    ----------
    rng
        Source of the random numbers, a Generator or a seed; equal ones give equal frames.
    plants
        Number of plants; with `pots`, the number of plants in each pot.
    trials
        Seeds observed on each plant.
    mu, sigma
        Mean and standard deviation of z between plants, on the logit scale.
    pots
        Number of pots. Given, z is the sum of the plant's own effect and one effect per pot ~ N(0, sigma_pot).
    sigma_pot
        Standard deviation between pots.

    Returns
    -------
    A frame with `pot` (only with `pots`), `plant`, `trials`, `survived`, and the truth: `z` and `p`.

    Raises
    ------
    DatasetError
        A count below one, a negative standard deviation, or an rng that is neither a Generator nor a whole number.

    Examples
    --------
    >>> frame = seeds(np.random.default_rng(1), plants=5)
    >>> frame.columns
    ['plant', 'trials', 'survived', 'z', 'p']
    """
    for argument, value in (("plants", plants), ("trials", trials), ("pots", 1 if pots is None else pots)):
        if value < 1:
            msg = f"seeds({argument}={value}): use a whole number of at least 1."
            raise DatasetError(msg)
    for argument, spread in (("sigma", sigma), ("sigma_pot", sigma_pot)):
        if not spread >= 0:
            msg = f"seeds({argument}={spread}): a standard deviation is not negative."
            raise DatasetError(msg)
    rng = _generator(rng)
    pot = np.repeat(np.arange(pots or 1), plants)
    pot_effect = rng.normal(0.0, sigma_pot, size=pots) if pots is not None else np.zeros(1)
    z = mu + pot_effect[pot] + rng.normal(0.0, sigma, size=len(pot))
    p = 0.5 * (1.0 + np.tanh(z / 2))  # the logistic function without overflow
    frame = pl.DataFrame(
        {
            "plant": _labels(np.arange(len(pot))),
            "trials": np.full(len(pot), trials, dtype=np.int64),
            "survived": rng.binomial(trials, p).astype(np.int64),
            "z": z,
            "p": p,
        },
    )
    return frame if pots is None else frame.insert_column(0, _labels(pot).alias("pot"))


def _generator(rng: object) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, int | np.integer) and not isinstance(rng, bool) and rng >= 0:
        return np.random.default_rng(int(rng))
    msg = f"seeds(rng={rng!r}): give a numpy Generator or a whole number of at least 0, such as rng=7."
    raise DatasetError(msg)


def _shipped() -> dict[str, Traversable]:
    """Name → file of every shipped data set."""
    folder = files("polars_glmm") / "data"
    return {file.name.removesuffix(".parquet"): file for file in folder.iterdir() if file.name.endswith(".parquet")}


def _labels(codes: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> pl.Series:
    """Codes 0 … k − 1 as an Enum with the labels "1" … "k"."""
    levels = [str(code + 1) for code in range(int(codes.max()) + 1)]
    return pl.Series([levels[code] for code in codes], dtype=pl.Enum(levels))
