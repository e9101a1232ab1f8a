"""A formula's columns as trees, with what data taught inside."""
