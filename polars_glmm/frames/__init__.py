"""Whose rows: the only room that collects."""
