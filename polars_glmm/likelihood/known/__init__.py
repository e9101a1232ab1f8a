"""A likelihood whose parameters are known: of other rows, of single groups; nothing is searched."""
