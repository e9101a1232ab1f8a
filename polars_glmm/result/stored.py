"""A fit or a collection as a model file, and back: everything but the rows, which a pickle leaves out too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from polars_glmm import errors
from polars_glmm.answer.many import Batch, KeyedRows, Outcome, Outcomes
from polars_glmm.answer.record import Answer
from polars_glmm.answer.tally import Fingerprint, GroupSize
from polars_glmm.control import Control, Rows, Search
from polars_glmm.design.by_key.learn import Dropped, Paired
from polars_glmm.design.recipe_json import decode, decode_family, encode, encode_family
from polars_glmm.design.relation import pairs_of
from polars_glmm.errors import FormulaError, GlmmError, ModelError, ModelFileError
from polars_glmm.families.base import Family
from polars_glmm.files import archive
from polars_glmm.files.records import RecordReader, plain
from polars_glmm.files.store import Contents, Store, TableRows, as_parquet
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.given import OfFit
from polars_glmm.likelihood.many.estimate import BatchEstimate
from polars_glmm.memory import memory_limit
from polars_glmm.notes import Note
from polars_glmm.prediction.grid import covariate_means
from polars_glmm.result.collection import FitCollection
from polars_glmm.result.fitted import Fit
from polars_glmm.result.stored_check import check_batch, check_estimate, check_sizes
from polars_glmm.result.stored_levels import level_table, levels_of, with_levels, without_levels
from polars_glmm.result.stored_versions import batch_of_several
from polars_glmm.spec.call import Call, Missing
from polars_glmm.spec.method import Method
from polars_glmm.spec.relation import KnownLevels
from polars_glmm.typing import IntVec, Mat

Json = dict[str, Any]
Path = str | os.PathLike[str]

_ERRORS = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GlmmError)
}
_CALL = ("link", "trials", "offset", "frequency", "precision")


def write_model(model: Fit | FitCollection, path: Path) -> None:
    """Store a fit or a collection as one file, to be read by `polars_glmm.read_fit`.

    Raises ModelError for what has no file format (a family of one's own), OSError where nothing can be written there.
    """
    store = Store()
    try:
        body = {"fit": _answer(model, store)} if isinstance(model, Fit) else {"collection": _collection(model, store)}
        members, tables = store.members()
    except (TypeError, ValueError) as error:
        if isinstance(error, GlmmError):
            raise
        msg = f"This model cannot be stored: {error}."
        raise ModelError(msg) from error
    readable = {"fixef": model.fixef(), "varcorr": model.varcorr(), "dispersion": model.dispersion()}
    members |= {f"{name}.parquet": as_parquet(table) for name, table in readable.items()}
    archive.write(path, {"package": _package_version(), **body, "tables": tables}, members)


def read_model(path: Path) -> Fit | FitCollection:
    """The fit or collection of a model file. Raises ModelFileError for any other file."""
    try:
        manifest, members = archive.read(path)
        store = Contents.of(members, manifest["tables"], memory_limit(None))
        if "fit" in manifest:
            return Fit.of(_read_answer(manifest["fit"], store))
        return _read_collection(manifest["collection"], store)
    except ModelFileError:
        raise
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}."
        raise ModelFileError(msg) from error
    except archive.BROKEN as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        msg = f"{path} cannot be read as a model file: {why.rstrip('.') or type(error).__name__}."
        raise ModelFileError(msg) from error


def _answer(fit: Answer, store: Store) -> Json:
    recipe, estimate = fit.recipe, fit.estimate
    parts = list(zip(recipe.factors, estimate.factors, strict=True))
    return {
        "recipe": encode(recipe),
        "levels": [level_table(factor.levels, own, store) for factor, own in parts],
        "estimate": plain(
            replace(estimate, factors=tuple(map(without_levels, estimate.factors))), store.keep, "estimate"
        ),
        "notes": plain(fit.notes),
        "n_dropped": int(fit.n_dropped),
        "seconds": plain(fit.seconds),
        "groups": plain(fit.groups),
        "fingerprint": plain(fit.fingerprint),
        "means": plain(covariate_means(fit)),
        **_asked(fit.call, fit.control),
        "known": [[factor.name, plain(store.place(pairs_of(factor)))] for factor in recipe.factors if factor.prior],
    }


def _read_answer(text: Json, store: Contents) -> Answer:
    reader = RecordReader(fetch=store.fetch)
    read = reader.read
    tables = [levels_of(own, store) for own in text["levels"]]
    known = {
        read(name, str, "known"): KnownLevels(store.table(read(rows, TableRows, "known")))
        for name, rows in text.get("known", [])
    }
    recipe = decode(text["recipe"], [table.keys for table in tables], known)
    estimate = read(text["estimate"], Estimate, "estimate")
    factors = [with_levels(own, table) for own, table in zip(estimate.factors, tables, strict=True)]
    estimate = replace(estimate, factors=tuple(factors))
    check_estimate(recipe, estimate)
    groups = read(text["groups"], tuple[GroupSize, ...], "groups")
    check_sizes(recipe, groups)
    call, control = _read_asked(text)
    call = replace(call, known=known or None)
    return Answer(
        recipe=recipe,
        estimate=estimate,
        notes=read(text["notes"], tuple[Note, ...], "notes"),
        n_dropped=read(text["n_dropped"], int, "n_dropped"),
        seconds=read(text["seconds"], float, "seconds"),
        control=control,
        call=call,
        groups=groups,
        fingerprint=read(text["fingerprint"], Fingerprint, "fingerprint"),
        means=read(text.get("means", {}), Mapping[str, float], "means"),
    )


def _collection(made: FitCollection, store: Store) -> Json:
    outcomes = made.outcomes
    singles = sorted(outcomes.singles.items())
    return {
        "keys": plain(store.place(made.keys)),
        "n_unkeyed": int(made.n_unkeyed),
        "batches": [_batch(batch, store) for batch in outcomes.batches],
        "singles": [
            [k, {"error": _error(one)} if isinstance(one, GlmmError) else {"fit": _answer(one, store)}]
            for k, one in singles
        ],
    }


def _read_collection(text: Json, store: Contents) -> FitCollection:
    read = RecordReader(fetch=store.fetch).read
    keys = store.table(read(text["keys"], TableRows, "keys"))
    batches = tuple(_read_batch(one, store) for one in text["batches"])
    singles: dict[int, Outcome] = {}
    for k, one in text["singles"]:
        singles[read(k, int, "key")] = _read_error(one["error"]) if "error" in one else _read_answer(one["fit"], store)
    answered = np.sort(np.concatenate([np.array(sorted(singles), dtype=np.intp), *(batch.keys for batch in batches)]))
    if not np.array_equal(answered, np.arange(keys.height)):
        msg = "its models are not one for each key"
        raise ValueError(msg)
    return FitCollection(keys, Outcomes(keys.height, batches, singles), read(text["n_unkeyed"], int, "n_unkeyed"))


def _batch(batch: Batch, store: Store) -> Json:
    estimate = batch.estimate
    both = zip(batch.recipe.factors, estimate.factors, strict=True)
    levels = [level_table(factor.levels, own, store) for factor, own in both]
    return {
        "recipe": encode(batch.recipe),
        "levels": levels,
        "estimate": plain(
            replace(estimate, factors=tuple(map(without_levels, estimate.factors))), store.keep, "estimate"
        ),
        "keys": plain(batch.keys, store.keep, "keys"),
        "common": plain(batch.common),
        "dropped": plain(batch.dropped, store.keep, "dropped"),
        "moments": plain(batch.moments, store.keep, "moments"),
        "paired": plain(batch.paired, store.keep, "paired"),
        "level_sizes": plain(batch.level_sizes, store.keep, "level_sizes"),
        "seconds": plain(batch.seconds),
        **_asked(batch.call, batch.control),
    }


def _read_batch(text: Json, store: Contents) -> Batch:
    read = RecordReader(fetch=store.fetch).read
    text = batch_of_several(text, store.fetch)
    tables = [levels_of(own, store) for own in text["levels"]]
    estimate = read(text["estimate"], BatchEstimate, "estimate")
    factors = [with_levels(own, table) for own, table in zip(estimate.factors, tables, strict=True)]
    estimate = replace(estimate, factors=tuple(factors))
    call, control = _read_asked(text)
    batch = Batch(
        keys=read(text["keys"], IntVec, "keys"),
        recipe=decode(text["recipe"], [table.keys for table in tables]),
        estimate=estimate,
        common=read(text["common"], tuple[Note, ...], "common"),
        dropped=read(text["dropped"], Dropped, "dropped"),
        moments=read(text["moments"], Mat, "moments"),
        paired=read(text["paired"], Paired, "paired"),
        level_sizes=read(text["level_sizes"], tuple[IntVec, ...], "level_sizes"),
        kept=None,
        rows=KeyedRows(None, np.empty(0, np.intp), np.empty(0, np.intp)),
        control=control,
        call=call,
        seconds=read(text["seconds"], float, "seconds"),
    )
    check_batch(batch)
    return batch


# what was asked


def _asked(call: Call, control: Control) -> Json:
    """A call, and of its control what is about the computation and not about the machine."""
    family = call.family
    return {
        "call": {
            "formulas": list(call.formulas),
            "groups": _groups(call.groups),
            "family": family if isinstance(family, str) else encode_family(family),
            "method": plain(call.method),
            "missing": call.missing,
            "start": plain(None if call.start is None else dict(call.start)),
            "start_is_fit": isinstance(call.start, OfFit),
            "fixed": plain(None if call.fixed is None else dict(call.fixed)),
            **{name: getattr(call, name) for name in _CALL},
            "residual": call.residual,
        },
        "control": {
            "search": plain(control.search),
            "block": int(control.rows.block),
            "compress": bool(control.rows.compress),
            "keep": control.keep,
        },
    }


def _read_asked(text: Json) -> tuple[Call, Control]:
    read = RecordReader().read
    asked, steered = text["call"], text["control"]
    start: Mapping[str, float] | None = read(asked["start"], Mapping[str, float] | None, "start")
    family: str | Family = asked["family"]
    call = Call(
        formulas=read(asked["formulas"], tuple[str, ...], "formulas"),
        groups=_read_groups(asked["groups"]),
        family=family if isinstance(family, str) else decode_family(family),
        method=read(asked["method"], str | Method | None, "method"),
        missing=read(asked["missing"], Missing, "missing"),
        start=OfFit(start) if start is not None and asked["start_is_fit"] else start,
        fixed=read(asked["fixed"], Mapping[str, float] | None, "fixed"),
        **{name: read(asked[name], str | None, name) for name in _CALL},
        residual=read(asked.get("residual"), str | None, "residual"),
    )
    control = Control(
        search=read(steered["search"], Search, "search"),
        rows=Rows(block=read(steered["block"], int, "block"), compress=read(steered["compress"], bool, "compress")),
        keep=steered["keep"],
    )
    return call, control


def _groups(groups: Any) -> Any:
    """groups= as JSON, which has no tuples and no mapping by them."""
    match groups:
        case None | str():
            return groups
        case tuple():
            return {"key": list(groups)}
        case Mapping():
            return {"designs": [[_groups(name), str(design)] for name, design in groups.items()]}
    return {"list": [_groups(one) for one in groups]}


def _read_groups(text: Any, depth: int = 0) -> Any:
    if depth > 2:
        msg = "groups are nested too deeply"
        raise ValueError(msg)
    match text:
        case None | str():
            return text
        case {"key": list(names)}:
            return RecordReader().read(names, tuple[str, ...], "groups")
        case {"designs": list(entries)}:
            return {
                _read_groups(name, depth + 1): RecordReader().read(design, str, "groups") for name, design in entries
            }
        case {"list": list(entries)}:
            return [_read_groups(one, depth + 1) for one in entries]
    msg = f"groups cannot be {str(text)[:60]!r}"
    raise ValueError(msg)


def _error(error: GlmmError) -> Json:
    shown = {"formula": [error.text, error.start, error.stop]} if isinstance(error, FormulaError) else {}
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)
    return {"kind": kind, "message": str(error), **shown}


def _read_error(text: Json) -> GlmmError:
    read = RecordReader().read
    error = _ERRORS[text["kind"]](read(text["message"], str, "message"))
    if isinstance(error, FormulaError):
        error.text, error.start, error.stop = read(text["formula"], tuple[str, int, int | None], "formula")
    return error


def _package_version() -> str:
    try:
        return version("polars-glmm")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
