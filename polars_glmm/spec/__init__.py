"""What the user asked, before any data are seen."""
