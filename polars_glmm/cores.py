"""How many cores this process may use, and how many threads are started for them."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_QUOTA = "/sys/fs/cgroup/cpu.max"
_QUOTA_V1, _PERIOD_V1 = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"


_MOST_WORKERS = 8  # row blocks of one pass gain little from more


def workers(asked: int) -> int:
    """Threads for row blocks: as asked, or with 0 one for each usable core, at most 8."""
    return asked or min(usable_cores(), _MOST_WORKERS)


def usable_cores() -> int:
    """Cores of the machine, less those that the process is kept from by its affinity or its container's quota."""
    return min((count for count in (_affinity(), _quota(_QUOTA), os.cpu_count()) if count), default=1)


def _affinity() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # no such question on this system
        return None


@cache
def _quota(file: str) -> int | None:
    """Microseconds of processor time per period, as whole cores; None where there is no limit. Read once."""
    try:
        if Path(file).exists():
            quota, period = Path(file).read_text(encoding="ascii").split()
        else:
            quota, period = (Path(path).read_text(encoding="ascii") for path in (_QUOTA_V1, _PERIOD_V1))
        return max(1, int(quota) // int(period)) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no container, or "max"
        return None
