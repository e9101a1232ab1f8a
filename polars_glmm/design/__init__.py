"""The question met with data: what is learned, and the columns it makes."""
