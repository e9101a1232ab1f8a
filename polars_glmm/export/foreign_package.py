"""Packages that are there or not."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from polars_glmm.errors import ModelError


def package(names: tuple[str, ...], what: str, extra: str) -> Any:
    """The first of these packages that is installed. Raises ModelError with what to install where none is."""
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    msg = f"{what} needs the package {names[0]}: pip install 'polars-glmm[{extra}]'."
    raise ModelError(msg)
