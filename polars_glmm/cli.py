"""The command line: `polars-glmm fit DATA "FORMULA" …` reads a file, prints the summary, writes the tidy tables.

`polars-glmm predict MODEL DATA` predicts by a model that `fit … --save MODEL` wrote; `confint`, `means` and `plot` ask
it more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

import polars as pl

from polars_glmm.cli_files import SINKS, WRITERS, flat, read, what_was_read, write
from polars_glmm.cli_questions import add_nulls, add_questions, confint, means, plot
from polars_glmm.errors import DatasetError, FitWarning, FormulaError, GlmmError, ModelError, enumerate_names

if TYPE_CHECKING:
    from polars_glmm.result import Fit, FitCollection
    from polars_glmm.spec.method import Method
    from polars_glmm.typing import MethodName

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 after one line on standard error."""
    options = _parser().parse_args(arguments)
    try:
        VERBS[options.verb](options)
    except FormulaError as error:
        return _complain(_one_line_formula(error))
    except (GlmmError, pl.exceptions.PolarsError, OSError) as error:
        return _complain(str(error))
    return 0


def _fit(options: argparse.Namespace) -> None:
    """`fit`: every check that needs no data first, then the model, the summary and the tables."""
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        msg = f"--out {options.out}: this is a file; name a directory."
        raise DatasetError(msg)
    if options.save is not None and not options.save.absolute().parent.is_dir():
        msg = f"--save {options.save}: there is no such folder."
        raise DatasetError(msg)
    method = _method(options.method, options.nodes)
    frame = read(options.data, options.null_values)
    import polars_glmm  # numerics are imported only once there is something to fit

    said = what_was_read(options.data, frame, _columns(options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # the summary prints the notes
        fit = polars_glmm.fit(
            frame,
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
        )
    if options.out is not None:
        write(tables(fit), options.out, options.format)
    if options.save is not None:
        fit.write(options.save)
    if said:
        print(f"polars-glmm: {said}", file=sys.stderr)  # noqa: T201
    print(fit)  # noqa: T201  the purpose of the command
    if isinstance(fit, polars_glmm.FitCollection):
        print(fit.status())  # noqa: T201


def _predict(options: argparse.Namespace) -> None:
    """`predict`: the rows of a file with the prediction of a saved model beside them, to a file or as csv to print."""
    if options.out is not None and (ending := options.out.suffix.lower()) not in SINKS:
        msg = f"--out {options.out}: the suffix {ending!r} says no format; known are {enumerate_names([*SINKS])}."
        raise DatasetError(msg)
    frame = read(options.data, options.null_values)
    import polars_glmm

    model = polars_glmm.read_fit(options.model)
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
        return
    with tempfile.TemporaryDirectory(prefix=".glmm-", dir=options.out.absolute().parent) as scratch:
        path = Path(scratch) / options.out.name
        SINKS[ending](predicted, path)
        path.replace(options.out)


VERBS: dict[str, Callable[[argparse.Namespace], None]] = {
    "fit": _fit, "predict": _predict, "confint": confint, "means": means, "plot": plot,
}  # fmt: skip


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


def _complain(message: str) -> int:
    """Print one line to standard error; returns the exit code."""
    line = " ".join(message.split())
    print(f"polars-glmm: error: {line}", file=sys.stderr)  # noqa: T201
    return BAD_INPUT


class _Arguments(argparse.ArgumentParser):
    """Arguments as argparse reads them, mistakes as one line."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(_complain(f"{message} (see {self.prog} --help)"))


def _parser() -> argparse.ArgumentParser:
    """The arguments: names and meanings as those of `fit`."""
    parser = _Arguments(prog="polars-glmm", description="Mixed-effects models on Polars frames.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    fit = verbs.add_parser(
        "fit",
        help="fit a model, print its summary, write its tables",
        description="Fit a model to a file or to a shipped data set, print the summary, and write the tidy tables.",
    )
    fit.add_argument("data", metavar="DATA", help="csv, parquet, ipc or ndjson file (by suffix), or dataset:NAME")
    fit.add_argument(
        "formulas", metavar="FORMULA", nargs="+", help='"y ~ x + (1 | g)"; further ones name a parameter: "phi ~ x"'
    )
    add = fit.add_argument
    add("--groups", action="append", metavar="NAME", help="grouping factor: adds (1 | NAME); may be repeated")
    add(
        "--family",
        default="gaussian",
        help="gaussian, binomial, poisson, gamma, beta …; a wrong name lists them all",
    )
    add("--link", help="link of the mean; each family has a default")
    add("--method", help="reml, ml, laplace or agq")
    add("--nodes", type=int, help="quadrature points per random effect, for --method agq")
    add("--trials", metavar="COLUMN", help="binomial trials; the response is the number of successes")
    add("--offset", metavar="COLUMN", help="added to the linear predictor")
    add("--frequency", metavar="COLUMN", help="whole numbers: the row stands for that many identical rows")
    add("--precision", metavar="COLUMN", help="the variance of the row is divided by it")
    add("--residual", metavar="TERM", help="correlation of residuals within groups, as 'ar1(time | id)'")
    add("--by", action="append", metavar="COLUMN", help="one model per value; may be repeated")
    add_nulls(add)
    add("--out", type=Path, metavar="DIR", help="write fixef, varcorr, dispersion, ranef and glance there")
    add("--format", choices=sorted(WRITERS), default="parquet", help="format of those tables (default: parquet)")
    add("--save", type=Path, metavar="MODEL", help="write the model there, for polars-glmm predict and read_fit")
    predict = verbs.add_parser(
        "predict",
        help="predict by a saved model",
        description="Predict the rows of a file by a model that fit --save wrote; print csv, or write a file.",
    )
    add = predict.add_argument
    add("model", type=Path, metavar="MODEL", help="what fit --save wrote")
    add("data", metavar="DATA", help="csv, parquet, ipc or ndjson file (by suffix), or dataset:NAME")
    add("--out", type=Path, metavar="FILE", help="write there (csv, parquet, ipc or ndjson, by suffix)")
    add("--kind", choices=("response", "link", "mu", "phi", "zi", "zero"), default="response", help="what is predicted")
    add("--random", choices=("all", "none"), default="all", help="with the random effects of known levels, or without")
    add("--new-levels", choices=("error", "zero", "null"), default="error", help="what a level not seen before gets")
    add("--interval", action="store_true", help="with confidence limits")
    add("--conf-level", type=float, default=0.95, metavar="SHARE", help="of the limits (default: 0.95)")
    add("--name", default="prediction", metavar="COLUMN", help="of the prediction (default: prediction)")
    add_nulls(add)
    add_questions(verbs)
    return parser
