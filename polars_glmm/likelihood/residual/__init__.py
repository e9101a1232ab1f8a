"""Gaussian models whose residuals are correlated within groups: exact ML and REML."""
