"""Files that are not what they were when they were scanned, in one sentence on every route.

Polars keeps what a file said of itself when it was scanned. Where it was written over since, a reading stops in the
middle of it, with a panic or an error about the format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl

from polars_glmm.errors import DataChangedError, brief

_OF_FORMAT = re.compile(r"parquet:|of specification|of-spec|fill whole buffer|thrift|page header", re.IGNORECASE)


@contextmanager
def whole_files() -> Iterator[None]:
    """Raise DataChangedError where a reading inside stops in the middle of a file, instead of what Polars says."""
    try:
        yield
    except pl.exceptions.PanicException as error:
        raise _torn("") from error
    except (pl.exceptions.ComputeError, OSError) as error:
        if isinstance(error, FileNotFoundError) or not _OF_FORMAT.search(str(error)):
            raise
        raise _torn(str(error)) from error


def _torn(said: str) -> DataChangedError:
    first = next((f" ({brief(line.strip())})" for line in said.splitlines() if line.strip()), "")
    return DataChangedError(
        f"Polars stopped in the middle of the source{first}, as where a file was written over since it was scanned: "
        f"scan it anew."
    )
