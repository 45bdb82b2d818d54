"""Processes that headrace starts: their environment, lifetime, logs, memory, and frames on a socket to them."""
