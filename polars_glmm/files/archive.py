"""The zip around the members of a model file: stored, with a digest of each, the same bytes for the same content."""

from __future__ import annotations

import json
import os
import re
import secrets
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import polars as pl

from polars_glmm.errors import ModelFileError
from polars_glmm.memory import memory_limit, readable

FORMAT, SCHEMA = "polars-glmm model", 2
MANIFEST = "manifest.json"
_MEMBER = re.compile(r"manifest\.json|(?:arrays|fixef|varcorr|dispersion|levels_\d{1,4})\.parquet")
_MOST_MEMBERS = 10_000
_LARGEST_MANIFEST = 256 << 20

BROKEN = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, EOFError, AssertionError,
    MemoryError, zipfile.BadZipFile, struct.error, pl.exceptions.PolarsError, pl.exceptions.PanicException,
)  # fmt: skip
"""What reading a file that is none, or that was made to do harm, may raise; RecursionError and NotImplementedError are
RuntimeErrors, those of JSON and of text ValueErrors."""


def write(path: str | os.PathLike[str], manifest: dict[str, Any], members: dict[str, bytes]) -> None:
    """Write a model file."""
    digests = {name: {"bytes": len(data), "sha256": sha256(data).hexdigest()} for name, data in members.items()}
    whole = {"format": FORMAT, "schema": SCHEMA, **manifest, "members": digests}
    text = json.dumps(whole, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > _LARGEST_MANIFEST:
        msg = f"This model takes {readable(len(text))} to describe; {readable(_LARGEST_MANIFEST)} are read again."
        raise ModelFileError(msg)
    with replaced(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {MANIFEST: text, **members}.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the other members, each with the digest that the manifest says.

    Raises ModelFileError for any other file, OSError where there is none; a zip that breaks while it is read raises
    what `zipfile` does.
    """
    data = bounded(path, b"PK")
    if not zipfile.is_zipfile(BytesIO(data)):
        msg = f"{path} is no model file: those are written by fit.write(path)."
        raise ModelFileError(msg)
    with zipfile.ZipFile(BytesIO(data)) as archive:
        entries = archive.infolist()
        _check(entries, len(data))
        members = {entry.filename: archive.read(entry) for entry in entries}
    if MANIFEST not in members:
        _refuse("it has no manifest")
    manifest = json.loads(members.pop(MANIFEST), parse_constant=_refuse)
    _check_head(manifest, path)
    told = {name: own["sha256"] for name, own in manifest["members"].items()}
    if {name: sha256(own).hexdigest() for name, own in members.items()} != told:
        _refuse("its members are not those that were written")
    return manifest, members


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to be written: first beside its place, then moved there, so that none is ever half there."""
    target = Path(path)
    scratch = target.with_name(f".{target.name[:80]}.{secrets.token_hex(4)}")
    try:
        with scratch.open("xb") as file:
            yield file
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def bounded(path: str | os.PathLike[str], magic: bytes) -> bytes:
    """What a file holds; nothing where it does not begin with `magic`, so that what never ends is not read.

    Raises ModelFileError for more than the memory that may be used, OSError where there is no file.
    """
    most = memory_limit(None)
    with Path(path).open("rb") as file:
        if file.read(len(magic)) != magic:
            return b""
        rest = file.read(most)
    if len(rest) == most:
        msg = f"{path} has more than the {readable(most)} of memory that may be used."
        raise ModelFileError(msg)
    return magic + rest


def _check(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Known names, each once, stored as they are, and no larger together than the file."""
    names = [entry.filename for entry in entries]
    if len(names) > _MOST_MEMBERS or len({*names}) < len(names):
        _refuse("its members are not those of a model file")
    for entry in entries:
        if not _MEMBER.fullmatch(entry.filename):
            _refuse(f"it has a member {entry.filename[:80]!r}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            _refuse(f"{entry.filename} is compressed or encrypted")
        if entry.filename == MANIFEST and entry.file_size > _LARGEST_MANIFEST:
            _refuse("its manifest is too large")
    if sum(entry.file_size for entry in entries) > size:
        _refuse("its members overlap")


def _check_head(manifest: Any, path: str | os.PathLike[str]) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or type(manifest.get("schema")) is not int:
        _refuse("its manifest is not that of a model file")
    if manifest["schema"] > SCHEMA:
        msg = (
            f"{path} was written in version {manifest['schema']} of the format, by polars_glmm "
            f"{str(manifest.get('package'))[:20]}; this package reads up to version {SCHEMA}: update it."
        )
        raise ModelFileError(msg)
    if manifest["schema"] < 1:
        _refuse(f"there is no version {manifest['schema']} of the format")


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)
