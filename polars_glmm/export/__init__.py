"""Fits as objects of other packages, each imported when it is asked for."""
