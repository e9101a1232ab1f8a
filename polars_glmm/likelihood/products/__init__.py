"""Gaussian models through cross-products."""
