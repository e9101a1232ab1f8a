"""Rows that stay with workers: learned by queries, kept in parts of whole levels."""
