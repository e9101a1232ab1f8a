"""Rows on disk: learned, written and read in parts."""
