"""Files of fits: a zip of a manifest and Parquet tables that executes nothing and is checked before it is decoded."""
