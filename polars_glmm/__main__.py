"""`python -m polars_glmm`: the command line."""

from __future__ import annotations

from polars_glmm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
