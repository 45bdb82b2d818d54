"""Accounting of a generation: tokens and times of each choice and in total, and the use of the caller's rate limits."""
