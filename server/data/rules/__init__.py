"""Rules of preparation: which lines are removed for their quality."""
