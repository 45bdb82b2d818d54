"""Persistent storage: one SQLite database, in --data-dir or in memory, with tables for each feature."""
