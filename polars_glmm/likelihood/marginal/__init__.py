"""Laplace and quadrature over rows."""
