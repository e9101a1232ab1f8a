"""The `groups=` shorthand for random effects: names and tuples of names, read as terms of a formula."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from polars_glmm.errors import ModelError

from .members import MEMBERS, Members, members_of
from .parser import parse_terms
from .syntax import Bar, render
from .terms import RandomTerm, design_terms

Groups: TypeAlias = "str | tuple[str, ...] | Mapping[str | tuple[str, ...], str] | Sequence[str | tuple[str, ...]]"
"""What groups= takes: a column, a tuple of columns for one composite key, a list of factors, or {factor: design}."""


@dataclass(frozen=True, slots=True)
class Shorthand:
    """One entry of groups=: a name that may be a column or a nesting, and the design on it.

    name    as given, or the columns of a composite key
    design  formula text of the design, "1" for an intercept
    """

    name: str | tuple[str, ...]
    design: str

    @property
    def open(self) -> bool:
        """Whether only the frame can tell a column of this name from columns joined by '/' or ':'."""
        return isinstance(self.name, str) and any(mark in self.name for mark in "/:") and not self.members

    @property
    def members(self) -> Members | None:
        """The slots of a row, where the name is mm(…) as in a formula."""
        if not isinstance(self.name, str) or not self.name.startswith(f"{MEMBERS}("):
            return None
        node = parse_terms(f"1 | {self.name}").right
        return members_of(node.right) if isinstance(node, Bar) else None

    def terms(self, frame_columns: Collection[str] = ()) -> list[RandomTerm]:
        """The random terms meant, given the frame's columns: a column of exactly this name always wins."""
        tree = parse_terms(self.design)
        node = tree.right
        structure = "us"
        if isinstance(node, Bar):
            msg = f"groups= {self.name!r}: the design {self.design!r} holds a bar; give columns alone, as in '1 + x'."
            raise ModelError(msg)
        fixed = design_terms(tree, node)
        written = render(node, top=False)
        if (members := self.members) is not None:
            return [RandomTerm(fixed, (members.name,), structure, written, members=members)]
        return [RandomTerm(fixed, keys, structure, written) for keys in self._keys(frame_columns)]

    def _keys(self, frame_columns: Collection[str]) -> list[tuple[str, ...]]:
        if isinstance(self.name, tuple):
            return [tuple(dict.fromkeys(self.name))]
        if self.name in frame_columns or not self.open:
            return [(self.name,)]
        outer: tuple[str, ...] = ()
        keys = []
        for level in self.name.split("/"):
            names = [name.strip() for name in level.split(":")]
            if not all(names):
                msg = f"groups= {self.name!r}: a name is missing beside '/' or ':'."
                raise ModelError(msg)
            outer = tuple(dict.fromkeys((*outer, *names)))
            keys.append(outer)
        return keys


def read_groups(groups: Groups | None) -> tuple[Shorthand, ...]:
    """groups= as entries. Raises ModelError for anything but names, tuples of names, and lists or a mapping of them."""
    if groups is None:
        return ()
    if isinstance(groups, str | tuple):
        return (_entry(groups, "1"),)
    if isinstance(groups, Mapping):
        for name, design in groups.items():
            if not isinstance(design, str):
                msg = f"groups= {{{name!r}: {design!r}}}: the design is text such as '1 + x'."
                raise ModelError(msg)
        return tuple(_entry(name, design) for name, design in groups.items())
    if isinstance(groups, Sequence):
        entries: list[Shorthand] = []
        for entry in groups:
            entries += read_groups(entry) if isinstance(entry, Mapping) else [_entry(entry, "1")]
        return tuple(entries)
    msg = f"groups={groups!r}: give a column name, a list of names, a tuple for one composite key, or {{name: design}}."
    raise ModelError(msg)


def _entry(name: object, design: str) -> Shorthand:
    if isinstance(name, tuple):
        if not name or not all(isinstance(part, str) and part for part in name):
            msg = f"groups= {name!r}: a composite key is a tuple of column names."
            raise ModelError(msg)
        return Shorthand(name, design)
    if not isinstance(name, str):
        msg = f"groups= names columns by strings, not {type(name).__name__}; make a column of an expression first."
        raise ModelError(msg)
    if not name.strip():
        msg = "groups= holds an empty name."
        raise ModelError(msg)
    if "|" in name:
        msg = f"groups= {name!r}: a bar belongs in the formula; here stand column names, or {{name: '1 + x'}}."
        raise ModelError(msg)
    return Shorthand(name, design)
