"""A digest of what a table holds, which does not depend on how a file lays it out."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import polars as pl

from polars_glmm.files import dtypes


def digest(text: str, table: pl.DataFrame) -> str:
    """SHA-256 of a text and of names, dtypes and values of a table; equal tables of one dtype have equal ones."""
    whole = sha256(text.encode())
    for column in table:
        whole.update(repr([column.name, dtypes.encode(column.dtype), len(column)]).encode())
        for part in _parts(dtypes.to_stored(column)):
            whole.update(part)
    return whole.hexdigest()


def _parts(column: pl.Series) -> Iterator[bytes]:
    """Bytes that tell two plain columns of one dtype and length apart: what is missing, how long values are, values."""
    yield column.is_null().to_numpy().tobytes()
    match column.dtype:
        case pl.String():
            yield column.str.len_bytes().fill_null(0).to_numpy().tobytes()
            yield "".join(column.drop_nulls().to_list()).encode()
        case pl.List():
            yield column.list.len().fill_null(0).to_numpy().tobytes()
            yield from _parts(column.filter(column.list.len() > 0).explode(empty_as_null=True))
        case kind if kind.is_float() or kind.is_integer():
            yield column.fill_null(0).to_numpy().tobytes()
        case _:
            yield repr(column.to_list()).encode()
