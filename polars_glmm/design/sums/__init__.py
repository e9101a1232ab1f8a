"""Learned by aggregation: sums instead of rows."""
