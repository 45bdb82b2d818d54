"""Counts of a generation: tokens and times of each choice and of all, and the use of the caller's limits."""
