"""Frozen records as JSON and back: what is read is checked against the annotations of the record's fields.

A record is an object whose "record" names its class, and only classes that the reader expects are made. Arrays are kept
elsewhere, and a number that JSON has no word for is {"float": "inf"}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite, isnan
from types import UnionType
from typing import Any, Literal, NoReturn, TypeAlias, Union, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

TAG = "record"
_NUMBERS = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


Keep: TypeAlias = Callable[[str, npt.NDArray[Any]], int]
"""Keeps an array under a name; gives its place."""
Fetch: TypeAlias = Callable[[int], npt.NDArray[Any]]
"""The array at a place."""


def plain(value: Any, keep: Keep | None = None, name: str = "") -> Any:
    """A value of records, tuples, mappings by text, numbers, texts and arrays as JSON.

    keep   takes the arrays, named by the way to them through the fields  Raises TypeError for anything else.
    """
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case float() | np.floating():
            number = float(value)
            return number if isfinite(number) else {"float": repr(number)}
        case np.bool_() | np.integer():
            return value.item()
        case np.ndarray() if keep is not None:
            return {"array": keep(name, value)}
        case Mapping():
            return {_text(key): plain(one, keep, f"{name}.{key}") for key, one in value.items()}
    kind: Any = type(value)
    if (slots := _slots(kind)) is not None:
        named = {one: plain(getattr(value, one), keep, f"{name}.{one}".lstrip(".")) for one in slots}
        return {TAG: kind.__name__, **named}
    if isinstance(value, tuple):
        return [plain(one, keep, f"{name}.{k}") for k, one in enumerate(value)]
    msg = f"{name or 'a value'} is a {type(value).__name__}, which has no place in a file"
    raise TypeError(msg)


class RecordReader:
    """Makes values of JSON as an annotation says.

    kinds   classes that may stand where an annotation names what they have in common, such as Node
    """

    def __init__(self, kinds: Iterable[type] = (), fetch: Fetch | None = None) -> None:
        self.kinds = {kind.__name__: kind for kind in kinds}
        self.fetch = fetch

    def read(self, text: Any, hint: Any, name: str = "") -> Any:
        """The value. Raises ValueError where the JSON is not what the annotation says."""
        hint = _opened(hint)
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in (Union, UnionType):
            return self._first(text, arguments, name)
        if origin is Literal:
            if not isinstance(text, str) or text not in arguments:
                _refuse(name, text)
            return text
        if origin is tuple:
            return self._tuple(text, arguments, name)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            if not isinstance(text, dict):
                _refuse(name, text)
            return {key: self.read(one, arguments[1], f"{name}.{key}") for key, one in text.items()}
        if origin is np.ndarray:
            return self._array(text, np.dtype(get_args(arguments[1])[0]), name)
        if hint is Any:
            return _number(text, name) if isinstance(text, dict | float) else self._scalar(text, name)
        if hint is float:
            return _number(text, name)
        if hint in (int, str, bool, type(None), None):
            wanted = type(None) if hint is None else hint
            if type(text) is not wanted or (isinstance(text, int) and abs(text) >= 1 << 63):
                _refuse(name, text)
            return text
        return self._record(text, hint, name)

    def _first(self, text: Any, options: tuple[Any, ...], name: str) -> Any:
        """By the first of several annotations that fits; the error is that of the last, which says most."""
        if text is None:
            if type(None) not in options:
                _refuse(name, text)
            return None
        options = tuple(option for option in options if option is not type(None))
        for option in options[:-1]:
            try:
                return self.read(text, option, name)
            except ValueError:
                continue
        return self.read(text, options[-1], name)

    def _tuple(self, text: Any, arguments: tuple[Any, ...], name: str) -> tuple[Any, ...]:
        if not isinstance(text, list):
            _refuse(name, text)
        if len(arguments) == 2 and arguments[1] is ...:
            return tuple(self.read(one, arguments[0], name) for one in text)
        if len(text) != len(arguments):
            _refuse(name, text)
        return tuple(self.read(one, hint, name) for one, hint in zip(text, arguments, strict=True))

    def _array(self, text: Any, dtype: np.dtype[Any], name: str) -> npt.NDArray[Any]:
        if self.fetch is None or not isinstance(text, dict) or text.keys() != {"array"}:
            _refuse(name, text)
        array = self.fetch(self.read(text["array"], int, name))
        if array.dtype != dtype:
            _refuse(name, str(array.dtype))
        return array

    def _record(self, text: Any, hint: Any, name: str) -> Any:
        if not isinstance(text, dict) or not isinstance(text.get(TAG), str):
            _refuse(name, text)
        kind = hint if text[TAG] == getattr(hint, "__name__", "") else self.kinds.get(text[TAG])
        if kind is None or not (kind is hint or issubclass(kind, hint)):
            _refuse(name, text[TAG])
        slots = _slots(kind) or {}
        given = {key: one for key, one in text.items() if key != TAG}
        if not given.keys() <= slots.keys():
            _refuse(name, sorted(given.keys() - slots.keys()))
        if lacking := [key for key, needed in slots.items() if needed and key not in given]:
            msg = f"{name or text[TAG]}: {lacking[0]} is missing"
            raise ValueError(msg)
        hints = _hints(kind)
        return kind(**{key: self.read(one, hints[key], f"{name}.{key}".lstrip(".")) for key, one in given.items()})

    def _scalar(self, text: Any, name: str) -> Any:
        if not (text is None or isinstance(text, str | bool | int)):
            _refuse(name, text)
        return text


def _opened(hint: Any) -> Any:
    """What an alias made by the statement `type` stands for, as numpy's NDArray is one from 2.5 on."""
    origin = get_origin(hint)
    return origin.__value__[get_args(hint)] if hasattr(origin, "__value__") else hint


@cache
def _slots(kind: Any) -> dict[str, bool] | None:
    """The fields that make a record, and whether it needs them; None for what is no record."""
    if is_dataclass(kind):
        made = [one for one in fields(kind) if one.init]
        return {one.name: one.default is MISSING and one.default_factory is MISSING for one in made}
    if issubclass(kind, tuple) and hasattr(kind, "_field_defaults"):
        return {one: one not in kind._field_defaults for one in kind._fields}
    return None


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _number(text: Any, name: str) -> float:
    if isinstance(text, dict) and text.keys() == {"float"} and isinstance(text["float"], str):
        if text["float"] not in _NUMBERS:
            _refuse(name, text)
        return _NUMBERS[text["float"]]
    if isinstance(text, bool) or not isinstance(text, int | float) or isnan(text):
        _refuse(name, text)
    return float(text)


def _text(key: Any) -> str:
    if not isinstance(key, str):
        msg = f"a mapping by {type(key).__name__} has no place in a file"
        raise TypeError(msg)
    return key


def _refuse(name: str, text: Any) -> NoReturn:
    msg = f"{name or 'the content'} cannot be {str(text)[:60]!r}"
    raise ValueError(msg)
