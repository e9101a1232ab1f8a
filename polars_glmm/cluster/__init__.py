"""Clusters whose workers hold rows; the libraries of clusters are imported here only, and late."""
