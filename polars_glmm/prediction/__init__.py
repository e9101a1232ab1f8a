"""Fit + frame → the same kind of frame: predictions, joins of random effects, residuals, simulated responses."""
