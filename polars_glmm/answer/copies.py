"""Copies of records in this process, which keep what a pickle leaves behind."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self


class KeptWhole:
    """A frozen record whose copies hold all of its fields, rows too, where its pickles do not."""

    def __copy__(self) -> Self:
        return type(self)(**{one.name: getattr(self, one.name) for one in fields(self)})  # type: ignore[arg-type]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        own = {one.name: deepcopy(getattr(self, one.name), memo) for one in fields(self)}  # type: ignore[arg-type]
        return type(self)(**own)
