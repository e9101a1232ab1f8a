"""Text in terminal cells: how wide it is, how it is padded, wrapped, and cut so that labels stay distinct."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from unicodedata import category, combining, east_asian_width

CUT = "…"
_JOINER, _EMOJI_LOOK = "\u200d", "\ufe0f"
_PICTURES: dict[int, int | None] = {
    **{code: 0x2400 + code for code in range(32)},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)]),
}
"""What stands for characters that do something: control characters, and turns of direction."""
_SHARES = (0.5, 0.3, 0.7, 0.15, 0.85)
"""Shares of a cut label that its beginning may take, the first that keeps labels apart."""


def clusters(text: str) -> Iterator[tuple[str, int]]:
    """What is drawn as one, and its cells: a character with its marks, emoji joined by U+200D.

    East Asian wide and fullwidth characters take two cells (Unicode Standard Annex 11), marks and format characters
    none; a character followed by the emoji selector U+FE0F takes two.
    """
    drawn, size = "", 0
    for char in text:
        if drawn and drawn.endswith(_JOINER):
            drawn, size = drawn + char, max(size, _cells(char))
        elif drawn and _cells(char) == 0:
            drawn, size = drawn + char, (2 if char == _EMOJI_LOOK else size)
        else:
            if drawn:
                yield drawn, size
            drawn, size = char, _cells(char)
    if drawn:
        yield drawn, size


def _cells(char: str) -> int:
    if combining(char) or category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if east_asian_width(char) in "WF" or "\U0001f3fb" <= char <= "\U0001f3ff" else 1


def width(text: str) -> int:
    """Cells that a text takes in a terminal."""
    return len(text) if text.isascii() else sum(size for _, size in clusters(text))


def visible(line: str) -> str:
    """A line that does nothing to a terminal, in as many cells: names and labels may hold anything.

    Control characters (a line break, the beginning of an escape sequence) become their pictures (Unicode block U+2400);
    characters that turn the direction of what follows (U+202A to U+202E, U+2066 to U+2069) are left out.
    """
    return line if line.isprintable() else line.translate(_PICTURES)


def ljust(text: str, room: int) -> str:
    """Padded on the right to `room` cells."""
    return text + " " * (room - width(text))


def rjust(text: str, room: int) -> str:
    """Padded on the left to `room` cells."""
    return " " * (room - width(text)) + text


def wrap(text: str, room: int, first: str = "", rest: str = "") -> list[str]:
    """Lines of at most `room` cells, broken at spaces, and within a word only where it is longer than a line."""
    if text.isascii() or width(text) == len(text):
        return textwrap.wrap(text, room, initial_indent=first, subsequent_indent=rest)
    lines: list[str] = []
    line = first
    empty = True
    for word in text.split():
        if not empty and width(line) + 1 + width(word) <= room:
            line = f"{line} {word}"
            continue
        if not empty:
            lines.append(line)
            line = rest
        for drawn, size in clusters(word):
            if width(line) + size > room:
                lines.append(line)
                line = rest
            line += drawn
        empty = False
    return [*lines, line] if not empty else lines


def shorten(text: str, room: int, share: float = 0.5) -> str:
    """Cut in the middle: the names of levels and columns differ at their ends. `share` of the room is the beginning."""
    if width(text) <= room:
        return text
    head = max(int(room * share), 1)
    parts = list(clusters(text))
    return _fill(parts, head) + CUT + _fill(parts[::-1], room - 1 - head, backwards=True)


def _fill(parts: Sequence[tuple[str, int]], room: int, *, backwards: bool = False) -> str:
    """As many of the parts as the room holds."""
    taken: list[str] = []
    for drawn, size in parts:
        room -= size
        if room < 0:
            break
        taken.append(drawn)
    return "".join(reversed(taken) if backwards else taken)


def shorten_all(texts: Sequence[str], room: int) -> tuple[str, ...]:
    """Each text in at most `room` cells; different texts stay different.

    Tried in turn: a cut in the middle, a cut of every part of an interaction, cuts elsewhere; where all of them make
    two labels alike, those get a number.
    """
    different = list(dict.fromkeys(texts))
    found = dict(zip(different, _apart(different, room), strict=True))
    return tuple(found[text] for text in texts)


def _apart(texts: list[str], room: int) -> list[str]:
    """Short forms of different texts, all different."""
    best = [shorten(text, room) for text in texts]
    for other in (_by_parts(texts, room), *([shorten(text, room, share) for text in texts] for share in _SHARES[1:])):
        if not (alike := _alike(best)):
            return best
        # Only what is alike is cut in another way, and only where that helps.
        tried = [new if k in alike else old for k, (old, new) in enumerate(zip(best, other, strict=True))]
        if len(_alike(tried)) < len(alike):
            best = tried
    alike, taken = _alike(best), set(best)
    for k in sorted(alike):
        number = 1
        while (label := _numbered(texts[k], number, room)) in taken:
            number += 1
        best[k] = label
        taken.add(label)
    return best


def _alike(texts: Sequence[str]) -> set[int]:
    counts = Counter(texts)
    return {k for k, text in enumerate(texts) if counts[text] > 1}


def _numbered(text: str, number: int, room: int) -> str:
    mark = f"{CUT}#{number}"
    return _fill(list(clusters(text)), room - width(mark)) + mark


def _by_parts(texts: Sequence[str], room: int) -> list[str]:
    """The parts of an interaction cut to equal shares of the room, short ones whole."""
    return [
        _cut_parts(text.split(":"), room) if ":" in text and width(text) > room else shorten(text, room)
        for text in texts
    ]


def _cut_parts(parts: list[str], room: int) -> str:
    left, cut = room - (len(parts) - 1), dict.fromkeys(range(len(parts)), "")
    waiting = sorted(range(len(parts)), key=lambda k: width(parts[k]))
    for done, k in enumerate(waiting):
        own = left // (len(parts) - done)
        if own < 2:
            return shorten(":".join(parts), room)
        cut[k] = shorten(parts[k], own)
        left -= width(cut[k])
    return ":".join(cut.values())
