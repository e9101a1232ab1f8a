"""What only many models at once need."""
