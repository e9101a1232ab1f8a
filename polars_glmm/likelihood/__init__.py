"""Data and parameters → log-likelihood, its gradient, and the estimate at its optimum."""
