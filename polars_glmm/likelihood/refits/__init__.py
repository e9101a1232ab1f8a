"""One design with many responses, or many resamples of its groups, fitted again: together where that is possible."""
