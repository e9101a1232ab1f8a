"""Arrays and factorisations; no statistics."""
