"""Data sets: what is shipped, under which names and dtypes, and that the simulation keeps its word."""

from __future__ import annotations

import re
from importlib.resources import files

import numpy as np
import polars as pl
import pytest

from polars_glmm import datasets
from polars_glmm.errors import DatasetError

SHAPES = {  # rows, columns, and the levels of some Enum columns, from the publications named in SOURCES.md
    "grouseticks": (403, 7, {"YEAR": 3, "LOCATION": 63, "BROOD": 118, "INDEX": 403}),
    "sleepstudy": (180, 3, {"Subject": 18}),
    "cbpp": (56, 5, {"herd": 15, "period": 4}),
    "toenail": (1908, 5, {"patientID": 294, "treatment": 2}),
    "InstEval": (73421, 7, {"s": 2972, "d": 1128, "dept": 14}),
    "VerbAgg": (7584, 9, {"id": 316, "item": 24, "r2": 2}),
    "Penicillin": (144, 3, {"plate": 24, "sample": 6}),
    "Pastes": (60, 4, {"batch": 10, "cask": 3, "sample": 30}),
    "Salamanders": (644, 9, {"site": 23, "spp": 7}),
    "Owls": (599, 8, {"Nest": 27, "FoodTreatment": 2}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape_and_levels(name: str) -> None:
    rows, columns, levels = SHAPES[name]
    frame = datasets.load(name)
    assert frame.shape == (rows, columns)
    for column, n in levels.items():
        dtype = frame.schema[column]
        assert isinstance(dtype, pl.Enum)
        assert len(dtype.categories) == frame[column].n_unique() == n


def test_years_of_grouseticks_are_ordered() -> None:
    assert datasets.load("grouseticks").schema["YEAR"] == pl.Enum(["95", "96", "97"])


def test_names_are_what_load_knows_and_every_one_has_a_source() -> None:
    sources = (files("polars_glmm") / "data" / "SOURCES.md").read_text(encoding="utf-8")
    assert datasets.names() == tuple(sorted(re.findall(r"^\| `(\w+)` \|", sources, flags=re.MULTILINE)))
    assert all(not datasets.load(name).is_empty() for name in datasets.names())


def test_two_loads_do_not_share_a_frame() -> None:
    assert datasets.load("cbpp") is not datasets.load("CBPP")


@pytest.mark.parametrize(("wrong", "meant"), [("grouse_ticks", "grouseticks"), ("sleepstudies", "sleepstudy")])
def test_a_mistyped_name_is_told_the_near_one(wrong: str, meant: str) -> None:
    with pytest.raises(DatasetError, match=f"Did you mean '{meant}'"):
        datasets.load(wrong)


def test_data_that_may_not_be_redistributed_are_absent() -> None:
    assert not {"pig", "kubo_seeds", "salamander_mating"} & set(datasets.names())


def test_seeds_are_reproducible_and_hold_their_truth() -> None:
    first, second = (datasets.seeds(np.random.default_rng(7), plants=4000, mu=0.5, sigma=2.0) for _ in range(2))
    assert first.equals(second)
    z = first["z"].to_numpy()
    standard_error = 2.0 / np.sqrt(len(z))
    assert abs(z.mean() - 0.5) < 4 * standard_error
    assert abs(z.std() - 2.0) < 4 * standard_error
    np.testing.assert_allclose(first["p"], 1 / (1 + np.exp(-z)), rtol=1e-12)
    residual = (first["survived"] - 8 * first["p"]) / (8 * first["p"] * (1 - first["p"])).sqrt()
    assert abs(float(residual.mean() or 0.0)) < 4 / np.sqrt(len(z))  # Binomial(8, p) given the truth


@pytest.mark.parametrize("pots", [1, 5])
def test_plants_of_a_pot_share_its_effect(pots: int) -> None:
    frame = datasets.seeds(np.random.default_rng(3), plants=4, pots=pots, sigma=0.0, sigma_pot=2.0, trials=1)
    assert frame.columns == ["pot", "plant", "trials", "survived", "z", "p"]
    assert frame.height == 4 * pots
    assert frame.group_by("pot").agg(pl.col("z").n_unique())["z"].to_list() == [1] * pots
    assert frame["z"].n_unique() == pots


@pytest.mark.parametrize("wrong", [{"plants": 0}, {"trials": 0}, {"pots": 0}, {"sigma": -1.0}, {"sigma_pot": -1.0}])
def test_impossible_simulations_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(DatasetError, match=next(iter(wrong))):
        datasets.seeds(np.random.default_rng(0), **wrong)  # type: ignore[arg-type]
