"""How much memory there is, and bytes as people read them."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_SHARE = 0.5
"""Of the machine's memory, what a fit may use when nobody says: others work there too."""
_FALLBACK = 8 << 30
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_limit(asked: int | None) -> int:
    """Bytes a fit may use: as asked, or half of what the machine (or its container) has."""
    if asked is not None:
        return asked
    return _own_limit()


@cache  # three files and a question to the system, asked several times in a fit of milliseconds
def _own_limit() -> int:
    found = [_physical(), *map(_container, _CGROUPS)]
    return int(_SHARE * min((size for size in found if size is not None), default=_FALLBACK))


def readable(size: float) -> str:
    """1536 as '1.5 KiB'."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return None


def _container(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or "max"
        return None
