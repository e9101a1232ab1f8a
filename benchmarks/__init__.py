"""Times of polars_glmm beside other packages; see README.md."""
