"""Reports: several fits side by side as one table of text, and small writers of it."""
