"""The command line: `polars-glmm fit DATA "FORMULA" …` reads a file, prints the summary, writes the tidy tables.

`polars-glmm predict MODEL DATA` predicts by a model that `fit … --save MODEL` wrote.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from polars_glmm.arguments import complain, parser, read_arguments
from polars_glmm.cli_files import SINKS, WRITERS, flat, write
from polars_glmm.cli_questions import confint, csv_of, means, plot
from polars_glmm.errors import DatasetError, FitWarning, FormulaError, GlmmError, ModelError, enumerate_names
from polars_glmm.opening import Opened, errors_of_data, labels_of, opened, what_was_read

if TYPE_CHECKING:
    from polars_glmm.result import Fit, FitCollection
    from polars_glmm.spec.method import Method
    from polars_glmm.typing import MethodName

NOT_CONVERGED, SINGULAR = 3, 4
PRODUCTS = "products:"
CUT_OFF = 141
"""128 and the number of SIGPIPE: what a shell says of a command whose output nobody reads any more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 where all is well; 2 after one line on standard error about bad input; 3 where a model did not converge, or a key
    of --by has none; 4, with --fail-singular, where a covariance matrix lost rank; 141 where nobody reads the output
    to its end.
    """
    options = read_arguments(parser(list(WRITERS)), arguments)
    handler = None
    if options.log is not None:
        from polars_glmm.logs import to_stream

        handler = to_stream(sys.stderr, options.log)
    try:
        return _flushed(VERBS[options.verb](options) or 0)
    except BrokenPipeError:  # who read has enough, as `head`: end in silence, as other commands do
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CUT_OFF
    except FormulaError as error:
        return complain(_one_line_formula(error), options.log)
    except errors_of_data() as error:
        return complain(str(error), options.log)
    finally:
        if handler is not None:
            from polars_glmm.logs import LOGGER

            LOGGER.removeHandler(handler)


def _flushed(code: int) -> int:
    """The code, once all output is written: what cannot be is found here, and not on the way out."""
    if sys.stdout is not None:
        sys.stdout.flush()
    return code


def _fit(options: argparse.Namespace) -> int:
    """`fit`: every check that needs no data first, then the model, the summary and the tables."""
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        msg = f"--out {options.out}: this is a file; name a directory."
        raise DatasetError(msg)
    if options.save is not None:
        _require_folder("--save", options.save)
    fit = _fitted(options)
    if options.out is not None:
        write(tables(fit), options.out, options.format)
    if options.save is not None:
        fit.write(options.save)
        _tell(options, "saved", f"saved {options.save}", path=str(options.save))
    print(fit)  # noqa: T201  the purpose of the command
    if (status := getattr(fit, "status", None)) is not None:
        print(status())  # noqa: T201
        found = set(status()["status"])
        converged = "failed" not in found and bool(fit.glance()["converged"].all())
        singular = "singular" in found
    else:
        converged, singular = fit.converged, fit.singular  # type: ignore[union-attr]
    if not converged:
        return NOT_CONVERGED
    return SINGULAR if singular and options.fail_singular else 0


def _fitted(options: argparse.Namespace) -> Fit | FitCollection:
    """The model of rows, or of products that were stored."""
    method = _method(options.method, options.nodes)
    if options.data.startswith(PRODUCTS):
        return _of_products(options, method)
    if not options.formulas:
        msg = "the following arguments are required: FORMULA"
        raise DatasetError(msg)
    frame = opened(options.data, csv_of(options))
    import polars_glmm  # numerics are imported only once there is something to fit

    start = None if options.start is None else polars_glmm.read_fit(options.start)
    said = what_was_read(options.data, frame, _columns(options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # the summary prints the notes
        fit: Fit | FitCollection = polars_glmm.fit(
            _native(frame),
            *options.formulas,
            groups=options.groups,
            family=options.family,
            link=options.link,
            method=cast("MethodName | Method | None", method),
            trials=options.trials,
            offset=options.offset,
            frequency=options.frequency,
            precision=options.precision,
            residual=options.residual,
            by=options.by,
            start=cast("Fit | None", start),
        )
    if said:
        _tell(options, "read", said)
    return fit


def _of_products(options: argparse.Namespace, method: str | Method | None) -> Fit:
    """The fit of products in a file, which bring their formula."""
    if options.formulas or options.by or options.groups:
        msg = f"{PRODUCTS}FILE brings its formula: leave out FORMULA, --groups and --by."
        raise DatasetError(msg)
    import polars_glmm

    kept = polars_glmm.read_products(options.data.removeprefix(PRODUCTS))
    start = None if options.start is None else polars_glmm.read_fit(options.start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return kept.fit(method, start=starting(start))


def _predict(options: argparse.Namespace) -> int:
    """`predict`: the rows of a file with the prediction of a saved model beside them, to a file or as csv to print."""
    if options.out is not None and (ending := options.out.suffix.lower()) not in SINKS:
        msg = f"--out {options.out}: the suffix {ending!r} says no format; known are {enumerate_names([*SINKS])}."
        raise DatasetError(msg)
    import polars_glmm

    model = polars_glmm.read_fit(options.model)
    frame = opened(options.data, csv_of(options), labels_of(model))
    predicted = model.predict(
        frame.lazy(),
        kind=options.kind,
        random=options.random,
        new_levels=options.new_levels,
        interval="confidence" if options.interval else None,
        conf_level=options.conf_level,
        name=options.name,
    )
    if options.out is None:
        print(flat(predicted.collect()).write_csv(), end="")  # noqa: T201  the purpose of the command
        return 0
    _in_place(options.out, lambda path: SINKS[ending](predicted, path))
    _tell(options, "predicted", f"wrote {options.out}", path=str(options.out))
    return 0


def _products(options: argparse.Namespace) -> int:
    """`products`: the cross-products of a file, alone or added to those of earlier files."""
    _require_folder("--out", options.out)
    import polars_glmm

    before = polars_glmm.read_products(options.out) if options.append and options.out.exists() else None
    frame = opened(options.data, csv_of(options), () if before is None else labels_of(before))
    if before is None and not options.formulas:
        msg = "products needs a FORMULA, unless --append finds the file of earlier ones."
        raise DatasetError(msg)
    if before is not None:
        _require_formula(options, _native(frame).collect_schema().names(), before.recipe.spec.formula)
        made = before + polars_glmm.products(_native(frame), like=before)
    else:
        levels = {}
        for text in options.levels or []:
            column, _, names = text.partition("=")
            levels[column] = names.split(",")
        made = polars_glmm.products(_native(frame), *options.formulas, groups=options.groups, levels=levels or None)
    _in_place(options.out, made.write_parquet)
    print(made)  # noqa: T201  the purpose of the command
    return 0


def _require_formula(options: argparse.Namespace, columns: Collection[str], kept: str) -> None:
    """Raise DatasetError where a formula is given that is not the one of the products to be added to."""
    from polars_glmm.spec.call import Call

    if not options.formulas and not options.groups:
        return
    asked = None
    if options.formulas:
        asked = Call(tuple(options.formulas), options.groups).spec().resolve(columns).formula
    if asked != kept:
        msg = f"{options.out} has products of {kept}: leave out FORMULA and --groups, or write elsewhere."
        raise DatasetError(msg)


def _drift(options: argparse.Namespace) -> int:
    """`drift`: how far parameters moved between two saved models, or two collections of --by, as csv."""
    import polars_glmm

    old, new = (polars_glmm.read_fit(path) for path in (options.old, options.new))
    print(polars_glmm.drift(old, new).write_csv(), end="")  # noqa: T201  the purpose of the command
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "fit": _fit, "predict": _predict, "products": _products, "drift": _drift,
    "confint": confint, "means": means, "plot": plot,
}  # fmt: skip


def _native(frame: Opened) -> Any:
    """A frame as `fit` takes it."""
    return frame if isinstance(frame, pl.DataFrame | pl.LazyFrame) else frame.plan.to_native()


def starting(start: object) -> Any:
    """Values to start from, of a fit that was read."""
    from polars_glmm.result.fitted import starting_values

    return starting_values(start)


def _require_folder(option: str, path: Path) -> None:
    if not path.absolute().parent.is_dir():
        msg = f"{option} {path}: there is no such folder."
        raise DatasetError(msg)
    if path.is_dir():
        msg = f"{option} {path}: this is a folder; name a file."
        raise DatasetError(msg)


def _in_place(target: Path, work: Callable[[Path], object]) -> None:
    """Make a file beside its place and move it there, so that it is never half there."""
    with tempfile.TemporaryDirectory(prefix=".glmm-", dir=target.absolute().parent) as scratch:
        path = Path(scratch) / target.name
        work(path)
        path.replace(target)


def _tell(options: argparse.Namespace, event: str, text: str, **fields: Any) -> None:
    """A line on standard error about what was done, or a record where those are asked for."""
    if options.log is None:
        if event == "read":
            print(f"polars-glmm: {text}", file=sys.stderr)  # noqa: T201
        return
    from polars_glmm.logs import tell

    tell(event, text, **fields)


def _columns(options: argparse.Namespace) -> list[str]:
    """The columns that a model uses; none where the question is wrong, as `fit` will say."""
    from polars_glmm.spec.call import Call

    weights = {"trials": options.trials, "offset": options.offset}
    weights |= {"frequency": options.frequency, "precision": options.precision, "residual": options.residual}
    try:
        spec = Call(tuple(options.formulas), options.groups, options.family, options.link, None, **weights).spec()
    except GlmmError:
        return []
    return [*spec.columns(), *(options.by or [])]


def tables(fit: Fit | FitCollection) -> dict[str, pl.DataFrame]:
    """The tidy tables that are written, by file name; of a collection also which fits failed, and why."""
    frames = {
        "fixef": fit.fixef(),
        "varcorr": fit.varcorr(),
        "dispersion": fit.dispersion(),
        "ranef": fit.ranef(),
        "glance": fit.glance(),
    }
    return frames if (status := getattr(fit, "status", None)) is None else {**frames, "status": status()}


def _method(name: str | None, nodes: int | None) -> str | Method | None:
    """The method of `--method` and `--nodes`."""
    if nodes is None:
        return name
    if name not in (None, "agq"):
        msg = f"--nodes {nodes} belongs to --method agq, not to --method {name}."
        raise ModelError(msg)
    from polars_glmm.spec.method import AGQ

    return AGQ(nodes)


def _one_line_formula(error: FormulaError) -> str:
    """A formula error without its second and third line: the marked place is quoted instead."""
    message = str(error).partition("\n")[0]
    marked = error.text[error.start : error.stop if error.stop is not None else error.start + 1]
    return f"{message} (at {marked!r} in {error.text!r})" if error.text and marked else message
