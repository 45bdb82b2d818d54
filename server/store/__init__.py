"""Storage between requests: one SQLite database, in memory or in --data-dir, with tables for each feature."""
