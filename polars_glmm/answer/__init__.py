"""What fits found: records without verbs, which tables and predictions read."""
