"""Rows of many models, by key."""
