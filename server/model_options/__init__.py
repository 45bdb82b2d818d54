"""Options of several models: which there are, what each has of its own, and when they are loaded."""
