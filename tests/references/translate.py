"""A reference entry in this package's words: its data, its call, and the names of its parameters.

R and formulaic name columns differently: `YEAR96` is `YEAR[T.96]`, `(Intercept)` is `Intercept`, and the column of a
contrast carries its level or degree. Dispersions are on the scales of `README.md` beside this file.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from polars_glmm import StudentT, Tweedie, datasets
from polars_glmm.spec.method import AGQ
from tests.references.convert import KNOWN, NOT_REDISTRIBUTED, read

Entry = Mapping[str, Any]

HERE = Path(__file__).resolve().parent
FAMILY = {
    "Gamma": "gamma", "inverse.gaussian": "inverse_gaussian", "nbinom2": "negative_binomial", "ziGamma": "gamma",
    "zero_inflated_beta": "beta",
}  # fmt: skip
HELD = {"t": lambda df: StudentT(df=df), "tweedie": lambda power: Tweedie(power=power)}
FREE = {"t": lambda: StudentT(df=None), "tweedie": Tweedie}
ORDERED = {"cake": {"temperature": "contr.poly"}}
"""Ordered factors: polynomial contrasts in R, treatment contrasts here unless asked for."""


@cache
def all_entries() -> dict[str, Entry]:
    """All reference entries, by id."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("*.json")))
    return {entry["id"]: entry for entry in found}


def entries(*kinds: str) -> dict[str, Entry]:
    """All reference entries of some kinds, by id."""
    return {id_: entry for id_, entry in all_entries().items() if entry["kind"] in kinds}


@cache
def whole_data(name: str) -> pl.DataFrame:
    """A data set by name: shipped, of the tests, or (where it may not be redistributed) beside the checkout."""
    if name in NOT_REDISTRIBUTED:
        beside = HERE.parents[2] / "shared" / "reference" / "data"
        folder = Path(os.environ.get("POLARS_GLMM_REFERENCE", beside))
        folder = folder / "data" if (folder / "data").is_dir() else folder
        schema = folder / f"{name}.schema.json"
        if not schema.is_file():
            pytest.skip(f"the data of {name} may not be redistributed: set POLARS_GLMM_REFERENCE to a folder with it")
        return read(schema)
    here = HERE.parent / "data" / f"{name}.parquet"
    return pl.read_parquet(here) if here.is_file() else datasets.load(name)


def data(entry: Entry) -> pl.DataFrame:
    """The rows the entry was fitted to."""
    frame = whole_data(entry["dataset"])
    if (subset := entry.get("subset")) is not None:
        frame = frame.filter(pl.col(subset["column"]).cast(pl.String) == subset["equals"])
    return frame


def formulas(entry: Entry) -> tuple[str, ...]:
    """The formula, with R's contrasts written out, and the one of the dispersion."""
    formula = entry["formula"]
    for column, contrast in coding(entry).items():
        fixed_or_bar = re.split(r"(\([^()]*\|[^()]*\))", formula)
        fixed_or_bar[::2] = [re.sub(rf"\b{column}\b", f"C({column}, {contrast})", part) for part in fixed_or_bar[::2]]
        formula = "".join(fixed_or_bar)
    further = {"phi": entry.get("dispersion_formula"), "zi": entry.get("zi_formula")}
    return (formula, *(f"{name} {text}" for name, text in further.items() if text))


def arguments(entry: Entry) -> dict[str, Any]:
    """The keywords of `fit` and `objective`."""
    family = FAMILY.get(entry["family"], entry["family"])
    named = {"family": family, "link": entry.get("link")}
    if (held := HELD.get(entry["family"])) is not None:
        named = {"family": held(next(iter(entry["results"]["dispersion"]["family_parameter"].values())))}
    if (method := entry.get("method")) is not None:
        named["method"] = AGQ(entry["n_agq"]) if method == "AGQ" else method.lower()
        if "dispersion_formula" in entry and entry["family"] != "gaussian":
            named["method"] = "laplace"  # called ML there
    if "residual" in entry:
        named["residual"] = entry["residual"]
    if entry["kind"] == "lmm_known_covariance":
        named["known"] = {group: whole_data(name) for group, name in KNOWN[entry["dataset"]].items()}
    if (weights := entry.get("weights")) is not None:
        named["trials" if family == "binomial" else "precision"] = weights
    return named


def estimated(entry: Entry) -> dict[str, Any]:
    """The keywords of `fit` with the further parameter of the family estimated, as it is there."""
    return arguments(entry) | {"family": FREE[entry["family"]]()}


def coding(entry: Entry) -> dict[str, str]:
    """Contrasts of the fixed effects other than treatment contrasts."""
    contrasts = entry.get("contrasts")
    return contrasts if isinstance(contrasts, dict) else ORDERED.get(entry["dataset"], {})


def translated(names: Sequence[str], frame: pl.DataFrame, contrasts: Mapping[str, str]) -> dict[str, str]:
    """R's names of the columns of one design matrix → this package's."""
    parts = {part for name in names for part in name.split(":")}
    levels = {name: tuple(dtype.categories) for name, dtype in frame.schema.items() if isinstance(dtype, pl.Enum)}
    known: dict[str, str] = {"(Intercept)": "Intercept"}
    for column, labels in levels.items():
        contrast = contrasts.get(column)
        full = column + labels[0] in parts
        if contrast is None:
            known |= {column + label: f"{column}[{'' if full else 'T.'}{label}]" for label in labels}
        elif contrast == "contr.poly":
            degrees = (".L", ".Q", ".C", *(f"^{k}" for k in range(4, len(labels))))
            known |= {column + degree: f"C({column}, {contrast})[{degree}]" for degree in degrees}
        else:
            letter, named = {"contr.sum": ("S", labels[:-1]), "contr.helmert": ("H", labels[1:])}[contrast]
            known |= {f"{column}{k}": f"C({column}, {contrast})[{letter}.{n}]" for k, n in enumerate(named, 1)}
    known |= {part: part.replace("^", " ^ ") for part in parts if part.startswith("I(")}
    known |= {part: re.sub(r"^(poly\(.*\))(\d+)$", r"\1[\2]", part) for part in parts if part.startswith("poly(")}
    return {name: ":".join(known.get(part, part) for part in name.split(":")) for name in names}


def fixed(entry: Entry, component: str) -> pl.DataFrame:
    """Fixed effects of "cond" (the mean), "disp" (log phi) or "zi" as `term, estimate, std_error`, terms our names."""
    rows = [row for row in entry["results"]["fixed"] if row["component"] == component]
    names = translated([row["term"] for row in rows], data(entry), coding(entry))
    halved = component == "disp" and entry["family"] == "gaussian" and entry["kind"] != "two_part"
    scale = 0.5 if halved else 1.0  # log σ² there, log σ here
    return pl.DataFrame(
        {
            "term": [names[row["term"]] for row in rows],
            "estimate": [scale * row["estimate"] for row in rows],
            "std_error": [scale * row["std_error"] for row in rows],
        },
        schema={"term": pl.String, "estimate": pl.Float64, "std_error": pl.Float64},
    )


def correlated(entry: Entry, names: Sequence[str]) -> dict[str, float]:
    """All parameters of a model with correlated residuals, by our names."""
    results = entry["results"]
    found = dict(fixed(entry, "cond").select("term", "estimate").iter_rows())
    for term in results.get("random", ()):
        labels = ["Intercept" if one == "(Intercept)" else one for one in term["terms"]]
        found |= {f"sd({term['group']}: {label})": sd for label, sd in zip(labels, term["sd"], strict=True)}
        found |= {
            f"cor({term['group']}: {labels[k]}, {labels[j]})": term["correlation"][j][k]
            for j in range(len(labels))
            for k in range(j)
        }
    correlations = [name for name in names if name.startswith(("rho", "range"))]
    if "residual_covariance" in results:
        covariance = results["residual_covariance"]
        sd = [row[i] ** 0.5 for i, row in enumerate(covariance)]
        pairs = [(i, j) for i in range(len(sd)) for j in range(i)]
        found |= {n: covariance[i][j] / sd[i] / sd[j] for n, (i, j) in zip(correlations, pairs, strict=True)}
        phis = [name for name in names if name.startswith("phi: ")]
        return found | {name: math.log(one) for name, one in zip(phis, sd, strict=True)}
    values = results["correlation_parameters"].values()
    return found | dict(zip(correlations, values, strict=True)) | {"phi": results["dispersion"]["value"]}


def no_residuals(entry: Entry, names: Sequence[str]) -> dict[str, float]:
    """All parameters of a model whose residuals are the effects of times there, by our names."""
    *others, times = entry["results"]["random"]
    found = dict(fixed(entry, "cond").select("term", "estimate").iter_rows())
    found |= {f"sd({term['group']}: Intercept)": term["sd"][0] for term in others}
    for name, sd in zip([name for name in names if name.startswith("phi: ")], times["sd"], strict=True):
        found[name] = math.log(sd)
    correlations = [name for name in names if name.startswith("rho")]  # by lag, or the only one
    return found | {name: times["correlation"][lag][0] for lag, name in enumerate(correlations, 1)}


def phi(entry: Entry) -> float | None:
    """The constant dispersion on this package's scale."""
    dispersion = entry["results"].get("dispersion") or {}
    if "value" not in dispersion:
        return None
    value = float(dispersion["value"])
    return {"Gamma": value**2, "ziGamma": value**2, "inverse.gaussian": 1 / value}.get(entry["family"], value)


def parts_of(group: str) -> frozenset[str]:
    """A grouping factor whatever the order of its columns: lme4 writes `cask:batch` for `batch/cask`."""
    return frozenset(group.split(":"))


def our_group(group: str, known: Iterable[str]) -> str:
    """The name among `known` of the same grouping factor."""
    return next(name for name in known if parts_of(name) == parts_of(group))


def our_level(level: str, group: str, ours: str) -> str:
    """A level of a composite factor with its labels in the order of our name for the factor."""
    if group == ours:
        return level
    labels = dict(zip(group.split(":"), level.split(":"), strict=True))
    return ":".join(labels[column] for column in ours.split(":"))


def random_terms(term: Mapping[str, Any], frame: pl.DataFrame) -> list[str]:
    """Our names of the columns of one random-effects term."""
    names = translated(term["terms"], frame, {})
    return [names[name] for name in term["terms"]]


def parameters(entry: Entry, names: Sequence[str]) -> dict[str, float]:
    """The reference estimates by the names of `objective(…).names`; REML has no fixed effects among its parameters."""
    frame = data(entry)
    values: dict[str, float] = dict(zip(*fixed(entry, "cond")[["term", "estimate"]].get_columns(), strict=True))
    for part, name in (("disp", "phi"), ("zi", "zi")):
        values |= {f"{name}: {term}": value for term, value, _ in fixed(entry, part).iter_rows()}
    groups = {name.removeprefix("sd(").partition(": ")[0] for name in names if name.startswith("sd(")}
    for term in entry["results"]["random"]:
        group, names_of_columns = our_group(term["group"], groups), random_terms(term, frame)
        parts = term.get("term_components", [term.get("component", "cond")] * len(names_of_columns))
        columns = [f"zi {c}" if part == "zi" else c for c, part in zip(names_of_columns, parts, strict=True)]
        if term["structure"] == "ar1":
            values[f"sd({group}: {columns[0]})"] = term["sd"][0]
            values[f"cor({group}: {columns[0]}, {columns[1]})"] = term["correlation"][1][0]
            continue
        values |= {f"sd({group}: {name})": sd for name, sd in zip(columns, term["sd"], strict=True)}
        if term["structure"] == "us":
            values |= {
                f"cor({group}: {columns[j]}, {columns[i]})": term["correlation"][i][j]
                for i in range(len(columns))
                for j in range(i)
            }
    if (dispersion := phi(entry)) is not None:
        values["phi"] = dispersion
    if entry["method"] == "REML":
        return {name: values[name] for name in names}
    return values
