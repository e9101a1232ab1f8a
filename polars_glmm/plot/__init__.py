"""Pictures: a small frame of each, and the Altair chart of that frame; no picture computes, none holds the rows."""
