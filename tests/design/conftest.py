"""Lets the tests of this room import their own modules: the oracle, and the list of intended differences from it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
