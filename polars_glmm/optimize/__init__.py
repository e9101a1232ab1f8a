"""An objective → its minimum; no statistics."""
