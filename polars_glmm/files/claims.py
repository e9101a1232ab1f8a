"""What a Parquet file claims to hold, read by hand before Polars decodes it: a few bytes can claim terabytes.

Parquet's footer and page headers are structs of Thrift's compact protocol (apache/parquet-format, parquet.thrift).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

_MAGIC = b"PAR1"
_DEEPEST_STRUCT, _DEEPEST_SCHEMA, _MOST_COLUMNS = 12, 24, 20_000
_CODECS = frozenset({0, 6})  # uncompressed, zstd: what this package writes
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_2 = 0, 2, 3
_ENCODINGS = frozenset({0, 3, 8})  # plain, runs, places in a dictionary
_ENCODED = {_DATA_PAGE: (2, 3, 4), _DICTIONARY_PAGE: (2,), _DATA_PAGE_2: (4,)}  # the fields that name encodings
_BYTES_A_VALUE = 16  # the widest that a decoded value takes: a view of a text
_ARROW_SCHEMA = b"ARROW:schema"
_RATIO, _ALWAYS = 200, 64 << 20


def check(data: bytes, rows: int | None, most: int) -> bytes:
    """The file, safe to decode: it holds `rows` rows, where they are told, and takes no more than its size allows.

    A file may take 200 times its size once decoded, any file 64 MiB, and none more than `most` bytes.

    What else it tells of Arrow's dtypes is renamed, so that nobody reads it: the manifest has the dtypes.
    Raises ValueError for a file that claims anything else, or whose pages do not lie where it says.
    """
    if len(data) < 12 or data[:4] != _MAGIC or data[-4:] != _MAGIC:
        _refuse("it is no Parquet file")
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if start < 4:
        _refuse("its footer is cut")
    footer = _Thrift(data, start, len(data) - 8).struct()
    _check_schema(_structs(footer, 2))
    groups = _structs(footer, 4)
    counts = [_whole(group, 3) for group in groups]
    claimed = _whole(footer, 3)
    if claimed != sum(counts):
        _refuse(f"it claims {claimed} rows and holds {sum(counts)}")
    if rows is not None and claimed != rows:
        _refuse(f"it claims {claimed} rows, the manifest {rows}")
    budget = min(max(_RATIO * len(data), _ALWAYS), most)
    needed = 0
    for group in groups:
        for chunk in _structs(group, 1):
            if 1 in chunk or 3 not in chunk:
                _refuse("a column lies elsewhere")
            needed += _check_chunk(data, start, chunk[3])
            if needed > budget:
                _refuse(f"decoded it would take more than {budget >> 20} MiB")
    return data[:start] + data[start:].replace(_ARROW_SCHEMA, _ARROW_SCHEMA.swapcase())


def _check_schema(elements: list[dict[int, Any]]) -> None:
    """Refuse a schema that is too wide or too deep for what reads it."""
    if not 0 < len(elements) <= _MOST_COLUMNS:
        _refuse("its schema is too wide")
    open_children: list[int] = []
    for element in elements:
        if len(open_children) > _DEEPEST_SCHEMA:
            _refuse("its schema is too deep")
        children = element.get(5, 0)
        if not isinstance(children, int) or children < 0:
            _refuse("its schema is broken")
        if open_children:
            open_children[-1] -= 1
        open_children.append(children)
        while open_children and open_children[-1] == 0:
            open_children.pop()
    if open_children:
        _refuse("its schema is broken")


def _check_chunk(data: bytes, footer: int, meta: Any) -> int:
    """Bytes that a column chunk takes once decoded; its pages lie one after the other and hold what it claims."""
    if not isinstance(meta, dict) or meta.get(4) not in _CODECS:
        _refuse("a column is compressed in a way that is not written here")
    values, size = _whole(meta, 5), _whole(meta, 7)
    begin = min(_whole(meta, 9), _whole(meta, 11)) if meta.get(11) else _whole(meta, 9)
    end = begin + size
    if begin < len(_MAGIC) or end > footer:
        _refuse("a column lies outside the file")
    found = opened = 0
    for kind, count, uncompressed in _pages(data, begin, end):
        opened += uncompressed
        if kind != _DICTIONARY_PAGE:
            found += count
        elif count > uncompressed:
            _refuse("a dictionary claims more than it holds")
    if found != values or opened > _whole(meta, 6):
        _refuse("a column claims other values than its pages hold")
    return opened + _BYTES_A_VALUE * values


def _pages(data: bytes, place: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Kind, number of values and uncompressed size of each page."""
    while place < end:
        reader = _Thrift(data, place, end)
        header = reader.struct()
        kind = header.get(1)
        own = header.get({_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_2: 8}.get(kind, -1))  # type: ignore[arg-type]
        if not isinstance(own, dict):
            _refuse("a page is of an unknown kind")
        if any(own.get(field) not in _ENCODINGS for field in _ENCODED[kind]):  # type: ignore[index]  # one of the three
            _refuse("a page is encoded in a way that is not written here")
        yield int(kind), _whole(own, 1), _whole(header, 2)  # type: ignore[arg-type]  # one of the three kinds
        place = reader.place + _whole(header, 3)
    if place != end:
        _refuse("a page lies outside its column")


def _structs(struct: dict[int, Any], field: int) -> list[dict[int, Any]]:
    found = struct.get(field, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        _refuse("its footer is broken")
    return found


def _whole(struct: dict[int, Any], field: int) -> int:
    """A number of the footer that cannot be negative."""
    value = struct.get(field)
    if type(value) is not int or value < 0:
        _refuse("its footer is broken")
    return value


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)


class _Thrift:
    """A reader of compact Thrift between two places of the data: structs as dicts by field number."""

    def __init__(self, data: bytes, place: int, end: int) -> None:
        self.data, self.place, self.end = data, place, end

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > _DEEPEST_STRUCT:
            _refuse("its footer is too deep")
        found: dict[int, Any] = {}
        field = 0
        while (head := self._byte()) != 0:
            field = field + (head >> 4) if head >> 4 else self._zigzag()
            found[field] = self._value(head & 15, depth, in_list=False)
        return found

    def _value(self, kind: int, depth: int, *, in_list: bool) -> Any:
        match kind:
            case 1 | 2:
                return self._byte() == 1 if in_list else kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._zigzag()
            case 7:
                return self._take(8)
            case 8:
                return self._take(self._varint())
            case 9 | 10:
                return self._list(depth)
            case 12:
                return self.struct(depth + 1)
        return _refuse("its footer is broken")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        size = head >> 4 if head >> 4 != 15 else self._varint()
        if size > self.end - self.place:  # every value takes a byte at least
            _refuse("its footer is cut")
        if depth > _DEEPEST_STRUCT:
            _refuse("its footer is too deep")
        return [self._value(head & 15, depth + 1, in_list=True) for _ in range(size)]

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, size: int) -> bytes:
        start, self.place = self.place, self.place + size
        if self.place > self.end:
            _refuse("its footer is cut")
        return self.data[start : self.place]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                _refuse("its footer is broken")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
